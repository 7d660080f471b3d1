"""The candidates of an int8 export: what was chosen, what was refused, and by what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator

from exporter.report.numbers import small
from exporter.report.svg import PLACEHOLDER, Canvas, Plot

_Time = Annotated[FiniteFloat, Field(ge=1e-3, le=1e3)]
_Cosine = Annotated[FiniteFloat, Field(ge=-1.1, le=1.1)]
_EXACT = 1e-9  # a smaller distance from 1 is drawn here
_APART = 0.01  # speeds that are nearer have one label


class _Loss(BaseModel):
    min_cosine: _Cosine
    mean_cosine: _Cosine
    budget_used: FiniteFloat
    tightest: str


class _Candidate(BaseModel):
    label: Annotated[str, Field(min_length=1, max_length=2, pattern="^[A-Z]+$")]
    share_excluded: FiniteFloat
    relative_time: _Time
    emulated: _Loss
    engine: _Loss | None
    result: Literal["chosen", "rejected", "not needed", "not tried"]
    reason: str

    @property
    def speed(self) -> float:
        """Modeled speed of the MatMuls, relative to all of them in the fallback dtype."""
        return 1 / self.relative_time


class _Scheme(BaseModel):
    fallback_dtype: Literal["fp16", "fp32"]


class _Gate(BaseModel):
    min_cosine: _Cosine
    margin: FiniteFloat


class Int8(BaseModel):
    """What a page and a plot read of ``int8.json``."""

    scheme: _Scheme
    text: str
    gate: _Gate
    candidates: Annotated[tuple[_Candidate, ...], Field(min_length=1, max_length=26)]

    @model_validator(mode="after")
    def _one_is_chosen(self) -> Self:
        if sum(one.result == "chosen" for one in self.candidates) != 1:
            raise ValueError("not one candidate is chosen")
        return self

    @property
    def chosen(self) -> _Candidate:
        """The candidate that was published."""
        return next(one for one in self.candidates if one.result == "chosen")

    @property
    def faster(self) -> tuple[_Candidate, ...]:
        """The candidates that are faster than the published one, the fastest first."""
        return tuple(one for one in self.candidates if one.speed > self.chosen.speed)


TITLE = "INT8 candidates: loss against modeled speed"
HEADER = (
    "label",
    "result",
    "work in {}",
    "speed",
    "1 − min",
    "1 − mean",
    "engine, 1 − min",
    "used up",
    "reason",
)


def plot_file(said: Int8) -> bytes:
    """Return the plot as a file of its own; equal data give equal bytes.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    canvas = _drawn(said)
    canvas.axes.legend(
        handles=_handles(), loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=10
    )
    return canvas.file(TITLE, _description(said), note_of(said))


def plot_of(said: Int8) -> Plot:
    """Return the plot of a page, with its table."""
    description = _description(said)
    return Plot(
        name="int8",
        title=TITLE,
        description=description,
        svg=_drawn(said).inline(TITLE, description),
        legend=(
            ("line-series", "smallest cosine, emulated"),
            ("line-second", "mean cosine, emulated"),
            ("ring", "smallest cosine of an engine that was built"),
            ("star", "chosen"),
            ("dash-bad", "gate: smallest cosine"),
        ),
        note=note_of(said),
        header=tuple(title.format(said.scheme.fallback_dtype) for title in HEADER),
        rows=tuple(
            (
                one.label,
                one.result,
                f"{one.share_excluded:.1%}",
                f"{one.speed:.2f}×",
                small(1 - one.emulated.min_cosine),
                small(1 - one.emulated.mean_cosine),
                small(1 - one.engine.min_cosine) if one.engine is not None else "not built",
                f"{(one.engine or one.emulated).budget_used:.0%}",
                one.reason,
            )
            for one in said.candidates
        ),
    )


def note_of(said: Int8) -> str:
    """Say which text the plot shows, and why no faster candidate was published."""
    why = " ".join(
        f"{one.label} is faster and was {'refused' if one.result == 'rejected' else one.result}: {one.reason}."
        for one in said.faster
    )
    why = why or f"{said.chosen.label} is the fastest candidate."
    return f"Judged on {said.text}. The probes of the gate take no part in the choice. {why}"


def _description(said: Int8) -> str:
    chosen = said.chosen
    first, last = said.candidates[0], said.candidates[-1]
    return (
        f"{len(said.candidates)} candidates, {first.speed:.2f} to {last.speed:.2f} times the speed of MatMuls in "
        f"{said.scheme.fallback_dtype}. {chosen.label} was chosen: 1 - min cosine "
        f"{small(1 - chosen.emulated.min_cosine)} when emulated, {chosen.speed:.2f} times the speed."
    )


def _drawn(said: Int8) -> Canvas:
    canvas = Canvas("int8", height=270)
    axes, chosen = canvas.axes, said.chosen
    axes.set_yscale("log")
    speeds = [one.speed for one in said.candidates]
    worst = [_distance(one.emulated.min_cosine) for one in said.candidates]
    mean = [_distance(one.emulated.mean_cosine) for one in said.candidates]
    axes.plot(speeds, mean, "s-", color=PLACEHOLDER["second"], markersize=4, linewidth=1.4)
    axes.plot(speeds, worst, "o-", color=PLACEHOLDER["series"], markersize=5, linewidth=1.8)
    built = [one for one in said.candidates if one.engine is not None]
    axes.plot(
        [one.speed for one in built],
        [_distance(one.engine.min_cosine) for one in built if one.engine is not None],
        "o",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor=PLACEHOLDER["ink"],
    )
    axes.plot([chosen.speed], [_distance(chosen.emulated.min_cosine)], "*", color=PLACEHOLDER["ink"], markersize=13)
    canvas.bound(y=_distance(said.gate.min_cosine))
    for group in _side_by_side(said.candidates):
        lost = [loss.min_cosine for one in group for loss in (one.emulated, one.engine) if loss is not None]
        axes.annotate(
            ", ".join(one.label for one in group),
            (group[0].speed, _distance(min(lost))),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            color=PLACEHOLDER["ink"],
        )
    axes.margins(y=0.18)
    axes.minorticks_off()
    low, high = axes.get_ylim()
    powers = [10.0**power for power in range(-12, 2) if low <= 10.0**power <= high]
    axes.set_yticks(powers, [small(power) for power in powers])
    canvas.label(
        f"speed of the MatMuls, {said.scheme.fallback_dtype} = 1 (modeled)",
        "1 − cosine, held-out text (lower is nearer)",
    )
    return canvas


def _side_by_side(candidates: Sequence[_Candidate]) -> list[list[_Candidate]]:
    """Return the candidates in groups that have one label, because labels of their own would lie on each other."""
    groups: list[list[_Candidate]] = []
    for one in candidates:
        if groups and abs(one.speed - groups[-1][0].speed) < _APART:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _distance(cosine: float) -> float:
    return max(1 - cosine, _EXACT)


def _handles() -> list[object]:
    from matplotlib.lines import Line2D  # noqa: PLC0415 - only where a plot is drawn

    ink, dashed = PLACEHOLDER["ink"], (0, (4, 3))
    return [
        Line2D([], [], color=PLACEHOLDER["series"], marker="o", markersize=5, label="min cosine, emulated"),
        Line2D([], [], color=PLACEHOLDER["second"], marker="s", markersize=4, label="mean cosine, emulated"),
        Line2D([], [], color="none", marker="o", markersize=9, markerfacecolor="none", markeredgecolor=ink,
               label="min cosine, engine that was built"),
        Line2D([], [], color="none", marker="*", markersize=13, markerfacecolor=ink, markeredgecolor=ink,
               label="chosen"),
        Line2D([], [], color=PLACEHOLDER["bad"], linestyle=dashed, label="gate: min cosine"),
    ]  # fmt: skip
