"""Write ``Attention`` out as MatMuls and a Softmax, for engines without a kernel for it.

The ONNX operator (opset 23) on (batch, heads, sequence, head size) tensors is, with a boolean mask::

    S = (sqrt(s) Q) (sqrt(s) K)^T        s = ``scale``, by default 1 / sqrt(head size)
    Y = Softmax(S + where(mask, 0, lowest)) V

``scale`` is folded into Q alone, as engines look for. ``lowest`` is the smallest finite number of the type, which
after the softmax is an exact zero wherever a row attends to anything.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from exporter.graph.surgery import add_constant, input_of, make_node


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
    known = query is not None and query.shape is not None and len(query.shape) == 4 and isinstance(query.shape[3], int)
    bidirectional = node.attributes.get_int("is_causal", 0) == 0 and node.attributes.get_float("softcap", 0.0) == 0.0
    return known and bidirectional and len(node.outputs) == 1 and all(value is None for value in node.inputs[4:])


def _decompose(model: ir.Model, node: ir.Node, additive: dict[tuple[ir.Value, ir.DataType], ir.Value]) -> None:
    query, key, value = (input_of(node, index) for index in range(3))
    if query.dtype is None or query.shape is None:
        raise ValueError(f"{node.name}: the query of an Attention has no type or no shape")
    dtype, name = query.dtype, str(node.name)
    batch, heads, sequence, size = query.shape
    square = [batch, heads, sequence, sequence]
    scale = node.attributes.get_float("scale", 0.0) or 1.0 / math.sqrt(size if isinstance(size, int) else 1)
    factor = add_constant(model, f"{name}/scale", np.array(scale, dtype=dtype.numpy()))

    scaled = make_node("Mul", [query, factor], f"{name}/Mul", dtype, query.shape)
    keys = make_node(
        "Transpose", [key], f"{name}/Transpose", dtype, [batch, heads, size, sequence], {"perm": [0, 1, 3, 2]}
    )
    scores = make_node("MatMul", [scaled.outputs[0], keys.outputs[0]], f"{name}/MatMul.scores", dtype, square)
    new = [scaled, keys, scores]
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None:
        if (mask, dtype) not in additive:
            additive[mask, dtype] = _additive(model, mask, dtype, len(additive))
        new.append(make_node("Add", [new[-1].outputs[0], additive[mask, dtype]], f"{name}/Add", dtype, square))
    new.append(make_node("Softmax", [new[-1].outputs[0]], f"{name}/Softmax", dtype, square, {"axis": -1}))
    new.append(make_node("MatMul", [new[-1].outputs[0], value], f"{name}/MatMul.values", dtype, query.shape))
    model.graph.insert_before(node, new)
    node.outputs[0].replace_all_uses_with(new[-1].outputs[0], replace_graph_outputs=True)
    model.graph.remove(node, safe=True)


def _additive(model: ir.Model, mask: ir.Value, dtype: ir.DataType, number: int) -> ir.Value:
    """Turn a boolean mask into 0 where it attends and the lowest finite number elsewhere, once for all layers.

    The masks of a model (of a whole sentence, of neighbors) are numbered from 0.
    """
    if mask.dtype != ir.DataType.BOOL:
        return mask
    expanded = mask.producer()
    if expanded is not None and expanded.op_type == "Expand" and expanded.inputs[0] is not None:
        mask = expanded.inputs[0]  # a sum broadcasts by itself
    zero = add_constant(model, "mask/zero", np.array(0, dtype=dtype.numpy()))
    lowest = add_constant(model, "mask/lowest", np.array(dtype.min, dtype=dtype.numpy()))
    name = f"mask/Where.{dtype.name.lower()}" + (f".{number}" if number else "")
    where = make_node("Where", [mask, zero, lowest], name, dtype, mask.shape)
    producer = mask.producer()
    if producer is None:
        raise ValueError("the mask of an Attention is a graph input")
    model.graph.insert_after(producer, where)
    return where.outputs[0]
