"""Verdicts: statistics against the bounds of a gate. Whatever is not a number fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from exporter.recipe import Gate
from exporter.validator.check import Check
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import Matrix, Parity, RowErrors
from exporter.validator.stored import Storage
from exporter.validator.sts import StsScore

SMALLEST_FORMAT_BOUND = 2e-5
"""A bound relative to a format's own loss is never below this relative error, which is float32's own rounding."""


@dataclass(frozen=True)
class Verdict:
    """One bound, what was measured, and whether it held.

    Attributes:
        name: The statistic, in words.
        value: What was measured.
        bound: What the gate asks for.
        relation: ``">="`` or ``"<="``.
        relative_to: What the bound was computed from, where it is not a fixed one.
    """

    name: str
    value: float
    bound: float
    relation: str
    relative_to: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the bound held; a NaN never does."""
        return self.value >= self.bound if self.relation == ">=" else self.value <= self.bound

    def __str__(self) -> str:
        sign = {True: self.relation, False: "<" if self.relation == ">=" else ">"}[self.passed]
        text = f"{self.name} {significant(self.value)} {sign} {significant(self.bound)}"
        return f"{text} ({self.relative_to})" if self.relative_to else text


def judge(
    parity: Parity,
    batch_deviation: float,
    sts: tuple[StsScore, ...],
    gate: Gate,
    format_loss: FormatLoss | None = None,
    emulator_error: float | None = None,
    emulator_rounding: float | None = None,
) -> tuple[Verdict, ...]:
    """Return a verdict for every bound of ``gate``.

    Args:
        parity: Candidate against reference.
        batch_deviation: Largest relative difference between a sentence alone and in a batch.
        sts: Task scores.
        gate: The bounds.
        format_loss: What the precision itself loses on the same probes, where that is known.
        emulator_error: Mean relative difference from the emulator's vectors, where int8 was emulated.
        emulator_rounding: What rounding alone makes of that difference, where it was measured.
    """
    identity, judged = parity.identity_beyond(gate.rounding_distance)
    at_least = {
        "1st percentile of cosine": (float(np.percentile(parity.cosine, 1)), gate.p01_cosine),
        "mean cosine": (float(np.mean(parity.cosine)), gate.mean_cosine),
        "mean neighbor overlap": (float(np.mean(parity.neighbor_overlap)), gate.mean_neighbor_overlap),
        "min neighbor overlap": (float(np.min(parity.neighbor_overlap)), gate.min_neighbor_overlap),
    }
    at_most = {
        "NaN or Inf rows": (float(parity.non_finite), 0.0),
        "norm error": (norm_error(parity), gate.max_norm_error),
        "norm bias": (norm_bias(parity), gate.max_norm_bias),
        "similarity drift": (parity.similarity_drift, gate.max_similarity_drift),
        "batch deviation": (batch_deviation, gate.max_batch_deviation),
        **{f"Spearman drop on {score.name}": (score.spearman_drop, gate.max_spearman_drop) for score in sts},
    }
    verdicts = [*_verdicts_of_rows(parity, gate, format_loss), *_verdict_of_mean(parity, gate, format_loss)]
    verdicts += [Verdict(name, value, bound, ">=") for name, (value, bound) in at_least.items() if bound is not None]
    verdicts += [Verdict(name, value, bound, "<=") for name, (value, bound) in at_most.items() if bound is not None]
    if judged:  # it says nothing where no probe is far enough from every other
        among = f"the {judged} probes whose nearest other is farther than the bound of the cosine lets a vector move"
        verdicts.append(Verdict("neighbor identity", identity, gate.neighbor_identity, ">=", relative_to=among))
    if format_loss is not None:
        verdicts += _verdicts_relative_to(format_loss, parity, gate)
        if emulator_error is not None and gate.max_emulator_ratio is not None and format_loss.rows.any():
            verdicts.append(_verdict_of_emulator(emulator_error, emulator_rounding, format_loss, gate))
    return tuple(verdicts)


def judge_stored(storage: Storage, gate: Gate) -> tuple[Verdict, ...]:
    """Return the verdicts on truncated vectors, by the bounds of whole ones, and on stored vectors."""
    verdicts: list[Verdict] = []
    for dimension, parity in storage.truncated.items():
        at_least = {
            "1st percentile of cosine": (float(np.percentile(parity.cosine, 1)), gate.p01_cosine),
            "mean cosine": (float(np.mean(parity.cosine)), gate.mean_cosine),
            "mean neighbor overlap": (float(np.mean(parity.neighbor_overlap)), gate.mean_neighbor_overlap),
        }
        of_dimension = [
            *_verdicts_of_rows(parity, gate, None),
            *(Verdict(name, value, bound, ">=") for name, (value, bound) in at_least.items() if bound is not None),
        ]
        verdicts += [replace(one, name=f"{one.name} at {dimension} dimensions") for one in of_dimension]
    for loss in storage.losses:
        at = "" if loss.dimension == storage.full_dimension else f" at {loss.dimension} dimensions"
        overlap = gate.mean_binary_overlap if loss.type == "binary" else gate.mean_stored_overlap
        if overlap is not None:
            verdicts.append(Verdict(f"neighbors kept as {loss.name}{at}", loss.neighbors_kept, overlap, ">="))
        if loss.type == "int8" and gate.mean_ranges_overlap is not None:
            name = f"neighbors kept by the ranges of {loss.name}{at}"
            verdicts.append(Verdict(name, loss.neighbors_of_type, gate.mean_ranges_overlap, ">="))
        changed = {"int8": ("code changes", gate.max_code_changes), "binary": ("sign flips", gate.max_sign_flips)}
        name, bound = changed.get(loss.type, ("", None))
        if loss.changed is not None and bound is not None:
            verdicts.append(Verdict(f"{name} as {loss.name}{at}", loss.changed, bound, "<="))
    return tuple(verdicts)


def not_compared(parity: Parity, gate: Gate, format_loss: FormatLoss | None) -> tuple[Check, ...]:
    """Return a check for every bound of ``gate`` that ``judge`` has no verdict on. Its coverage gives the reason."""
    checks = []
    if not parity.identity_beyond(gate.rounding_distance)[1]:
        reason = f"no probe is farther from all others than rounding may move a vector ({gate.rounding_distance:.2g})"
        checks.append(Check.skipped("neighbor identity", reason))
    if format_loss is not None and not format_loss.rows.any():
        checks.append(Check.skipped("format", f"{format_loss.source} gives NaN or Inf for every probe"))
    return tuple(checks)


def norm_error(parity: Parity) -> float:
    """Return the largest difference of a norm ratio from 1; NaN where a row is not finite."""
    return float(np.max(np.abs(parity.norm_ratio - 1)))


def norm_bias(parity: Parity) -> float:
    """Return the distance of the mean norm ratio from 1; NaN where a row is not finite."""
    return abs(float(np.mean(parity.norm_ratio)) - 1)


def rows_beyond(parity: Parity, gate: Gate) -> list[int]:
    """Return the probes that miss a fixed bound of single probes, or are not finite."""
    held = np.ones(len(parity.cosine), dtype=bool)
    for _, bound, ideal, read in _bounds_of_rows(gate):
        values: Matrix = read(parity)
        held &= (values >= bound) if ideal else (values <= bound)
    return [int(row) for row in np.flatnonzero(~held)]


def _bounds_of_rows(gate: Gate) -> list[tuple[str, float, float, Callable[[RowErrors], Matrix]]]:
    """Return name, bound, ideal value and reader of the statistics that are judged probe by probe."""
    stated: tuple[tuple[str, float | None, float, Callable[[RowErrors], Matrix]], ...] = (
        ("min cosine", gate.min_cosine, 1.0, attrgetter("cosine")),
        ("min centered cosine", gate.min_centered_cosine, 1.0, attrgetter("centered_cosine")),
        ("max relative error", gate.max_relative_error, 0.0, attrgetter("relative_error")),
    )
    return [(name, bound, ideal, read) for name, bound, ideal, read in stated if bound is not None]


def _verdicts_of_rows(parity: Parity, gate: Gate, format_loss: FormatLoss | None) -> Iterator[Verdict]:
    """Yield the verdicts on the worst probe, by cosine, centered cosine and relative error.

    The bound of a probe is widened where ``gate.max_format_ratio`` times what the format itself loses on that probe is
    more, but never beyond ``gate.max_widening`` times what the fixed bound allows. A loss that is not known widens
    nothing, nor does one probe's loss widen another's bound.
    """
    for name, bound, ideal, read in _bounds_of_rows(gate):
        values: Matrix = read(parity)
        relation = ">=" if ideal else "<="
        fixed = abs(ideal - bound)
        allowed = np.full(len(values), fixed)
        if format_loss is not None and gate.max_format_ratio is not None:
            ratio = gate.max_format_ratio ** (2 if ideal else 1)  # a cosine falls with the square of the distance
            wider = ratio * np.nan_to_num(np.abs(ideal - read(format_loss.parity)), nan=0.0, posinf=0.0)
            allowed = np.maximum(allowed, np.minimum(wider, gate.max_widening * fixed))
        widened = allowed > fixed
        if not widened.all():
            yield Verdict(name, _worst(values[~widened], ideal), bound, relation)
        if format_loss is not None and widened.any():
            row = _most_of_budget(np.abs(ideal - values), allowed, widened)
            yield Verdict(
                f"{name}, widened for {int(widened.sum())} probes",
                float(values[row]),
                float(abs(ideal - allowed[row])),
                relation,
                relative_to=f"{gate.max_format_ratio:g} times the distance {format_loss.source} loses on that probe",
            )


def _verdict_of_mean(parity: Parity, gate: Gate, format_loss: FormatLoss | None) -> Iterator[Verdict]:
    """Yield the verdict on the mean relative error, if the gate bounds it.

    The bound is widened where the format's own mean loss is known of every probe, and is more when multiplied by
    ``gate.max_format_ratio``.
    """
    fixed, ratio = gate.max_mean_error, gate.max_format_ratio
    if fixed is None:
        return
    bound, source = fixed, None
    if format_loss is not None and ratio is not None and format_loss.rows.all():
        bound = max(fixed, min(ratio * format_loss.mean_relative_error, gate.max_mean_widening * fixed))
        source = f"{ratio:g} times what {format_loss.source} loses, {gate.max_mean_widening:g} times the bound at most"
    name, value = "mean relative error", float(np.mean(parity.relative_error))
    if bound > fixed:
        yield Verdict(f"{name}, widened", value, bound, "<=", relative_to=source)
    else:
        yield Verdict(name, value, bound, "<=")


def mean_to_widen(parity: Parity, gate: Gate) -> bool:
    """Whether the mean relative error misses its bound, and would hold the widest one."""
    fixed = gate.max_mean_error
    return fixed is not None and fixed < float(np.mean(parity.relative_error)) <= gate.max_mean_widening * fixed


def _worst(values: Matrix, ideal: float) -> float:
    """Return the value farthest from ``ideal`` in the direction of loss; NaN where there is one."""
    return float(np.min(values) if ideal else np.max(values))


def _most_of_budget(loss: Matrix, allowed: Matrix, rows: np.ndarray) -> int:
    """Return which of ``rows`` uses up most of what it may lose: the first that is not a number, if there is one."""
    used = np.where(rows, np.nan_to_num(loss / allowed, nan=np.inf), -np.inf)
    return int(np.argmax(used))


def _verdicts_relative_to(format_loss: FormatLoss, parity: Parity, gate: Gate) -> Iterator[Verdict]:
    """Yield the verdicts that compare with what the format itself loses.

    No verdict is given where the format's own loss is not known on any probe; the fixed bounds hold all the same.
    """
    known = format_loss.rows
    if not known.any():
        return
    found = parity.relative_error[known]
    mean, largest = format_loss.mean_relative_error, format_loss.max_relative_error
    for name, value, lost, ratio in (
        ("mean relative error against the format", float(found.mean()), mean, gate.max_mean_format_ratio),
        ("max relative error against the format", float(found.max()), largest, gate.max_format_ratio),
    ):
        if ratio is not None:
            bound = max(ratio * lost, SMALLEST_FORMAT_BOUND)
            yield Verdict(name, value, bound, "<=", relative_to=f"{ratio:g} times what {format_loss.source} loses")


def emulator_bound(format_loss: FormatLoss, gate: Gate) -> float:
    """Return the largest difference from the emulator that is allowed where rounding was not measured."""
    return max((gate.max_emulator_ratio or np.inf) * format_loss.mean_relative_error, SMALLEST_FORMAT_BOUND)


def _verdict_of_emulator(error: float, rounding: float | None, format_loss: FormatLoss, gate: Gate) -> Verdict:
    """Return the verdict on the difference from the emulator.

    The bound is widened where rounding alone is known to make a larger difference: a model of many layers may carry the
    last digit of float32 so far that two sound computations differ by nearly as much as int8 loses.
    """
    name, bound, ratio = "difference from the emulator", emulator_bound(format_loss, gate), gate.max_emulator_ratio
    if rounding is not None and gate.max_rounding_ratio * rounding > bound:
        told = f"{gate.max_rounding_ratio:g} times what rounding alone changes in {format_loss.source}"
        return Verdict(f"{name}, widened", error, gate.max_rounding_ratio * rounding, "<=", relative_to=told)
    return Verdict(name, error, bound, "<=", relative_to=f"{ratio:g} times what {format_loss.source} loses")


def significant(value: float) -> str:
    """Format a number so that the distance from 1 shows: 0.99999987, not 1.0."""
    if not np.isfinite(value):
        return str(value)
    distance = abs(1 - value)
    if 0 < distance < 0.1:
        digits = min(16, 1 - int(np.floor(np.log10(distance))))
        return f"{value:.{digits}f}"
    return f"{value:.4g}"
