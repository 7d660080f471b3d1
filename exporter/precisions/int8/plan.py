"""From a float32 graph and calibration text to what int8 is to be: scales, and which products take them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exporter.calibration import CalibrationSet
from exporter.errors import BuildError, InputError
from exporter.graph import Graph
from exporter.machine import tool_versions
from exporter.precisions.int8.calibrate import Calibrated, calibrate
from exporter.precisions.int8.embedding import quantize_tables
from exporter.precisions.int8.emulator import Batch, Emulator
from exporter.precisions.int8.judge import Judge, Ledger, Loss, loss_between, token_ids_of
from exporter.precisions.int8.observer import observe
from exporter.precisions.int8.products import Product, attention_macs
from exporter.precisions.int8.scheme import Array, Quantization, Scheme
from exporter.precisions.int8.search import MOST_HIGH, Assignment, Costs, Found, search
from exporter.recipe import Gate
from exporter.runtime.tokens import IntArray

TABLE_BUDGET = 0.1  # of what the gate allows: what an int8 table of word vectors may use up
SENSITIVITY_STEP = 4  # one in so many of the held-out sentences measures what a product loses alone
_TOOLS = ("korsbert", "onnxruntime", "numpy")

Growth = tuple[tuple[Product, float], ...]


@dataclass(frozen=True)
class Request:
    """What int8 is asked for.

    Attributes:
        scheme: The target's types.
        calibration: Text to take scales from, and text to judge them by. The probes are not in it.
        gate: The bounds.
        keep_high: Beginnings of module names that are not quantized.
        ledger: Where results are kept while the search goes on, or None.
    """

    scheme: Scheme
    calibration: CalibrationSet
    gate: Gate
    keep_high: tuple[str, ...] = ()
    ledger: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What int8 is to be.

    Attributes:
        graph: The float32 graph, its table of word vectors in int8 where parity allows that.
        products: What can be in int8.
        request: What was asked for.
        calibrated: Scales, integers, and how they were come by.
        found: Assignments to try, cheapest first.
        table: What tables of word vectors in int8 lose by themselves, or None where the target or the graph has none.
        table_kept: Whether they are in int8, which they are where they lose little.
        ranges: (low, high) of each activation over the calibration text, by name.
        reference: (held-out sentences, dimension) float32, vectors of the float32 graph, in the order of the batches.
        growth: By ``Assignment.high`` of each assignment of the ladder, (product, relative error of what it reads) at
            the beginning of each layer: how the error grows from layer to layer, or from use to use of a shared one.
        ledger: Results of this search, and what was there of one that was interrupted.
    """

    graph: Graph
    products: tuple[Product, ...]
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
        """Return what was found in one line."""
        resumed = f", {self.ledger.resumed} results of an interrupted search" if self.ledger.resumed else ""
        if self.ledger.damaged:
            resumed = ", what an interrupted search had left could not be read and was measured anew"
        return f"{len(self.products)} products, {self.calibrated.trial.name}{resumed}"

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
        on = frozenset(product.node for product in self.products) - assignment.high
        return Emulator(self.graph, self.request.scheme).run(batches, self.calibrated.quantization, on)


Progress = Callable[[str], None]


def make_plan(graph: Graph, request: Request, progress: Progress = lambda _: None) -> Plan:
    """Calibrate, and search for the assignment that passes at least cost.

    Args:
        graph: The folded float32 graph.
        request: What is asked for.
        progress: Told what is being done.

    Raises:
        InputError: ``keep_high`` names no product of this graph, or half of the work.
        BuildError: The graph has no product that int8 could take.
    """
    ledger = Ledger(request.ledger, _identity(graph, request))
    held_out = list(request.calibration.held_out)
    progress("float32")
    emulator = Emulator(graph, request.scheme)
    if not emulator.products:
        raise BuildError("the graph multiplies no activation by a stored weight", next_step="another precision")
    keep = _kept_by_name(emulator.products, request.keep_high)
    reference = emulator.run(held_out)
    graph, emulator, table, table_kept = _with_small_table(graph, emulator, held_out, reference, request)
    judge = Judge(emulator, held_out, reference, ledger)
    part = list(
        replace(request.calibration.held_out, sentences=request.calibration.held_out.sentences[::SENSITIVITY_STEP])
    )
    sensitivity_judge = Judge(emulator, part, emulator.run(part), ledger)

    seen = observe(emulator, request.calibration.fit, lambda done: progress(f"calibration: {done}"))
    calibrated = calibrate(
        emulator, request.scheme, seen, judge, request.gate, lambda step: progress(f"calibration: {step}")
    )
    costs = Costs(emulator.products, attention_macs(graph, _tokens(held_out)), request.scheme.speedup)
    found = search(
        calibrated, sensitivity_judge, judge, request.gate, costs, keep, lambda step: progress(f"search: {step}")
    )
    ranges = {name: (float(there.low.min()), float(there.high.max())) for name, there in seen.items()}
    growth = _growth(emulator, calibrated.quantization, [assignment.high for assignment in found.ladder], held_out)
    return Plan(
        graph, emulator.products, request, calibrated, found, table, table_kept, ranges, reference, growth, ledger
    )


def _growth(
    emulator: Emulator, quantization: Quantization, ladder: Sequence[frozenset[str]], batches: Sequence[Batch]
) -> dict[frozenset[str], Growth]:
    """Return the relative error of what the first product of each layer reads: Euclidean, over one batch's tokens."""
    firsts: dict[str, Product] = {}
    for product in emulator.products:
        firsts.setdefault(product.layer, product)
    names = tuple(product.activation for product in firsts.values())
    everything = frozenset(product.node for product in emulator.products)
    (wanted,) = emulator.look(batches[:1], names)
    growth = {}
    for high in ladder:
        (found,) = emulator.look(batches[:1], names, quantization, everything - high)
        growth[high] = tuple(
            (product, float(np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name])))
            for name, product in zip(names, firsts.values(), strict=True)
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


def _kept_by_name(products: Sequence[Product], names: tuple[str, ...]) -> frozenset[str]:
    kept = frozenset(product.node for product in products if names and product.node.startswith(names))
    unknown = [name for name in names if not any(product.node.startswith(name) for product in products)]
    if unknown:
        raise InputError(
            f"keep_high names {unknown[0]!r}, and no product begins so",
            next_step=f"in the recipe, keep_high: beginnings of {_some(products)}",
        )
    share = sum(product.macs for product in products if product.node in kept) / sum(p.macs for p in products)
    if share >= MOST_HIGH:
        raise InputError(
            f"keep_high keeps {share:.1%} of the matrix products' work out of int8; it must be below {MOST_HIGH:.0%}",
            next_step="a shorter list in the recipe, or precision fp16",
        )
    return kept


def _some(products: Sequence[Product]) -> str:
    """Return the names of the first layer's modules, which stand for those of the others."""
    modules = list(dict.fromkeys(product.module for product in products))
    first = [name for name in modules if name.startswith(products[-1].layer.rpartition(".")[0] + ".0.")] or modules
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
