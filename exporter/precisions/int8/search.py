"""Which products stay in high precision: as few as parity allows, found by measuring.

Each product is first quantized alone, which gives its sensitivity. MatMuls are then excluded in the order of what
they lose for what they cost, the fewest that pass are found by halving, and each of those is tried in int8 once more.
A search that took every subset would be 2^72; this one takes as many measurements as there are products, and a few.

It stops at half of the work: a graph that needs more than that in high precision gains little by the rest, and is
refused rather than called int8. What the user keeps in high precision counts towards that half. All of this looks at
held-out calibration text. The probes are read once, by the gate, when the choice has been made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exporter.precisions.int8.calibrate import Calibrated
from exporter.precisions.int8.judge import Judge, Loss
from exporter.precisions.int8.products import Product
from exporter.precisions.int8.scheme import Scheme
from exporter.recipe import Gate

MOST_HIGH = 0.5
"""Largest share of the products' work that may stay in high precision."""
_SHARES = (0.0, 0.05, 0.1, 0.15, 0.25, MOST_HIGH)
"""Shares of the work excluded from int8: what the plot shows, and what is tried in turn."""


@dataclass(frozen=True)
class Assignment:
    """Which MatMuls are in int8, and which are excluded.

    Attributes:
        high: Nodes of the excluded MatMuls.
        share: Share of all matrix products' work (multiplications) that is excluded, attention's own included.
        time: Modelled time of the matrix products, relative to all of them in high precision.
        loss: On the held-out sentences.
    """

    high: frozenset[str]
    share: float
    time: float
    loss: Loss


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        ladder: Assignments to try, cheapest first; each passed on the held-out text with a margin, or is the nearest.
        sensitivities: What each product loses alone, on a part of that text, by its node.
        frontier: Assignments for a plot of parity against time.
    """

    ladder: tuple[Assignment, ...]
    sensitivities: dict[str, Loss]
    frontier: tuple[Assignment, ...]


@dataclass(frozen=True)
class Costs:
    """What the work of a model is worth in time.

    Attributes:
        products: Everything that can be in int8.
        attention: Multiplications per token inside attention, which stay high.
        speedup: Time in high precision over time in int8.
    """

    products: tuple[Product, ...]
    attention: float
    speedup: float

    def assignment(self, high: frozenset[str], loss: Loss) -> Assignment:
        """Return an assignment with its share and its modelled time: multiplications over the target's rate."""
        total = sum(product.macs for product in self.products) + self.attention
        kept = sum(product.macs for product in self.products if product.node in high) + self.attention
        share = kept / total
        return Assignment(high, share, share + (1 - share) / self.speedup, loss)


def search(
    calibrated: Calibrated,
    sensitivity_judge: Judge,
    judge: Judge,
    gate: Gate,
    costs: Costs,
    keep: frozenset[str] = frozenset(),
    progress: Callable[[str], None] = lambda _: None,
) -> Found:
    """Find the cheapest assignment that passes ``gate`` on the held-out text, with a margin, and what to try next.

    Args:
        calibrated: The scales.
        sensitivity_judge: Measures parity on a part of that text: what products lose alone only puts them in order.
        judge: Measures parity on text that is held out.
        gate: The bounds.
        costs: What each product is worth.
        keep: Nodes of products that the user keeps high.
        progress: Told what is measured.
    """
    everything = frozenset(product.node for product in costs.products)
    sensitivities: dict[str, Loss] = {}
    for number, product in enumerate(costs.products, start=1):
        progress(f"{product.title} alone ({number} of {len(costs.products)})")
        sensitivities[product.node] = sensitivity_judge.loss(
            calibrated.trial.name, calibrated.quantization, frozenset([product.node])
        )

    def measured(high: frozenset[str]) -> Assignment:
        progress(f"{len(high)} of {len(everything)} products excluded")
        return costs.assignment(high, judge.loss(calibrated.trial.name, calibrated.quantization, everything - high))

    order = sorted(
        (product for product in costs.products if product.node not in keep),
        key=lambda product: (-sensitivities[product.node].budget_used(gate) / product.macs, product.node),
    )
    prefixes = _prefixes(keep, order, costs)
    count = _fewest(prefixes, lambda high: _passes(measured(high), gate))
    chosen = _without_needless(measured(prefixes[count]), keep, measured, gate)
    frontier = [measured(high) for high in _spread(prefixes, costs)]
    frontier = sorted({assignment.high: assignment for assignment in (*frontier, chosen)}.values(), key=_share)
    beyond = [assignment for assignment in frontier if assignment.share > chosen.share]
    return Found((chosen, *beyond), sensitivities, tuple(frontier))


def _share(assignment: Assignment) -> float:
    return assignment.share


def _passes(assignment: Assignment, gate: Gate) -> bool:
    return assignment.loss.passes(gate)


def _prefixes(keep: frozenset[str], order: Sequence[Product], costs: Costs) -> list[frozenset[str]]:
    """Return what may stay in high precision, one product more each time, up to half of the work."""
    total = sum(product.macs for product in costs.products)
    prefixes, kept = [keep], total - sum(product.macs for product in order)
    for product in order[:-1]:
        if kept + product.macs > MOST_HIGH * total:
            break
        prefixes.append(prefixes[-1] | {product.node})
        kept += product.macs
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
    assignment: Assignment, keep: frozenset[str], measured: Callable[[frozenset[str]], Assignment], gate: Gate
) -> Assignment:
    """Put products back into int8, one by one, as long as what is left passes."""
    for node in sorted(assignment.high - keep):
        fewer = measured(assignment.high - {node})
        if _passes(fewer, gate):
            assignment = fewer
    return assignment


def _spread(prefixes: Sequence[frozenset[str]], costs: Costs) -> list[frozenset[str]]:
    """Return the prefixes nearest above each share of the work."""
    macs = {product.node: product.macs for product in costs.products}
    total = sum(macs.values())
    shares = [sum(macs[node] for node in high) / total for high in prefixes]
    return [
        next((high for high, share in zip(prefixes, shares, strict=True) if share >= wanted), prefixes[-1])
        for wanted in _SHARES
    ]


def describe(scheme: Scheme, assignment: Assignment, products: Sequence[Product]) -> str:
    """Return in one sentence which MatMuls are excluded, by name."""
    titles = [product.title for product in products if product.node in assignment.high]
    kept = ", ".join(titles) or "nothing but attention's own products"
    return f"{assignment.share:.1%} of the matrix products' work stays {scheme.remainder}: {kept}"
