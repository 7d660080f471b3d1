"""The engines that ``tune`` compared: a plot of accuracy against throughput, and a table of every figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exporter.report.numbers import MISSING, bytes_size, plural, small
from exporter.report.svg import PLACEHOLDER, Canvas, Plot

_NEAREST = 1e-13  # distances below are roundings of the cosine itself
_HEADER = (
    "engine",
    "worst 1 − cosine",
    "neighbors kept",
    "sentences/s",
    "p50 ms",
    "p99 ms",
    "peak memory",
    "size",
    "note",
)


def plot_of(tuning: Mapping[str, Any]) -> Plot:
    """Return the plot and the table of the engines that passed.

    Args:
        tuning: ``Tuned.to_dict()``.
    """
    passed = [one for one in tuning["candidates"] if one["measured"] is not None]
    places = [_place(one["measured"]) for one in passed]
    title = "Accuracy against throughput"
    winner = next(one for one in passed if name_of(one) == tuning["winner"])
    description = (
        f"{plural(len(passed), 'engine')} by throughput and by the worst distance to the checkpoint. The published "
        f"one, {tuning['winner']}, encodes {winner['measured']['speed']['sentences_per_s']:,.0f} sentences per second."
    )
    canvas = Canvas("tuning")
    for one, (x, y) in zip(passed, places, strict=True):
        canvas.dots([x], [y], "series" if one is not winner else "second", size=8.0 if one is winner else 6.0)
    front = _front(places)
    canvas.axes.plot([x for x, _ in front], [y for _, y in front], color=PLACEHOLDER["line"], linewidth=1.2, zorder=0)
    for number, (x, y) in enumerate(places, start=1):
        canvas.axes.annotate(
            str(number), (x, y), xytext=(0, 7), textcoords="offset points", ha="center", color=PLACEHOLDER["ink"]
        )
    low, high = math.floor(min(y for _, y in places)), math.ceil(max(y for _, y in places))
    powers = range(low, high + 1, 1 if high - low <= 6 else 2)
    canvas.axes.set_yticks(list(powers), [f"1e{power}" for power in powers])
    canvas.axes.set_ylim(low - 0.04 * (high - low + 1), high + 0.12 * (high - low + 1))  # room for the numbers
    canvas.axes.set_xlim(0, 1.08 * max(x for x, _ in places))
    canvas.label("sentences per second (right is faster)", "worst 1 − cosine (below is nearer)")
    return Plot(
        "tuning", title, description, canvas.inline(title, description),
        (("dot", "engine"), ("dot-second", "published")),
        "Numbers are those of the table. The line joins the engines that no other is both faster and nearer than. "
        "An engine is dominated by one that is as good in every figure and better in one.",
        _HEADER, tuple(_rows(passed, tuning["winner"])),
    )  # fmt: skip


def refusals_of(tuning: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, verdict and reason of the engines that were not measured."""
    return [
        (name_of(one), str(one["verdict"]), str(one["reason"])) for one in tuning["candidates"] if not one["measured"]
    ]


def name_of(candidate: Mapping[str, Any]) -> str:
    """Return what a candidate is called."""
    return f"{candidate['precision']} on {candidate['backend']}"


def _place(measured: Mapping[str, Any]) -> tuple[float, float]:
    return measured["speed"]["sentences_per_s"], math.log10(max(1 - measured["min_cosine"], _NEAREST))


def _front(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other is both right of and below, from left to right."""
    return sorted((x, y) for x, y in places if not any(a >= x and b <= y and (a, b) != (x, y) for a, b in places))


def _rows(passed: Sequence[Mapping[str, Any]], winner: str) -> Iterator[tuple[str, ...]]:
    for number, one in enumerate(passed, start=1):
        measured = one["measured"]
        speed = measured["speed"]
        notes = ["published"] if name_of(one) == winner else []
        notes += [f"best {goal}" for goal in one["best_at"]]
        notes += [] if one["on_front"] else ["dominated by another"]
        yield (
            f"{number} {name_of(one)}",
            small(1 - measured["min_cosine"]),
            f"{measured['mean_neighbor_overlap']:.3f}",
            f"{speed['sentences_per_s']:,.0f}",
            f"{speed['p50_ms']:.2f}",
            f"{speed['p99_ms']:.2f}",
            MISSING if measured["peak_bytes"] is None else bytes_size(measured["peak_bytes"]),
            bytes_size(measured["size_bytes"]),
            ", ".join(notes),
        )
