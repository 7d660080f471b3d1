"""What a bundle says of its int8: every figure as JSON, and parity against speed as a plot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from exporter.dependencies import require
from exporter.precisions.int8.judge import Loss
from exporter.precisions.int8.plan import Plan
from exporter.precisions.int8.search import Assignment

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
            "trials": [{"name": trial.name, **asdict(trial.loss)} for trial in calibrated.trials],
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
        "error_by_layer": [
            {"layer": matmul.layer, "relative_error": round(error, 6)}
            for matmul, error in plan.growth[assignment.excluded]
        ],
    }


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


def plot_of(plan: Plan, assignment: Assignment) -> bytes:
    """Return parity against modeled time as SVG; equal plans give equal bytes.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib")
    import matplotlib as mpl  # noqa: PLC0415 - only where a plot is drawn
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"svg.hashsalt": "korsbert", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        times = [1 / other.time for other in plan.found.frontier]
        for label, mark, values in (
            ("min cosine", "o-", [other.loss.min_cosine for other in plan.found.frontier]),
            ("mean cosine", "s-", [other.loss.mean_cosine for other in plan.found.frontier]),
        ):
            axes.plot(times, values, mark, label=label)
        axes.axhline(plan.request.gate.min_cosine, linestyle="--", color="grey", label="gate, min cosine")
        axes.plot([1 / assignment.time], [assignment.loss.min_cosine], "*", markersize=14, label="in this bundle")
        axes.set_xlabel(f"speed of the MatMuls, {plan.request.scheme.fallback_dtype} = 1 (modeled)")
        axes.set_ylabel("cosine to float32, held-out sentences")
        axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "korsbert"})
    return buffer.getvalue()
