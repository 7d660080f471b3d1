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
from exporter.graph.passes.building import make_node
from exporter.graph.passes.decompose_attention import decompose_attention

FP16_MAX = 65504.0
FP16_SMALLEST_NORMAL = 2.0**-14
HEADROOM = 4.0  # text in production is wilder than probes
# Operators whose output is no larger than their input, so it is not watched. The movers hand a large value on.
MOVERS = {"Concat", "Expand", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
_NEVER_LARGER = {*MOVERS, "Softmax"}


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
    session_module = require("onnxruntime")
    options = session_module.SessionOptions()
    options.log_severity_level = 3
    # In the default order the reductions, which stand at the end, run last, and until then every activation is alive.
    options.execution_order = session_module.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_pattern = False  # a plan per shape: memory, and no two batches are alike
    data = ir.to_proto(model).SerializeToString()
    session = session_module.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    del data
    largest = np.zeros(len(watched))
    outputs = [f"{extreme}/{name}" for extreme in ("min", "max") for name in watched]
    for input_ids, attention_mask in batches:
        found = np.array(session.run(outputs, {"input_ids": input_ids, "attention_mask": attention_mask}))
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
