"""Let ``ReduceMax`` and ``ReduceMin`` of truth values read integers, for operator sets below 20, which reduce numbers.

::

    ReduceMax(truths)  ->  Cast<bool>(ReduceMax(Cast<int32>(truths)))

Source: https://onnx.ai/onnx/operators/onnx__ReduceMax.html
"""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph.surgery import NodeWriter, input_of


def reduce_bool_as_int32(model: ir.Model) -> int:
    """Rewrite every reduction of truth values; returns how many."""
    integer, truth = ir.DataType.INT32, ir.DataType.BOOL
    nodes = [
        node for node in model.graph if node.op_type in ("ReduceMax", "ReduceMin") and input_of(node).dtype == truth
    ]
    for node in nodes:
        truths, writer = input_of(node), NodeWriter(model, node)
        numbers = writer.write("Cast", truths, like=truths, dtype=integer, to=integer)
        kept = node.attributes.get_int("keepdims", 1)
        axes = [value for value in node.inputs[1:] if value is not None]
        like = node.outputs[0]
        reduced = writer.write(node.op_type, numbers, *axes, like=like, dtype=integer, keepdims=kept)
        writer.replace(writer.write("Cast", reduced, like=like, dtype=truth, to=truth))
    return len(nodes)
