"""int8 with scales from calibration text: Q and DQ in the graph, the rest in the precision the target gains from."""

from __future__ import annotations

import onnx_ir as ir

from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.precisions import Conversion, ConversionRequest, fp16
from exporter.precisions.int8 import conversion
from exporter.precisions.int8.plan import Plan
from exporter.precisions.int8.qdq import insert_qdq
from exporter.precisions.int8.search import Assignment, describe
from exporter.targets import Precision

check = conversion.check


def prepare(request: ConversionRequest) -> Conversion:
    """Calibrate, and search for the MatMuls that can be int8."""
    return conversion.prepare(request, convert)


def convert(plan: Plan, assignment: Assignment, batches: TokenBatches) -> Graph:
    """Return the plan's graph with ``assignment`` in int8.

    Args:
        plan: From ``make_plan``.
        assignment: One of its candidates.
        batches: Real text, for the range audit where the fallback dtype is float16.
    """
    scheme, graph = plan.request.scheme, plan.graph
    on = frozenset(matmul.node for matmul in plan.matmuls) - assignment.excluded
    model = graph.editable()
    insert_qdq(model, plan.matmuls, plan.calibrated.quantization, scheme, on)
    quantized = graph.with_model(model)
    if scheme.fallback_dtype == "fp16":
        quantized = fp16.cast(quantized, fp16.audit(graph, batches))
    return quantized.with_model(quantized.model, precision=Precision.INT8, decisions=decisions(plan, assignment))


def decisions(plan: Plan, assignment: Assignment) -> tuple[str, ...]:
    """Return what was decided and why, one sentence each."""
    request, trial = plan.request, plan.calibrated.trial
    text = request.calibration
    said = [
        f"{len(plan.matmuls) - len(assignment.excluded)} of {len(plan.matmuls)} MatMuls in int8 "
        f"({ir.DataType(request.scheme.activation).name.lower()} activations, int8 weights per channel)",
        describe(request.scheme, assignment, plan.matmuls),
        f"{'scales from each batch as it comes; biases' if request.scheme.dynamic else f'calibrated by {trial.name}'} "
        f"on {text.fit.count} texts: {text.source}, less what is held out, and some edge cases (sha256 {text.sha256})",
        f"chosen by what other texts lose (their min cosine): {_tried(plan)}",
    ]
    if plan.calibrated.smoothed:
        said.append(f"outliers of {len(plan.calibrated.smoothed)} activations were moved into weights (SmoothQuant)")
    if plan.table is not None:
        how = "in int8, one scale per row" if plan.table_kept else "in float32, as int8 loses too much of them"
        said.append(f"word vectors {how}: min cosine {plan.table.min_cosine:.6f} by themselves in int8")
    return (*said, *text.warnings)


def _tried(plan: Plan) -> str:
    """Return every way to calibrate with what it lost, those first that were measured on the most sentences."""
    trials = plan.calibrated.trials
    counts = sorted({trial.sentences for trial in trials}, reverse=True)
    return "; ".join(
        f"on {count} texts, "
        + ", ".join(f"{trial.name} {trial.loss.min_cosine:.4f}" for trial in trials if trial.sentences == count)
        for count in counts
    )
