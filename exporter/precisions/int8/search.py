"""Which MatMuls are excluded from quantization: only as many as the gate requires, found by measuring.

Each MatMul is first quantized alone, which gives its sensitivity; where all of them together pass, fewer sentences
measure it. MatMuls are then excluded in the order of what they lose for what they cost, the fewest that pass are
found by halving, and each of those is tried in int8 once more. A search that took every subset would be 2^72; this
one takes as many measurements as there are MatMuls, and a few.

It stops at half of the work: a graph that needs more than that excluded gains little by the rest, and is refused
rather than called int8. What the recipe excludes counts towards that half. All of this looks at
held-out calibration text. The probes are read once, by the gate, when the choice has been made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exporter.precisions.int8.calibrate import Calibrated
from exporter.precisions.int8.judge import Judge, Loss
from exporter.precisions.int8.matmuls import MatMul
from exporter.precisions.int8.scheme import Scheme
from exporter.recipe import Gate

MAX_EXCLUDED = 0.5
"""Largest share of the work of all MatMuls that may be excluded."""
_SHARES = (0.0, 0.05, 0.1, 0.15, 0.25, MAX_EXCLUDED)
"""Shares of the work excluded from int8: what the plot shows, and what is tried in turn."""


@dataclass(frozen=True)
class Assignment:
    """Which MatMuls are in int8, and which are excluded.

    Attributes:
        excluded: Nodes of the excluded MatMuls.
        share: Share of the work (multiplications) of all MatMuls that is excluded, attention's included.
        time: Modelled time of the MatMuls, relative to all of them in the fallback dtype.
        loss: On the held-out sentences.
    """

    excluded: frozenset[str]
    share: float
    time: float
    loss: Loss


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        candidates: Assignments to build, cheapest first. The first passed on held-out text with a margin or lost least.
        sensitivities: What each MatMul loses alone, on a part of that text, by its node.
        frontier: Assignments for a plot of parity against time.
    """

    candidates: tuple[Assignment, ...]
    sensitivities: dict[str, Loss]
    frontier: tuple[Assignment, ...]


@dataclass(frozen=True)
class Costs:
    """What the work of a model is worth in time.

    Attributes:
        matmuls: Everything that can be in int8.
        attention: Multiplications per token inside attention, which are not quantized.
        speedup: Time in the fallback dtype over time in int8.
    """

    matmuls: tuple[MatMul, ...]
    attention: float
    speedup: float

    def assignment(self, excluded: frozenset[str], loss: Loss) -> Assignment:
        """Return an assignment with its share and its modeled time: multiplications over the target's rate."""
        total = sum(matmul.macs for matmul in self.matmuls) + self.attention
        share = (sum(matmul.macs for matmul in self.matmuls if matmul.node in excluded) + self.attention) / total
        return Assignment(excluded, share, share + (1 - share) / self.speedup, loss)


def search(
    calibrated: Calibrated,
    sensitivity_judge: Judge,
    judge: Judge,
    gate: Gate,
    costs: Costs,
    by_recipe: frozenset[str] = frozenset(),
    progress: Callable[[str], None] = lambda _: None,
    quick_judge: Judge | None = None,
) -> Found:
    """Find the cheapest assignment that passes ``gate`` on the held-out text, with a margin, and what to try next.

    Args:
        calibrated: The scales.
        sensitivity_judge: Measures parity on a part of that text: what MatMuls lose alone only puts them in order.
        judge: Measures parity on text that is held out.
        gate: The bounds.
        costs: What each MatMul is worth.
        by_recipe: Nodes of MatMuls that the recipe excludes.
        progress: Told what is measured.
        quick_judge: Takes the place of ``sensitivity_judge``, with fewer sentences, where nothing has to be excluded.
            The order then only serves the plot, and an engine that loses more than the emulator.
    """
    everything = frozenset(matmul.node for matmul in costs.matmuls)

    def measured(excluded: frozenset[str]) -> Assignment:
        progress(f"{len(excluded)} of {len(everything)} MatMuls excluded")
        return costs.assignment(
            excluded, judge.loss(calibrated.trial.name, calibrated.quantization, everything - excluded)
        )

    if quick_judge is not None and _passes(measured(by_recipe), gate):
        sensitivity_judge = quick_judge
    sensitivities: dict[str, Loss] = {}
    for number, matmul in enumerate(costs.matmuls, start=1):
        progress(f"{matmul.title} alone ({number} of {len(costs.matmuls)})")
        sensitivities[matmul.node] = sensitivity_judge.loss(
            calibrated.trial.name, calibrated.quantization, frozenset([matmul.node])
        )

    order = sorted(
        (matmul for matmul in costs.matmuls if matmul.node not in by_recipe),
        key=lambda matmul: (-sensitivities[matmul.node].budget_used(gate) / matmul.macs, matmul.node),
    )
    prefixes = _prefixes(by_recipe, order, costs)
    count = _fewest(prefixes, lambda excluded: _passes(measured(excluded), gate))
    chosen = _without_needless(measured(prefixes[count]), by_recipe, measured, gate)
    frontier = [measured(excluded) for excluded in _spread(prefixes, costs)]
    frontier = sorted({assignment.excluded: assignment for assignment in (*frontier, chosen)}.values(), key=_share)
    beyond = [assignment for assignment in frontier if assignment.share > chosen.share]
    return Found((chosen, *beyond), sensitivities, tuple(frontier))


def _share(assignment: Assignment) -> float:
    return assignment.share


def _passes(assignment: Assignment, gate: Gate) -> bool:
    return assignment.loss.passes(gate)


def _prefixes(by_recipe: frozenset[str], order: Sequence[MatMul], costs: Costs) -> list[frozenset[str]]:
    """Return what may be excluded, one MatMul more each time, up to half of the work."""
    total = sum(matmul.macs for matmul in costs.matmuls)
    prefixes, excluded = [by_recipe], total - sum(matmul.macs for matmul in order)
    for matmul in order[:-1]:
        if excluded + matmul.macs > MAX_EXCLUDED * total:
            break
        prefixes.append(prefixes[-1] | {matmul.node})
        excluded += matmul.macs
    return prefixes


def _fewest(prefixes: Sequence[frozenset[str]], passes: Callable[[frozenset[str]], bool]) -> int:
    """Return the smallest prefix that passes, if excluding more is never worse; the last where none does."""
    low, high = 0, len(prefixes) - 1
    while low < high:
        middle = 0 if low == 0 and high == len(prefixes) - 1 else (low + high) // 2
        if passes(prefixes[middle]):
            high = middle
        else:
            low = middle + 1
    return low


def _without_needless(
    assignment: Assignment, by_recipe: frozenset[str], measured: Callable[[frozenset[str]], Assignment], gate: Gate
) -> Assignment:
    """Put MatMuls back into int8, one by one, as long as what is left passes."""
    for node in sorted(assignment.excluded - by_recipe):
        fewer = measured(assignment.excluded - {node})
        if _passes(fewer, gate):
            assignment = fewer
    return assignment


def _spread(prefixes: Sequence[frozenset[str]], costs: Costs) -> list[frozenset[str]]:
    """Return the prefixes nearest above each share of the work."""
    macs = {matmul.node: matmul.macs for matmul in costs.matmuls}
    total = sum(macs.values())
    shares = [sum(macs[node] for node in excluded) / total for excluded in prefixes]
    return [
        next((excluded for excluded, share in zip(prefixes, shares, strict=True) if share >= wanted), prefixes[-1])
        for wanted in _SHARES
    ]


def describe(scheme: Scheme, assignment: Assignment, matmuls: Sequence[MatMul]) -> str:
    """Return in one sentence which MatMuls are excluded, by name."""
    titles = [matmul.title for matmul in matmuls if matmul.node in assignment.excluded]
    names = ", ".join(titles) or "only those of attention"
    return f"{assignment.share:.1%} of the work of all MatMuls stays {scheme.fallback_dtype}: {names}"
