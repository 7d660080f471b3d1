"""The edits that passes and precisions share.

Every value that they add carries its name, type and shape, as later passes rely on these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

Dimension = int | str | ir.SymbolicDim | None

DATA_MOVERS = {
    *("Concat", "Expand", "Gather", "GatherElements", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators that move numbers and compute none: their output holds nothing that their input does not."""


def add_constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Register ``array`` as an initializer called ``name`` (made unique if taken) and return its value."""
    return _add_tensor(model, name, ir.Tensor(array))


def add_cast(model: ir.Model, name: str, source: ir.TensorProtocol, dtype: ir.DataType) -> ir.Value:
    """Register the numbers of ``source`` in another type, like ``add_constant``.

    They are cast whenever they are read and not kept: a graph of gigabytes would hold them a second time.
    """

    def cast() -> ir.TensorProtocol:
        return ir.tensor(source.numpy().astype(dtype.numpy()))

    return _add_tensor(model, name, ir.LazyTensor(cast, dtype, ir.Shape(source.shape.numpy())))


def _add_tensor(model: ir.Model, name: str, tensor: ir.Tensor[np.ndarray] | ir.LazyTensor) -> ir.Value:
    unique, number = name, 1
    while unique in model.graph.initializers:
        number += 1
        unique = f"{name}.{number}"
    tensor.name = unique
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=unique, const_value=tensor, shape=shape, type=ir.TensorType(tensor.dtype))
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


def graph_input(graph: ir.Graph, name: str) -> ir.Value:
    """Return the input of a graph that is called ``name``."""
    return next(value for value in graph.inputs if value.name == name)


def input_of(node: ir.Node, index: int = 0) -> ir.Value:
    """Return an input that ``node`` must have.

    Raises:
        ValueError: The node lacks it.
    """
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"{node.name}: {node.op_type} lacks its input {index}")
    return value


def chain_above(value: ir.Value | None, *op_types: str) -> list[ir.Node] | None:
    """Return the nodes that compute ``value`` if their operators are ``op_types``, the last one first; None if not.

    Each node is followed by the one that computes its first input.
    """
    chain: list[ir.Node] = []
    for op_type in op_types:
        node = value.producer() if value is not None else None
        if node is None or node.op_type != op_type:
            return None
        chain.append(node)
        value = node.inputs[0]
    return chain


def bias_of(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Return the ``Add`` of a stored vector that is the only reader of ``node``, and which of its inputs is stored."""
    readers = list(node.outputs[0].consumers())
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    stored = [
        (index, value.const_value)
        for index, value in enumerate(readers[0].inputs)
        if value is not None and value.const_value is not None
    ]
    if len(stored) != 1 or len(stored[0][1].shape) != 1:
        return None
    return readers[0], stored[0][0]


def replace_bias(model: ir.Model, node: ir.Node, bias: ir.Value, name: str) -> np.ndarray | None:
    """Make ``bias`` the bias of ``node``, by an ``Add`` called ``name`` where there was none; return the stored one."""
    found = bias_of(node)
    if found is not None:
        add, index = found
        old = input_of(add, index).const_value
        add.replace_input_with(index, bias)
        return old.numpy() if old is not None else None
    output = node.outputs[0]
    add = make_node("Add", [output, bias], name, ir.DataType.FLOAT, output.shape)
    output.replace_all_uses_with(add.outputs[0], replace_graph_outputs=True)
    add.replace_input_with(0, output)
    model.graph.insert_after(node, add)
    return None


class NodeWriter:
    """Writes nodes that take the place of another one. They stand before it, and their names begin with its name.

    Args:
        model: The model.
        node: What is replaced.
    """

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self._model, self._node = model, node
        self._written: Counter[str] = Counter()

    def write(
        self,
        op_type: str,
        *inputs: ir.Value,
        like: ir.Value,
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
        **attributes: int | Sequence[int],
    ) -> ir.Value:
        """Write a node and return its output.

        Args:
            op_type: The operator.
            *inputs: What it reads.
            like: The value whose type and shape the output has.
            dtype: Another type of the output.
            shape: Another shape of the output.
            **attributes: Of the node.

        Raises:
            ValueError: ``like`` has no type.
        """
        dtype = dtype or like.dtype
        if dtype is None:
            raise ValueError(f"{like.name} has no type")
        self._written[op_type] += 1
        number = self._written[op_type]
        name = f"{self._node.name}/{op_type}" + (f".{number}" if number > 1 else "")
        node = make_node(op_type, inputs, name, dtype, shape or like.shape, attributes)
        self._model.graph.insert_before(self._node, node)
        return node.outputs[0]

    def number(self, value: float, dtype: ir.DataType | None = None) -> ir.Value:
        """Store one number, by default in the type of what the replaced node reads first."""
        kind = dtype or input_of(self._node).dtype or ir.DataType.FLOAT
        return add_constant(self._model, f"{self._node.name}/{value:g}", np.array(value, dtype=kind.numpy()))

    def replace(self, value: ir.Value) -> None:
        """Let everything read ``value`` instead of the node's output, and remove the node."""
        (output,) = self._node.outputs
        is_graph_output = output.is_graph_output()
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        if is_graph_output:
            value.name, output.name = output.name, f"{self._node.name}/replaced"
        self._model.graph.remove(self._node, safe=True)
