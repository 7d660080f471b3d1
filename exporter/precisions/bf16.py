"""bfloat16: the range of float32, eight bits of precision."""

from __future__ import annotations

import onnx_ir as ir

from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.precisions import Conversion, ConversionRequest
from exporter.precisions.casting import Cast, any_target
from exporter.precisions.retype import head_nodes, nodes_named, position_nodes, retype
from exporter.targets import Precision

check = any_target


def prepare(request: ConversionRequest) -> Conversion:
    """Return the conversion, which has one candidate."""
    return Cast(request, convert)


def convert(graph: Graph, batches: TokenBatches, keep_fp32: tuple[str, ...]) -> Graph:  # noqa: ARG001
    """Return ``graph`` in bfloat16. Its range is float32's, so no activation needs looking at."""
    model = graph.editable()
    kept = nodes_named(model, keep_fp32) | head_nodes(model) | position_nodes(model)
    count = retype(model, ir.DataType.BFLOAT16, kept)
    decisions = [f"{count} nodes compute in bfloat16, {len(kept)} stay float32"]
    if keep_fp32:
        decisions.append(f"float32 kept by the recipe: {', '.join(keep_fp32)}")
    return graph.with_model(model, precision=Precision.BF16, decisions=tuple(decisions))
