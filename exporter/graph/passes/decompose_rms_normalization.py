"""Write ``RMSNormalization`` out, for operator sets below 23, which have no such operator.

::

    RMSNormalization(x, scale)  ->  x / sqrt(mean(x^2) + epsilon) * scale

The mean is taken over the last axis, in the type that ``stash_type`` names: float32.

Source: https://onnx.ai/onnx/operators/onnx__RMSNormalization.html
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.surgery import NodeWriter, add_constant, input_of

_EPSILON = 1e-5  # where the node states none


def decompose_rms_normalization(model: ir.Model) -> int:
    """Replace every ``RMSNormalization`` over the last axis alone; returns how many."""
    nodes = [node for node in model.graph if node.op_type == "RMSNormalization" and _is_over_last_axis(node)]
    for node in nodes:
        _decompose(model, node)
    return len(nodes)


def _is_over_last_axis(node: ir.Node) -> bool:
    shape = input_of(node).shape
    last = -1 if shape is None else len(shape) - 1
    return (
        shape is not None
        and node.attributes.get_int("axis", -1) in (-1, last)
        and node.attributes.get_int("stash_type", ir.DataType.FLOAT) == ir.DataType.FLOAT
    )


def _decompose(model: ir.Model, node: ir.Node) -> None:
    x, scale, writer = input_of(node), input_of(node, 1), NodeWriter(model, node)
    dtype, computed = x.dtype, ir.DataType.FLOAT
    if dtype != computed:
        x = writer.write("Cast", x, like=x, dtype=computed, to=computed)
    mean_shape = ir.Shape([*list(x.shape or ())[:-1], 1])
    squares = writer.write("Mul", x, x, like=x)
    axes = add_constant(model, f"{node.name}/axes", np.array([-1], dtype=np.int64))
    mean = writer.write("ReduceMean", squares, axes, like=x, shape=mean_shape, keepdims=1)
    epsilon = writer.number(node.attributes.get_float("epsilon", _EPSILON), computed)
    root = writer.write("Sqrt", writer.write("Add", mean, epsilon, like=mean), like=mean)
    normalized = writer.write("Div", x, root, like=x)
    if dtype != computed:
        normalized = writer.write("Cast", normalized, like=x, dtype=dtype, to=dtype or computed)
    writer.replace(writer.write("Mul", normalized, scale, like=normalized))
