"""The largest activation at every edge of a graph over real text.

float16 ends at 65504. A value beyond it becomes infinite, and one NaN later the sentence vector is gone, for that
sentence only: no average shows it. So the ranges are measured before anything is cast.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.calibration import TokenBatches
from exporter.dependencies import require
from exporter.graph import Graph
from exporter.graph.passes.decompose_attention import decompose_attention
from exporter.graph.storage import open_model
from exporter.graph.surgery import DATA_MOVERS, make_node
from exporter.runtime.contract import INPUTS
from exporter.runtime.session import session_options

FP16_MAX = float(ir.DataType.FLOAT16.max)
FP16_SMALLEST_NORMAL = float(ir.DataType.FLOAT16.tiny)
HEADROOM = 4.0  # text in production is wilder than ours
_NEVER_LARGER = {*DATA_MOVERS, "Softmax"}  # operators whose output is no larger than their input: it is not watched


def largest_activations(graph: Graph, batches: TokenBatches) -> dict[str, float]:
    """Run ``graph`` on ``batches`` and return the largest absolute value by node name (over all outputs of the node).

    Attention is written out first, so that its scores count too; they are booked under the ``Attention`` node. The
    additive mask is left out: its lowest number is meant to be out of range.
    """
    model = graph.editable()
    attention = [str(node.name) for node in model.graph if node.op_type == "Attention"]
    decompose_attention(model)
    masked = {node for node in model.graph if node.op_type == "Where" or _reads_where(node)}
    watched: list[str] = []
    for node in list(model.graph):
        if node in masked or node.op_type in _NEVER_LARGER or node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        _watch(model, node)
        watched.append(str(node.name))
    options = session_options()
    # In the default order the reductions, which stand at the end, run last, and until then every activation is alive.
    options.execution_order = require("onnxruntime").ExecutionOrder.PRIORITY_BASED
    session = open_model(model, options)
    largest = np.zeros(len(watched))
    outputs = [f"{extreme}/{name}" for extreme in ("min", "max") for name in watched]
    for batch in batches:
        found = np.array(session.run(outputs, dict(zip(INPUTS, batch, strict=True))))
        size = np.abs(found.reshape(2, -1)).max(axis=0)
        largest = np.maximum(largest, np.where(np.isfinite(size), size, np.inf))
    result: dict[str, float] = {}
    for name, value in zip(watched, largest, strict=True):
        owner = next((fused for fused in attention if name.startswith(f"{fused}/")), name)
        result[owner] = max(result.get(owner, 0.0), float(value))
    return result


def _reads_where(node: ir.Node) -> bool:
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(producer is not None and producer.op_type == "Where" for producer in producers)


def _watch(model: ir.Model, node: ir.Node) -> None:
    """Append the extremes of a node's output as outputs: two numbers per run, not a copy of every activation."""
    for extreme, op_type in (("min", "ReduceMin"), ("max", "ReduceMax")):
        name = f"{extreme}/{node.name}"
        reduce = make_node(op_type, [node.outputs[0]], name, ir.DataType.FLOAT, [], {"keepdims": 0})
        reduce.outputs[0].name = name
        model.graph.append(reduce)
        model.graph.outputs.append(reduce.outputs[0])
