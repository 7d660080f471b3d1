"""Give the caches of every ``RotaryEmbedding`` the batch that engines ask for.

The exporter computes cosines and sines of the positions once per layer, for one row, and leaves the batch to be
broadcast. The ONNX operator (opset 23) without position ids takes caches of (batch, sequence, half of the head size)::

    RotaryEmbedding(X, cos, sin)  ->  RotaryEmbedding(X, Expand(cos, [batch, 1, 1]), Expand(sin, [batch, 1, 1]))

ONNX Runtime refuses caches of one row for a batch above 1. What all layers compute alike is computed once.

Source: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.surgery import add_constant, graph_input, make_node

_CACHES = (1, 2)  # inputs: cosines and sines
_AXES = 3  # of a cache without position ids


def rotary_caches(model: ir.Model) -> int:
    """Repeat the caches of one row for every row of a batch; returns how many operators read such caches."""
    nodes = [node for node in model.graph if node.op_type == "RotaryEmbedding" and len(node.inputs) == _AXES]
    _compute_once(model, {node.inputs[index] for node in nodes for index in _CACHES})
    repeated: dict[ir.Value, ir.Value] = {}
    count = 0
    for node in nodes:
        caches = [node.inputs[index] for index in _CACHES]
        if any(cache is None or cache.shape is None or list(cache.shape)[:1] != [1] for cache in caches):
            continue
        for index, cache in zip(_CACHES, caches, strict=True):
            if cache is None:
                continue
            if cache not in repeated:
                repeated[cache] = _repeated(model, cache, f"rotary/{len(repeated)}")
            node.replace_input_with(index, repeated[cache])
        count += 1
    return count


def _compute_once(model: ir.Model, caches: set[ir.Value | None]) -> None:
    """Let equal nodes that ``caches`` are computed by be one, and state types that are missing."""
    behind: set[ir.Node] = set()
    frontier = [value.producer() for value in caches if value is not None]
    while frontier:
        node = frontier.pop()
        if node is not None and node not in behind:
            behind.add(node)
            frontier.extend(value.producer() for value in node.inputs if value is not None)
    first: dict[tuple[object, ...], ir.Node] = {}
    for node in model.graph:
        if node not in behind or len(node.outputs) != 1:
            continue
        if node.op_type in ("Cos", "Sin") and node.inputs[0] is not None:  # the exporter leaves them without a type
            node.outputs[0].shape, node.outputs[0].type = node.inputs[0].shape, node.inputs[0].type
        attributes = tuple(sorted((name, str(attribute.value)) for name, attribute in node.attributes.items()))
        same = first.setdefault((node.op_type, tuple(node.inputs), attributes), node)
        if same is not node:
            node.outputs[0].replace_all_uses_with(same.outputs[0])


def _repeated(model: ir.Model, cache: ir.Value, name: str) -> ir.Value:
    """Write a cache (1, sequence, half) once for every row: (batch, sequence, half)."""
    ids = graph_input(model.graph, "input_ids")
    ones = add_constant(model, f"{name}/ones", np.array([1, 1], dtype=np.int64))
    integer, batch = ir.DataType.INT64, ids.shape[0] if ids.shape is not None else None
    rows = make_node("Shape", [ids], f"{name}/Shape", integer, [1], {"start": 0, "end": 1})
    target = make_node("Concat", [rows.outputs[0], ones], f"{name}/Concat", integer, [3], {"axis": 0})
    shape = [batch, *(cache.shape or ())[1:]]
    dtype = cache.dtype or ir.DataType.FLOAT
    expand = make_node("Expand", [cache, target.outputs[0]], f"{name}/Expand", dtype, shape)
    producer = cache.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], [rows, target, expand])
    else:
        model.graph.insert_after(producer, [rows, target, expand])
    return expand.outputs[0]
