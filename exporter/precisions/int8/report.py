"""What a bundle says of its int8: every figure as JSON, the choice as a plot and as a table, the loss of each MatMul.

Plot, table and the page of the bundle all read the list ``candidates`` of the JSON data, so that they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from string import ascii_uppercase
from typing import Any

from exporter.precisions.int8.judge import MARGIN, Loss
from exporter.precisions.int8.plan import Plan
from exporter.precisions.int8.search import Assignment
from exporter.recipe import Gate
from exporter.report.int8 import Int8, plot_file

JSON, PLOT = "int8.json", "int8.svg"


@dataclass(frozen=True)
class Tried:
    """An assignment that was built.

    Attributes:
        assignment: Which MatMuls are excluded from quantization.
        loss: What its engine lost on the held-out calibration text.
    """

    assignment: Assignment
    loss: Loss


def report_of(plan: Plan, tried: Sequence[Tried]) -> dict[str, Any]:
    """Return how the last of the assignments that were built came about, as JSON data.

    Ranges are those over the calibration text, before smoothing; scales are those in the graph.
    """
    assignment = tried[-1].assignment
    request, calibrated = plan.request, plan.calibrated
    activations = calibrated.quantization.activations
    return {
        "scheme": {
            "activations": request.scheme.activation.name.lower(),
            "weights": "int8, symmetric, per output channel",
            "fallback_dtype": request.scheme.fallback_dtype,
            "dynamic": request.scheme.dynamic,
        },
        "calibration": {
            "source": request.calibration.source,
            "sha256": request.calibration.sha256,
            "sentences": request.calibration.fit.count,
            "held_out": request.calibration.held_out.count,
            "method": calibrated.trial.name,
            "trials": [
                {"name": trial.name, "sentences": trial.sentences, **asdict(trial.loss)} for trial in calibrated.trials
            ],
            "warnings": list(request.calibration.warnings),
        },
        "word_vectors": None if plan.table is None else {"int8": plan.table_kept, **asdict(plan.table)},
        "activations": {
            name: {
                "low": low,
                "high": high,
                **({} if request.scheme.dynamic else _steps(activations[name].scale, activations[name].zero_point)),
                "smoothed": name in calibrated.smoothed,
            }
            for name, (low, high) in plan.ranges.items()
        },
        "matmuls": [
            {
                "module": matmul.module,
                "name": matmul.title,
                "macs_per_token": matmul.macs,
                "precision": request.scheme.fallback_dtype if matmul.node in assignment.excluded else "int8",
                "alone": asdict(plan.found.sensitivities[matmul.node]),
            }
            for matmul in plan.matmuls
        ],
        "share_excluded": assignment.share,
        "time_model": f"multiplications, at {request.scheme.speedup:g} times the rate in int8",
        "frontier": [
            {"share_excluded": other.share, "relative_time": other.time, **asdict(other.loss)}
            for other in plan.found.frontier
        ],
        "built": [{"share_excluded": one.assignment.share, **asdict(one.loss)} for one in tried],
        "text": f"{request.calibration.held_out.count} held-out sentences (calibration: {request.calibration.source})",
        "gate": {"min_cosine": request.gate.min_cosine, "mean_cosine": request.gate.mean_cosine, "margin": MARGIN},
        "candidates": candidates_of(plan.found.frontier, tried, request.gate),
        "error_by_layer": [
            {"layer": matmul.layer, "relative_error": round(error, 6)}
            for matmul, error in plan.growth[assignment.excluded]
        ],
    }


def candidates_of(frontier: Sequence[Assignment], tried: Sequence[Tried], gate: Gate) -> list[dict[str, Any]]:
    """Return what could have been published, the fastest first: its label, its loss, what became of it, and why.

    Args:
        frontier: The assignments that were measured, the fastest first.
        tried: Those that an engine was built of; the last one is published.
        gate: The bounds that the losses are judged by.
    """
    engines = {one.assignment.excluded: one.loss for one in tried}
    chosen = tried[-1].assignment
    return [
        {
            "label": label,
            "share_excluded": one.share,
            "relative_time": one.time,
            "emulated": _loss(one.loss, gate),
            "engine": _loss(engines[one.excluded], gate) if one.excluded in engines else None,
            **_outcome(one, chosen, engines.get(one.excluded), gate),
        }
        for label, one in zip(ascii_uppercase, frontier, strict=False)
    ]


def _loss(loss: Loss, gate: Gate) -> dict[str, Any]:
    shares = loss.shares_used(gate)
    tightest = max(shares, key=lambda name: shares[name])
    return {
        "min_cosine": loss.min_cosine,
        "mean_cosine": loss.mean_cosine,
        "neighbor_overlap": loss.neighbor_overlap,
        "budget_used": shares[tightest],
        "tightest": tightest,
    }


def _outcome(one: Assignment, chosen: Assignment, engine: Loss | None, gate: Gate) -> dict[str, str]:
    if one.excluded == chosen.excluded:
        within = engine is None or engine.passes(gate)
        why = "the fastest that passes" if within else f"none stays below {MARGIN:.0%}, and this one loses least"
        return {"result": "chosen", "reason": f"{why}: its engine uses {_used(engine or one.loss, gate)}"}
    if engine is not None:
        return {"result": "rejected", "reason": f"its engine uses {_used(engine, gate)}; {MARGIN:.0%} is the most"}
    if one.share > chosen.share:
        return {"result": "not needed", "reason": "slower than the chosen one"}
    if one.loss.passes(gate):
        return {
            "result": "not tried",
            "reason": f"the search passed it over; emulated, it uses {_used(one.loss, gate)}",
        }
    return {"result": "rejected", "reason": f"emulated, it uses {_used(one.loss, gate)}; {MARGIN:.0%} is the most"}


def _used(loss: Loss, gate: Gate) -> str:
    said = _loss(loss, gate)
    return f"{said['budget_used']:.0%} of what the gate allows ({said['tightest']})"


def candidates_table(said: Mapping[str, Any]) -> str:
    """Return the candidates as Markdown, for the model card.

    Args:
        said: What ``report_of`` returned.
    """
    fallback = said["scheme"]["fallback_dtype"]
    rows = [
        f"| {one['label']} | {one['share_excluded']:.1%} | {1 / one['relative_time']:.2f}x "
        f"| {1 - one['emulated']['min_cosine']:.2g} | {1 - one['emulated']['mean_cosine']:.2g} "
        f"| {'**chosen**' if one['result'] == 'chosen' else one['result']} | {one['reason']} |\n"
        for one in said["candidates"]
    ]
    head = (
        f"| candidate | work in {fallback} | speed of the MatMuls (modeled) | 1 - min cosine, emulated | 1 - mean "
        "| result | reason |\n|---|---|---|---|---|---|---|\n"
    )
    return f"The candidates, judged on {said['text']}, not on the probes:\n\n{head}{''.join(rows)}"


def table_of(plan: Plan, assignment: Assignment) -> str:
    """Return as Markdown what each MatMul computes in, and what it loses in int8 if nothing else is."""
    rows = [
        f"| {matmul.title} | {plan.request.scheme.fallback_dtype if matmul.node in assignment.excluded else 'int8'} "
        f"| {1 - plan.found.sensitivities[matmul.node].min_cosine:.1e} "
        f"| {1 - plan.found.sensitivities[matmul.node].mean_cosine:.1e} |\n"
        for matmul in plan.matmuls
    ]
    head = "| module | computes in | 1 - min cosine, alone in int8 | 1 - mean |\n|---|---|---|---|\n"
    return head + "".join(rows)


def _steps(scale: float, zero_point: int) -> dict[str, float | int]:
    return {"scale": scale, "zero_point": zero_point}


def plot_of(said: Mapping[str, Any]) -> bytes:
    """Return the candidates as SVG: parity against modeled speed. Equal data give equal bytes.

    Args:
        said: What ``report_of`` returned.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    return plot_file(Int8.model_validate(said))
