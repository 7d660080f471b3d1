"""Which of the engines is the best one, and what it gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from exporter.benchmark.bundles import WORTH_IT
from exporter.options import Goal
from exporter.tuning.measuring import Measured

_COST: dict[Goal, Callable[[Measured], float]] = {
    Goal.THROUGHPUT: lambda one: 1 / one.speed.sentences_per_s,
    Goal.LATENCY: lambda one: one.speed.p50_ms,
    Goal.SIZE: lambda one: one.size_bytes,
}
"""What each goal makes as small as it can."""
_WORD = {Goal.THROUGHPUT: "throughput", Goal.LATENCY: "latency", Goal.SIZE: "size"}


def enough(measured: Sequence[Measured], min_cosine: float | None) -> list[Measured]:
    """Return the engines whose worst cosine to the checkpoint is at least ``min_cosine``."""
    return [one for one in measured if min_cosine is None or one.min_cosine >= min_cosine]


def best(measured: Sequence[Measured], goal: Goal) -> Measured:
    """Return the engine that is best at something.

    A difference below ``WORTH_IT`` is not worth any accuracy. So of those that are within it of the best, the nearest
    to the checkpoint is taken; for the size the fastest, as precisions of 16 bits have the same.

    Args:
        measured: Engines that passed, one or more.
        goal: What to be best at.
    """
    cost = _COST[goal]
    least = min(map(cost, measured))
    equal = [one for one in measured if cost(one) <= WORTH_IT * least]
    if goal is Goal.SIZE:
        return max(equal, key=lambda one: one.speed.sentences_per_s)
    return max(equal, key=lambda one: one.min_cosine)


def on_front(one: Measured, others: Sequence[Measured]) -> bool:
    """Whether an engine is on the Pareto front: no other is as good in everything and better in something."""
    own = _figures(one)
    return not any(
        bool(np.all(_figures(other) <= own) and np.any(_figures(other) < own)) for other in others if other is not one
    )


def _figures(one: Measured) -> np.ndarray:
    """Return accuracy, throughput, latency, memory and size: the less, the better."""
    speed, memory = one.speed, np.inf if one.peak_bytes is None else one.peak_bytes
    return np.array([1 - one.min_cosine, 1 / speed.sentences_per_s, speed.p50_ms, memory, one.size_bytes])


def sentence(chosen: Measured, eligible: Sequence[Measured], measured: Sequence[Measured], goal: Goal) -> str:
    """Say whether int8 is worth what it loses, by comparing the chosen engine with the best one of the other kind.

    Args:
        chosen: The best of ``eligible``.
        eligible: The engines that it was chosen from.
        measured: All that were measured.
        goal: What it is best at.
    """
    int8 = chosen.precision.is_int8
    kind = "other precision" if int8 else "int8"
    others = [one for one in measured if one.precision.is_int8 is not int8]
    rivals = [one for one in others if one in eligible]
    if not others:
        return f"{chosen.name} is the best here; no {kind} was measured beside it"
    if not rivals:
        return f"{chosen.name} is the best here; no {kind} has the min cosine that was asked for"
    rival = min(rivals, key=_COST[goal])
    verdict = "int8 is worth it here" if int8 else "int8 is not worth it here"
    return f"{chosen.name} has {_ratio(chosen, rival, goal):.3g} times the {_WORD[goal]} of {rival.name}: {verdict}"


def _ratio(one: Measured, other: Measured, goal: Goal) -> float:
    if goal is Goal.THROUGHPUT:  # within rounds, as the engines were timed in turns
        return float(np.median(np.array(other.speed.round_s) / np.array(one.speed.round_s)))
    return _COST[goal](one) / _COST[goal](other)
