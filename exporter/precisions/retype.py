"""Give every edge of a float32 graph one type: a low precision where it holds, float32 where it does not.

A node computes in the low type unless it is told to stay float32; where the two meet, a ``Cast`` stands on the edge,
once per edge however many nodes read it. Weights are stored in the type they are used in. What follows the
transformer (pooling and later modules) stays float32: sums over a sentence and norms are where half precision loses
most, and they cost next to nothing. Nodes there that only move data follow their input, so that ``cls`` pooling does
not cast a whole batch to keep one row of it.
"""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph.passes import remove_unused
from exporter.graph.passes.name_nodes import HEAD
from exporter.graph.surgery import DATA_MOVERS, add_cast, make_node


def retype(model: ir.Model, low: ir.DataType, keep: set[ir.Node]) -> int:
    """Retype ``model`` in place.

    Args:
        model: A float32 model whose values all carry their type.
        low: ``FLOAT16`` or ``BFLOAT16``.
        keep: Nodes that compute in float32 whatever their place.

    Returns:
        How many nodes compute in the low type.
    """
    computes_low: set[ir.Node] = set()
    for node in model.graph:
        if _touches_float(node) and node not in keep and _may_be_low(node, computes_low):
            computes_low.add(node)

    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(model.graph):
        wanted = low if node in computes_low else ir.DataType.FLOAT
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (ir.DataType.FLOAT, low) and value.dtype != wanted:
                node.replace_input_with(index, _as_type(model, value, wanted, casts))
        if node in computes_low:
            if node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT:
                node.attributes["to"] = ir.AttrInt64("to", low)
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    output.type = ir.TensorType(low)
    _float_output(model, low)
    remove_unused(model)
    return len(computes_low)


def head_nodes(model: ir.Model) -> set[ir.Node]:
    """Return the nodes after the transformer that compute (those that only move data are not among them)."""
    return {node for node in model.graph if str(node.name).startswith(HEAD) and node.op_type not in DATA_MOVERS}


def position_nodes(model: ir.Model) -> set[ir.Node]:
    """Return the nodes that compute floating-point numbers from positions alone.

    Half precision cannot tell neighboring positions above 2,048 apart, nor their angles.
    """
    words = set(model.graph.inputs)
    widths: set[ir.Value | None] = set()
    found: set[ir.Node] = set()
    for node in model.graph:  # in topological order
        if node.op_type == "Shape":
            widths.update(node.outputs)
        elif any(value in words for value in node.inputs):
            words.update(node.outputs)
        elif any(value in widths for value in node.inputs):
            widths.update(node.outputs)
            if node.op_type not in DATA_MOVERS and _touches_float(node):
                found.add(node)
    return found


def nodes_named(model: ir.Model, prefixes: tuple[str, ...]) -> set[ir.Node]:
    """Return the nodes whose name begins with one of ``prefixes``."""
    return {node for node in model.graph if prefixes and str(node.name).startswith(prefixes)}


def _touches_float(node: ir.Node) -> bool:
    return any(v is not None and v.dtype == ir.DataType.FLOAT for v in (*node.inputs, *node.outputs))


def _may_be_low(node: ir.Node, computes_low: set[ir.Node]) -> bool:
    """A node that moves data after the transformer follows its input; everything else may.

    A constant's type is in its attribute and stays as it is.
    """
    if node.op_type in {"Constant", "ConstantOfShape"}:
        return False
    if node.op_type not in DATA_MOVERS or not str(node.name).startswith(HEAD):
        return True
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    return source is not None and source in computes_low


def _as_type(
    model: ir.Model, value: ir.Value, wanted: ir.DataType, casts: dict[tuple[ir.Value, ir.DataType], ir.Value]
) -> ir.Value:
    """Return ``value`` in type ``wanted``: a weight is stored again, an activation is cast right after its producer."""
    if (value, wanted) not in casts:
        if value.is_initializer() and value.const_value is not None:
            casts[value, wanted] = add_cast(model, f"{value.name}.{wanted.name.lower()}", value.const_value, wanted)
        else:
            casts[value, wanted] = _cast(model, value, wanted)
    return casts[value, wanted]


def _cast(model: ir.Model, value: ir.Value, wanted: ir.DataType) -> ir.Value:
    name = f"{str(value.name).rstrip(':')}/Cast.{wanted.name.lower()}"
    node = make_node("Cast", [value], name, wanted, value.shape, {"to": wanted})
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], node)
    else:
        model.graph.insert_after(producer, node)
    return node.outputs[0]


def _float_output(model: ir.Model, low: ir.DataType) -> None:
    """Keep the contract: the sentence vector leaves as float32, under its own name."""
    (output,) = model.graph.outputs
    if output.dtype != low:
        return
    name = str(output.name)
    output.name = f"{name}.{low.name.lower()}"
    cast = _cast(model, output, ir.DataType.FLOAT)
    cast.name = name
    model.graph.outputs[0] = cast
