"""The plots of a parity report, each with its table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from exporter.report.numbers import MISSING, count, plural, small
from exporter.report.svg import PLACEHOLDER, Canvas, Plot

_SMALLEST = 1e-16  # distances below are float64's own rounding, and count as none
_PER_DECADE = 4


@dataclass(frozen=True)
class _Bins:
    """Equal bins of a logarithmic axis, and how many values are in each. ``none`` counts the values that are 0."""

    low: int
    counts: list[int]
    none: int = 0

    @property
    def edges(self) -> list[float]:
        """The powers of ten between the bins."""
        return [self.low + place / _PER_DECADE for place in range(len(self.counts) + 1)]

    def beyond(self, bound: float | None) -> list[bool]:
        """Return of each bin whether it has values, all of them beyond a bound."""
        least = math.inf if not bound else math.log10(bound) - 1e-9
        return [found > 0 and edge >= least for edge, found in zip(self.edges, self.counts, strict=False)]

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield each range that is not empty, and its count."""
        if self.none:
            yield "none at all", count(self.none)
        for lower, upper, found in zip(self.edges, self.edges[1:], self.counts, strict=False):
            if found:
                yield f"{small(10**lower)} to {small(10**upper)}", count(found)


def plots_of(report: Mapping[str, Any], prefix: str) -> list[Plot]:
    """Return the plots of a report: those that it has data for.

    Args:
        report: ``ParityReport.to_dict()``, or ``Comparison.to_dict()``: that has no drift of pairs, no kinds of
            rows, and lengths only where texts were compared.
        prefix: Begins the names of the plots.
    """
    plots = [_cosines(report, f"{prefix}cosines")]
    if all(row["tokens"] is not None for row in report["rows"]):
        plots.append(_by_length(report, f"{prefix}length"))
    if "pairwise_drift" in report:
        plots.append(_drift(report, f"{prefix}drift"))
    return plots


def bound_of(report: Mapping[str, Any], name: str) -> float | None:
    """Return the bound of a statistic, where the gate has one."""
    return next((float(verdict["bound"]) for verdict in report["verdicts"] if verdict["name"] == name), None)


def _cosines(report: Mapping[str, Any], name: str) -> Plot:
    distances = [1 - row["cosine"] for row in report["rows"] if row["cosine"] is not None]
    broken = len(report["rows"]) - len(distances)
    cosine = bound_of(report, "min cosine")
    bound = None if cosine is None else 1 - cosine
    bins = _binned(distances, bound)
    title = "How far each probe is from its reference"
    worst, middle = max(distances, default=None), median(distances) if distances else None
    description = (
        f"A histogram of 1 - cosine over {plural(len(distances), 'probe')}: the median is {small(middle)}, the largest "
        f"{small(worst)}{'' if bound is None else f', the bound {small(bound)}'}."
    )
    canvas = Canvas(name)
    _histogram(canvas, bins, bound)
    canvas.label("1 − cosine to the reference (left is nearer)", "probes")
    note = "Each bar counts probes. Both axes are logarithmic, so that a single bad probe can be seen."
    if broken:
        note += f" {plural(broken, 'probe')} with NaN or Inf {'is' if broken == 1 else 'are'} not in the plot."
    return Plot(
        name, title, description, canvas.inline(title, description), _legend(bound, "min cosine", bins), note,
        ("1 − cosine", "probes"), tuple(bins.rows()) or ((MISSING, count(broken)),),
    )  # fmt: skip


def _drift(report: Mapping[str, Any], name: str) -> Plot:
    found = report["pairwise_drift"]
    pairs = list(found["pairs"])
    low = round(math.log10(found["edges"][0]) * _PER_DECADE)
    filled = [place for place, number in enumerate(pairs) if number] or [0]
    bound = bound_of(report, "similarity drift")
    # Whole powers of ten around what is filled, and the bound.
    first = math.floor((low + filled[0]) / _PER_DECADE)
    last = math.ceil((low + filled[-1] + 1) / _PER_DECADE)
    if bound:
        last = max(last, math.floor(math.log10(bound)) + 1)
    counts = [
        pairs[place] if 0 <= (place := first * _PER_DECADE + step - low) < len(pairs) else 0
        for step in range((last - first) * _PER_DECADE)
    ]
    bins, largest = _Bins(first, counts), report["statistics"]["max_similarity_drift"]
    title = "How much the cosine of two probes changes"
    description = (
        f"A histogram of the change of {count(sum(pairs))} pairwise cosines. The largest change is {small(largest)}"
        f"{'' if bound is None else f', the bound {small(bound)}'}."
    )
    canvas = Canvas(name)
    _histogram(canvas, bins, bound)
    canvas.label("change of the cosine of a pair (left is less)", "pairs of probes")
    note = "Search sees this: neighbors change their order where these changes are larger than their distances."
    return Plot(
        name, title, description, canvas.inline(title, description), _legend(bound, "similarity drift", bins), note,
        ("change of the cosine", "pairs"), tuple(bins.rows()),
    )  # fmt: skip


def _by_length(report: Mapping[str, Any], name: str) -> Plot:
    known = [row for row in report["rows"] if row["relative_error"] is not None]
    bound = bound_of(report, "max relative error")
    title = "Error against length"
    groups = _length_groups(known)
    largest = max(known, key=lambda row: row["relative_error"], default=None)
    description = (
        "No probe has a finite error."
        if largest is None
        else f"{plural(len(known), 'probe')} of {count(min(row['tokens'] for row in known))} to "
        f"{count(max(row['tokens'] for row in known))} tokens. The largest relative error is "
        f"{small(largest['relative_error'])}, at {count(largest['tokens'])} tokens."
    )
    canvas = Canvas(name)
    axes = canvas.axes
    positive = [row["relative_error"] for row in known if row["relative_error"] > 0]
    floor = min(positive, default=1e-7)
    places = [(math.log2(max(row["tokens"], 1)), math.log10(max(row["relative_error"], floor))) for row in known]
    edges = [row.get("kind", "").startswith("edge:") for row in known]
    for edge, color, size in ((False, "series", 4.5), (True, "second", 4.0)):
        chosen = [place for place, special in zip(places, edges, strict=True) if special is edge]
        canvas.dots([x for x, _ in chosen], [y for _, y in chosen], color, size=size, square=edge)
    middle = [(sum(group.span) / 2, math.log10(max(group.median, floor))) for group in groups]
    axes.plot([x for x, _ in middle], [y for _, y in middle], color=PLACEHOLDER["ink"], linewidth=1.6)
    if bound:
        canvas.bound(y=math.log10(bound))
    lows = [math.log10(floor), *([math.log10(bound)] if bound else [])]
    highs = [math.log10(max(positive, default=1e-6)), *([math.log10(bound)] if bound else [])]
    _powers(axes.set_yticks, axes.set_ylim, math.floor(min(lows)), math.ceil(max(highs) + 0.05))
    last = math.ceil(max((x for x, _ in places), default=1.0)) + 0.2
    ticks = list(range(1, math.floor(last) + 1, 1 if last < 9 else 2))
    axes.set_xticks(ticks, [f"{2**tick:,d}" for tick in ticks])
    axes.set_xlim(0.6 if places and min(x for x, _ in places) >= 1 else -0.2, last)
    canvas.label("tokens", "relative error of the vector")
    note = "A rise with the length points at truncation, positions or the mask; a flat band is rounding."
    legend = (("dot", "sentence"), *((("square", "edge case"),) if any(edges) else ()), ("line-ink", "median"))
    return Plot(
        name, title, description, canvas.inline(title, description),
        (*legend, *_legend(bound, "max relative error", None)), note,
        ("tokens", "probes", "median error", "largest error"),
        tuple((group.title, count(group.number), small(group.median), small(group.largest)) for group in groups),
    )  # fmt: skip


@dataclass(frozen=True)
class _Group:
    title: str
    span: tuple[float, float]
    number: int
    median: float
    largest: float


def _length_groups(rows: Sequence[Mapping[str, Any]]) -> list[_Group]:
    """Return the errors by ranges of lengths that double: 1, 2 to 3, 4 to 7."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(max(int(row["tokens"]), 1).bit_length() - 1, []).append(row["relative_error"])
    return [
        _Group(
            f"{2**power:,d} to {2 ** (power + 1) - 1:,d}" if power else "0 to 1",
            (float(power), float(power + 1)),
            len(errors),
            median(errors),
            max(errors),
        )
        for power, errors in sorted(found.items())
    ]


def _binned(values: Sequence[float], bound: float | None) -> _Bins:
    positive = [math.log10(value) for value in values if value > _SMALLEST]
    shown = [*positive, *([math.log10(bound)] if bound else [])] or [-8.0]
    low, high = math.floor(min(shown)), max(math.floor(max(shown)) + 1, math.floor(min(shown)) + 2)
    counts = [0] * ((high - low) * _PER_DECADE)
    for value in positive:
        counts[int((value - low) * _PER_DECADE)] += 1
    return _Bins(low, counts, len(values) - len(positive))


def _histogram(canvas: Canvas, bins: _Bins, bound: float | None) -> None:
    axes, step = canvas.axes, 1 / _PER_DECADE
    base = math.log10(0.5)
    places = list(zip(bins.edges, bins.counts, bins.beyond(bound), strict=False))
    if bins.none:
        places.append((bins.low - 2 * step, bins.none, False))
    for edge, found, beyond in places:
        if found:
            axes.bar(
                edge + 0.04 * step, math.log10(found) - base, width=0.92 * step, bottom=base, align="edge",
                color=PLACEHOLDER["bad" if beyond else "series"],
            )  # fmt: skip
    if bound:
        canvas.bound(x=math.log10(bound))
    powers = range(bins.low, round(bins.edges[-1]) + 1, 1 if len(bins.counts) <= 8 * _PER_DECADE else 2)
    ticks, labels = list(map(float, powers)), [_power(power) for power in powers]
    if bins.none:
        ticks, labels = [bins.low - 1.5 * step, *ticks[1:]], ["0", *labels[1:]]
    axes.set_xticks(ticks, labels)
    axes.set_xlim(bins.low - (2.5 * step if bins.none else 0.3 * step), bins.edges[-1] + 0.3 * step)
    most = max([found for _, found, _ in places], default=1)
    heights = range(math.floor(math.log10(max(most, 1))) + 1)
    axes.set_yticks(list(heights), [f"{10**height:,d}" for height in heights])
    axes.set_ylim(base, max(math.log10(max(most, 2)) * 1.06, 1.0))


def _powers(set_ticks: Any, set_limits: Any, low: int, high: int) -> None:
    powers = range(low, high + 1, 1 if high - low <= 6 else 2)
    set_ticks(list(powers), [_power(power) for power in powers])
    set_limits(low, high)


def _power(power: int) -> str:
    return {0: "1", -1: "0.1", -2: "0.01"}.get(power, f"1e{power}")


def _legend(bound: float | None, statistic: str, bins: _Bins | None) -> tuple[tuple[str, str], ...]:
    if bound is None:
        return ()
    beyond = bins is not None and any(bins.beyond(bound))
    return (("dash-bad", f"bound: {statistic}"), *((("bar-bad", "beyond the bound"),) if beyond else ()))
