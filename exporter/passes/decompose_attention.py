"""Write ``Attention`` out as matrix products, for engines without a kernel for it.

The ONNX operator (opset 23) on (batch, heads, sequence, head size) tensors is, with a boolean mask::

    S = (sqrt(s) Q) (sqrt(s) K)^T        s = ``scale``, by default 1 / sqrt(head size)
    Y = Softmax(S + where(mask, 0, lowest)) V

``scale`` is folded into Q alone, as engines look for. ``lowest`` is the smallest finite number of the type, which
after the softmax is an exact zero wherever a row attends to anything.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx_ir as ir

from exporter.passes.constants import add_constant

_DTYPES = {
    ir.DataType.FLOAT: np.dtype(np.float32),
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}


def decompose_attention(model: ir.Model) -> int:
    """Replace every ``Attention`` that is bidirectional, on rank-4 inputs and without a cache; returns how many.

    Causal attention, soft capping, past keys and rank-3 inputs are left alone: no model that korsbert folds has them.
    """
    additive: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    count = 0
    for node in list(model.graph):
        if node.op_type == "Attention" and _is_plain(node):
            _decompose(model, node, additive)
            count += 1
    return count


def _is_plain(node: ir.Node) -> bool:
    query = node.inputs[0]
    rank4 = query is not None and query.shape is not None and len(query.shape) == 4
    plain = node.attributes.get_int("is_causal", 0) == 0 and node.attributes.get_float("softcap", 0.0) == 0.0
    return rank4 and plain and len(node.outputs) == 1 and len([v for v in node.inputs if v is not None]) <= 4


def _decompose(model: ir.Model, node: ir.Node, additive: dict[tuple[ir.Value, ir.DataType], ir.Value]) -> None:
    query, key, value = node.inputs[:3]
    if query is None or key is None or value is None or query.dtype is None or query.shape is None:
        raise ValueError(f"{node.name}: Attention without query, key, value or their type")
    dtype = query.dtype
    batch, heads, sequence, size = query.shape
    scale = node.attributes.get_float("scale", 0.0) or 1.0 / math.sqrt(int(size))  # type: ignore[arg-type]
    scores_shape = ir.Shape([batch, heads, sequence, sequence])
    name = str(node.name)

    def op(op_type: str, inputs: list[ir.Value], shape: ir.Shape, attributes: dict[str, object] | None = None) -> ir.Value:
        made = ir.node(op_type, inputs, attributes or {}, name=f"{name}/{op_type}.{len(new)}")  # type: ignore[arg-type]
        made.outputs[0].name, made.outputs[0].shape = f"{made.name}:", shape
        made.outputs[0].type = ir.TensorType(dtype)
        new.append(made)
        return made.outputs[0]

    new: list[ir.Node] = []
    factor = add_constant(model, f"{name}/scale", np.array(scale, dtype=_DTYPES[dtype]))
    scaled = op("Mul", [query, factor], query.shape)
    keys = op("Transpose", [key], ir.Shape([batch, heads, size, sequence]), {"perm": [0, 1, 3, 2]})
    scores = op("MatMul", [scaled, keys], scores_shape)
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None:
        if (mask, dtype) not in additive:
            additive[mask, dtype] = _additive(model, mask, dtype)
        scores = op("Add", [scores, additive[mask, dtype]], scores_shape)
    weights = op("Softmax", [scores], scores_shape, {"axis": -1})
    result = op("MatMul", [weights, value], query.shape)
    model.graph.insert_before(node, new)
    node.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _additive(model: ir.Model, mask: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Turn a boolean mask into 0 where it attends and the lowest finite number elsewhere, once for all layers."""
    if mask.dtype != ir.DataType.BOOL:
        return mask
    expanded = mask.producer()
    if expanded is not None and expanded.op_type == "Expand" and expanded.inputs[0] is not None:
        mask = expanded.inputs[0]  # a sum broadcasts by itself
    kind = _DTYPES[dtype]
    zero = add_constant(model, "mask/zero", np.array(0, dtype=kind))
    lowest = add_constant(model, "mask/lowest", np.array(ml_dtypes.finfo(kind).min, dtype=kind))
    where = ir.node("Where", [mask, zero, lowest], name=f"mask/Where.{dtype.name.lower()}")
    where.outputs[0].name, where.outputs[0].shape = f"{where.name}:", mask.shape
    where.outputs[0].type = ir.TensorType(dtype)
    producer = mask.producer()
    if producer is None:
        raise ValueError("the mask of an Attention is a graph input")
    model.graph.insert_after(producer, where)
    return where.outputs[0]
