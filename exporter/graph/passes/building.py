"""Make constants and typed nodes: every value a pass adds carries its name, type and shape, as later passes rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

Dimension = int | str | ir.SymbolicDim | None


def add_constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Register ``array`` as an initializer called ``name`` (made unique if taken) and return its value."""
    unique, number = name, 1
    while unique in model.graph.initializers:
        number += 1
        unique = f"{name}.{number}"
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(name=unique, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    model.graph.register_initializer(value)
    return value


def make_node(
    op_type: str,
    inputs: Sequence[ir.Value],
    name: str,
    dtype: ir.DataType,
    shape: Sequence[Dimension] | ir.Shape | None,
    attributes: Mapping[str, int | Sequence[int]] | None = None,
) -> ir.Node:
    """Return a node with one output of known type and shape. It is not yet in a graph."""
    node = ir.node(op_type, inputs, attributes or {}, name=name)
    output = node.outputs[0]
    output.name, output.type = f"{name}:", ir.TensorType(dtype)
    output.shape = ir.Shape(shape) if shape is not None else None
    return node
