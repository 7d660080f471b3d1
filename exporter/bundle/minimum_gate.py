"""The minimum gate: the least strict gate that a bundle is accepted with.

A bundle states the gate that it passed, and a forged bundle may state a weak one. So the gate that a bundle states is
compared with a gate that does not come from the bundle: korsbert's default, or the one that the user gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.bundle import PARITY, RECORD, Bundle, Manifest
from exporter.bundle.manifest import parse_report
from exporter.errors import BundleError, InputError
from exporter.recipe import Gate, Gates, Recipe, load_gates, named_recipe

RECORDED = (
    "min_cosine",
    "p01_cosine",
    "mean_cosine",
    "min_centered_cosine",
    "max_relative_error",
    "mean_neighbor_overlap",
    "min_neighbor_overlap",
    "max_similarity_drift",
    "max_batch_deviation",
)
"""Bounds whose statistics every parity report records, under the same names."""
WIDENED = ("min_cosine", "min_centered_cosine", "max_relative_error")
"""Bounds of a single probe. ``Gate.max_widening`` may widen them for a probe on which the number format loses much."""


@dataclass(frozen=True)
class MinimumGate:
    """The least strict gate that a bundle is accepted with, whatever gate it states itself.

    Attributes:
        gates: The bounds, by precision.
        source: Where they come from, for messages.
    """

    gates: Gates
    source: str

    def gate_for(self, manifest: Manifest) -> Gate:
        """Return the gate to judge a bundle by. Each bound is the stricter of the bundle's own and the minimum."""
        return _own(manifest).tightened(self._of(manifest))

    def weaker_bounds(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the bounds of the bundle's own gate that are weaker than the minimum, each with both values."""
        own, wanted = _own(manifest), self._of(manifest)
        return tuple(_comparison(name, getattr(own, name), getattr(wanted, name)) for name in own.weaker_bounds(wanted))

    def warning(self, manifest: Manifest) -> str | None:
        """Return one sentence about the bundle's own gate if it is weaker than the minimum, else None."""
        weaker = self.weaker_bounds(manifest)
        return f"the bundle's own gate is weaker than {self.source}: {', '.join(weaker)}" if weaker else None

    def objections(self, bundle: Bundle) -> tuple[str, ...]:
        """Return the reasons not to serve a bundle, one sentence each.

        Its own gate may be weaker than the minimum, or its recorded statistics may miss the minimum.

        Raises:
            BundleError: A report in the bundle cannot be read.
        """
        warning = self.warning(bundle.manifest)
        reports = {PARITY: parse_report(bundle.folder / PARITY, bundle.read(PARITY))}
        if bundle.record is not None:
            reports[RECORD] = bundle.record.report
        missed = {name: self._missed(bundle.manifest, report) for name, report in reports.items()}
        return (
            *((warning,) if warning is not None else ()),
            *(f"{name} misses {self.source}: {', '.join(bounds)}" for name, bounds in missed.items() if bounds),
        )

    def _of(self, manifest: Manifest) -> Gate:
        return self.gates.of(manifest.engine.precision)

    def _missed(self, manifest: Manifest, report: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the bounds that a recorded report misses, or has no statistic for."""
        statistics = report["statistics"]
        gate = self._of(manifest)
        wanted = {bound: _at_its_widest(bound, gate) for bound in RECORDED if getattr(gate, bound) is not None}
        missed = tuple(
            _comparison(bound, statistics.get(bound), value)
            for bound, value in wanted.items()
            if not _reached(bound, statistics.get(bound), value)
        )
        results = [check["passed"] for check in report.get("checks", ())]
        unproven = () if results and all(results) else ("its checks were not passed",)
        return (*(() if report.get("passed") is True else ("its gate was not passed",)), *unproven, *missed)


DEFAULT_MINIMUM_GATE = MinimumGate(Gates(), "korsbert's gate")


def minimum_gate_of(gates: Gates | Recipe | str | Path | None = None, recipe: str | None = None) -> MinimumGate:
    """Return the minimum gate that a user asks for, or korsbert's default.

    Args:
        gates: Gates, a recipe, or a YAML file with a ``gates`` key.
        recipe: The file of a recipe, or the name of a recipe that ships.

    Raises:
        InputError: Both are given.
        RecipeError: A file cannot be used.
    """
    if gates is not None and recipe is not None:
        raise InputError("both `gates` and `recipe` are given", next_step="give one of them")
    if recipe is not None:
        gates = named_recipe(recipe)
    match gates:
        case None:
            return DEFAULT_MINIMUM_GATE
        case Gates():
            return MinimumGate(gates, "the given gate")
        case Recipe():
            return MinimumGate(gates.gates, f"{gates.name}'s gate")
        case _:
            return MinimumGate(load_gates(Path(gates)), f"{Path(gates).name}'s gate")


def refuse_weak_gate(bundle: Bundle, minimum_gate: MinimumGate) -> None:
    """Refuse a bundle whose own gate is weaker than the minimum, or whose recorded statistics miss the minimum.

    Raises:
        BundleError: With every bound that is missed, and both values.
    """
    objections = minimum_gate.objections(bundle)
    if objections:
        raise BundleError(
            f"{bundle.folder}: {'; '.join(objections)}",
            next_step="export it again with korsbert's gates, or give other `gates`, or a `recipe` with them",
        )


def _own(manifest: Manifest) -> Gate:
    return manifest.recipe.gates.of(manifest.engine.precision)


def _comparison(name: str, found: float | None, wanted: float) -> str:
    if found is None:
        return f"no {name} ({wanted} wanted)"
    return f"{name} {found} {'>' if name.startswith('max_') else '<'} {wanted}"


def _at_its_widest(name: str, gate: Gate) -> float:
    """Return a bound after the largest widening that the gate allows for a single probe."""
    bound: float = getattr(gate, name)
    ideal = 0.0 if name.startswith("max_") else 1.0
    return round(ideal + gate.max_widening * (bound - ideal), 15) if name in WIDENED else bound  # for messages


def _reached(name: str, found: Any, wanted: float) -> bool:
    """Whether a recorded statistic is a possible value and within its bound. A NaN is not."""
    if isinstance(found, bool) or not isinstance(found, int | float):
        return False
    if not (found >= 0 if name.startswith("max_") else -1 <= found <= 1 + 1e-9):
        return False
    return found <= wanted if name.startswith("max_") else found >= wanted
