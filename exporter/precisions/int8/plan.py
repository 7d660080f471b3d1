"""Plan a quantization from a float32 graph and calibration text: the scales, and the MatMuls that use them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exporter.calibration import CalibrationSet, TokenBatches
from exporter.errors import BuildError, InputError
from exporter.graph import Graph
from exporter.machine import tool_versions
from exporter.precisions.int8.calibrate import Calibrated, calibrate
from exporter.precisions.int8.embedding import quantize_tables
from exporter.precisions.int8.emulator import Batch, Emulator
from exporter.precisions.int8.judge import Judge, Ledger, Loss, loss_between, token_ids_of
from exporter.precisions.int8.matmuls import MatMul, attention_macs
from exporter.precisions.int8.observer import observe
from exporter.precisions.int8.scheme import Array, Quantization, Scheme
from exporter.precisions.int8.search import MAX_EXCLUDED, Assignment, Costs, Found, search
from exporter.recipe import Gate
from exporter.runtime.tokens import IntArray

TABLE_BUDGET = 0.1  # share of the gate's budget that an int8 table of word vectors may use
PART_STEP = 4  # every fourth held-out sentence: for the sensitivity of a single MatMul, and for a first look at methods
QUICK_STEP = 16  # for sensitivities that decide nothing
_TOOLS = ("korsbert", "onnxruntime", "numpy")

Growth = tuple[tuple[MatMul, float], ...]


@dataclass(frozen=True)
class Request:
    """What a quantization is to meet.

    Attributes:
        scheme: The target's types.
        calibration: Text to take scales from, and text to judge them by. The probes are not in it.
        gate: The bounds.
        exclude: Prefixes of the names of modules that are not quantized.
        ledger: Where results are kept while the search goes on, or None.
    """

    scheme: Scheme
    calibration: CalibrationSet
    gate: Gate
    exclude: tuple[str, ...] = ()
    ledger: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A quantization that is ready to be built.

    Attributes:
        graph: The float32 graph. Its table of word vectors is in int8 if parity allows it.
        matmuls: The MatMuls that can be quantized.
        request: What it was to meet.
        calibrated: Scales and integers, and the method that gave them.
        found: The outcome of the search.
        table: Loss of an int8 table of word vectors alone; None if the target or the graph has no such table.
        table_kept: Whether the graph has it: it must use little of the gate's budget.
        ranges: (low, high) of each activation over the calibration text, by name.
        reference: (held-out sentences, dimension) float32, vectors of the float32 graph, in the order of the batches.
        growth: By ``Assignment.excluded`` of each candidate, (MatMul, relative error of what it reads) at
            the beginning of each layer: how the error grows from layer to layer, or from use to use of a shared one.
        ledger: Results of this search, and those of an interrupted one that were reused.
    """

    graph: Graph
    matmuls: tuple[MatMul, ...]
    request: Request
    calibrated: Calibrated
    found: Found
    table: Loss | None
    table_kept: bool
    ranges: Mapping[str, tuple[float, float]]
    reference: Array
    growth: Mapping[frozenset[str], Growth]
    ledger: Ledger

    def summary(self) -> str:
        """Return the outcome in one line."""
        resumed = f", {self.ledger.resumed} results of an interrupted search" if self.ledger.resumed else ""
        if self.ledger.damaged:
            resumed = ", the results of an interrupted search could not be read and were measured again"
        return f"{len(self.matmuls)} MatMuls, {self.calibrated.trial.name}{resumed}"

    def loss_of(self, run: Callable[[IntArray, IntArray], Array]) -> Loss:
        """Return what an engine loses on the held-out calibration text, by its own vectors.

        Args:
            run: The engine: ``input_ids`` and ``attention_mask`` (batch, sequence) to (batch, dimension) float32.
        """
        batches = list(self.request.calibration.held_out)
        found = np.concatenate([run(*batch) for batch in batches])
        return loss_between(self.reference, found, token_ids_of(batches))

    def emulate(self, assignment: Assignment, batches: Iterable[Batch]) -> Array:
        """Return what an assignment should answer: (rows, dimension) float32, in the order of the batches."""
        on = frozenset(matmul.node for matmul in self.matmuls) - assignment.excluded
        return Emulator(self.graph, self.request.scheme).run(batches, self.calibrated.quantization, on)

    def rounded_up(self) -> Plan:
        """Return this plan with the last digit of every weight's scale changed: as good a rounding of the same plan."""
        quantization = self.calibrated.quantization
        weights = {
            name: replace(weight, scales=np.nextafter(weight.scales, np.float32(np.inf)))
            for name, weight in quantization.weights.items()
        }
        return replace(self, calibrated=replace(self.calibrated, quantization=replace(quantization, weights=weights)))


Progress = Callable[[str], None]


def make_plan(graph: Graph, request: Request, progress: Progress = lambda _: None) -> Plan:
    """Calibrate, and search for the cheapest assignment that passes the gate.

    Args:
        graph: The folded float32 graph.
        request: What the quantization is to meet.
        progress: Called with each step.

    Raises:
        InputError: ``exclude`` names no MatMul of this graph, or half of the work or more.
        BuildError: The graph has no MatMul that can be quantized.
    """
    ledger = Ledger(request.ledger, _identity(graph, request))
    held_out = list(request.calibration.held_out)
    progress("float32")
    emulator = Emulator(graph, request.scheme)
    if not emulator.matmuls:
        raise BuildError("the graph multiplies no activation by a stored weight", next_step="another precision")
    by_recipe = _excluded_by_name(emulator.matmuls, request.exclude)
    reference = emulator.run(held_out)
    graph, emulator, table, table_kept = _with_small_table(graph, emulator, held_out, reference, request)
    judge = Judge(emulator, held_out, reference, ledger)
    part_judge, quick_judge = (
        Judge(emulator, part, emulator.run(part), ledger)
        for part in (_every(step, request.calibration.held_out) for step in (PART_STEP, QUICK_STEP))
    )

    seen = observe(emulator, request.calibration.fit, lambda done: progress(f"calibration: {done}"))
    calibrated = calibrate(
        emulator, request.scheme, seen, part_judge, judge, request.gate, lambda step: progress(f"calibration: {step}")
    )
    costs = Costs(emulator.matmuls, attention_macs(graph, _tokens(held_out)), request.scheme.speedup)
    found = search(
        calibrated,
        part_judge,
        judge,
        request.gate,
        costs,
        by_recipe,
        lambda step: progress(f"search: {step}"),
        quick_judge,
    )
    ranges = {name: (float(there.low.min()), float(there.high.max())) for name, there in seen.items()}
    growth = _growth(
        emulator, calibrated.quantization, [assignment.excluded for assignment in found.candidates], held_out
    )
    return Plan(
        graph, emulator.matmuls, request, calibrated, found, table, table_kept, ranges, reference, growth, ledger
    )


def _every(step: int, text: TokenBatches) -> list[Batch]:
    """Return the batches of every so many sentences."""
    return list(replace(text, sentences=text.sentences[::step]))


def _growth(
    emulator: Emulator, quantization: Quantization, candidates: Sequence[frozenset[str]], batches: Sequence[Batch]
) -> dict[frozenset[str], Growth]:
    """Return the relative error of what the first MatMul of each layer reads: Euclidean, over one batch's tokens."""
    firsts: dict[str, MatMul] = {}
    for matmul in emulator.matmuls:
        firsts.setdefault(matmul.layer, matmul)
    names = tuple(matmul.activation for matmul in firsts.values())
    everything = frozenset(matmul.node for matmul in emulator.matmuls)
    (wanted,) = emulator.look(batches[:1], names)
    growth = {}
    for excluded in candidates:
        (found,) = emulator.look(batches[:1], names, quantization, everything - excluded)
        growth[excluded] = tuple(
            (matmul, float(np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name])))
            for name, matmul in zip(names, firsts.values(), strict=True)
        )
    return growth


def _with_small_table(
    graph: Graph, emulator: Emulator, held_out: Sequence[Batch], reference: Array, request: Request
) -> tuple[Graph, Emulator, Loss | None, bool]:
    """Store the table of word vectors in int8 where the target gathers from it and parity hardly moves."""
    if not request.scheme.gathers_int8:
        return graph, emulator, None, False
    model = graph.editable()
    if not quantize_tables(model):
        return graph, emulator, None, False
    small = graph.with_model(model)
    small_emulator = Emulator(small, request.scheme)
    loss = loss_between(reference, small_emulator.run(held_out), token_ids_of(held_out))
    if loss.budget_used(request.gate) > TABLE_BUDGET:
        return graph, emulator, loss, False
    return small, small_emulator, loss, True


def _excluded_by_name(matmuls: Sequence[MatMul], names: tuple[str, ...]) -> frozenset[str]:
    excluded = frozenset(matmul.node for matmul in matmuls if names and matmul.node.startswith(names))
    unknown = [name for name in names if not any(matmul.node.startswith(name) for matmul in matmuls)]
    if unknown:
        raise InputError(
            f"`exclude` names {unknown[0]!r}, but no MatMul's name starts with it",
            next_step=f"name prefixes of {_some(matmuls)}",
        )
    share = sum(matmul.macs for matmul in matmuls if matmul.node in excluded) / sum(p.macs for p in matmuls)
    if share >= MAX_EXCLUDED:
        raise InputError(
            f"`exclude` covers {share:.1%} of the work of all MatMuls; it must be less than {MAX_EXCLUDED:.0%}",
            next_step="shorten the list in the recipe, or use `precision=fp16`",
        )
    return excluded


def _some(matmuls: Sequence[MatMul]) -> str:
    """Return the names of the first layer's modules, which stand for those of the others."""
    modules = list(dict.fromkeys(matmul.module for matmul in matmuls))
    first = [name for name in modules if name.startswith(matmuls[-1].layer.rpartition(".")[0] + ".0.")] or modules
    return ", ".join(first) + (f", ... ({len(modules)} in all)" if len(first) < len(modules) else "")


def _tokens(batches: Sequence[Batch]) -> float:
    """Return the mean number of tokens per sentence."""
    return sum(float(mask.sum()) for _, mask in batches) / sum(len(mask) for _, mask in batches)


def _identity(graph: Graph, request: Request) -> str:
    """Return a hash over everything that results of a search depend on."""
    parts = [
        graph.content_hash(),
        request.calibration.sha256,
        repr(token_ids_of(list(request.calibration.held_out))),  # the tokenizer and the prompt take part
        repr(request.scheme),
        request.gate.model_dump_json(),
        repr(sorted(tool_versions(_TOOLS).items())),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
