"""Write ``RotaryEmbedding`` out, for operator sets below 23, which have no such operator.

Queries and keys are (batch, heads, sequence, size), cosines and sines (batch, sequence, half of the size). With x1 and
x2 the halves of the last axis::

    RotaryEmbedding(x, cos, sin)  ->  Concat(x1 cos - x2 sin, x1 sin + x2 cos)

Source: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.errors import BuildError
from exporter.graph.surgery import NodeWriter, add_constant, input_of

_INPUTS = 3  # queries or keys, cosines, sines; without positions, by which caches would be gathered
_HEAD_AXES, _CACHE_AXES = 4, 3


def decompose_rotary_embedding(model: ir.Model) -> int:
    """Replace every ``RotaryEmbedding`` of whole heads, by halves, with a cosine for each token; returns how many."""
    nodes = [node for node in model.graph if node.op_type == "RotaryEmbedding" and _is_plain(node)]
    with_heads: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        _decompose(model, node, with_heads)
    return len(nodes)


def _is_plain(node: ir.Node) -> bool:
    shapes = [value.shape for value in node.inputs[:_INPUTS] if value is not None and value.shape is not None]
    return (
        [len(shape) for shape in shapes] == [_HEAD_AXES, _CACHE_AXES, _CACHE_AXES]
        and all(value is None for value in node.inputs[_INPUTS:])
        and isinstance(shapes[0][-1], int)
        and not any(node.attributes.get_int(name, 0) for name in ("interleaved", "rotary_embedding_dim"))
    )


def _decompose(model: ir.Model, node: ir.Node, with_heads: dict[ir.Value, ir.Value]) -> None:
    """Replace one node. ``with_heads`` holds caches that have an axis for the heads: all layers read the same."""
    x, writer = input_of(node), NodeWriter(model, node)
    whole = x.shape
    if whole is None or not isinstance(end := whole[-1], int):
        raise BuildError(f"{node.name}: the size of its heads is not known")
    middle = end // 2
    half = ir.Shape([*list(whole)[:-1], middle])

    def integer(value: int) -> ir.Value:
        return add_constant(model, f"{node.name}/{value}", np.array([value], dtype=np.int64))

    def cache(index: int) -> ir.Value:
        value = input_of(node, index)
        if value not in with_heads:
            axes = list(value.shape or ())
            shape = ir.Shape([*axes[:1], 1, *axes[1:]])
            with_heads[value] = writer.write("Unsqueeze", value, integer(1), like=value, shape=shape)
        return with_heads[value]

    def part(start: int, end: int) -> ir.Value:
        bounds = (integer(start), integer(end), integer(_HEAD_AXES - 1))
        return writer.write("Slice", x, *bounds, like=x, shape=half)

    def product(first: ir.Value, second: ir.Value) -> ir.Value:
        return writer.write("Mul", first, second, like=first)

    first, second, cosines, sines = part(0, middle), part(middle, end), cache(1), cache(2)
    real = writer.write("Sub", product(first, cosines), product(second, sines), like=first)
    imaginary = writer.write("Add", product(first, sines), product(second, cosines), like=first)
    writer.replace(writer.write("Concat", real, imaginary, like=x, axis=-1))
