"""Make a sequence longer than the model's maximum an error in every engine.

A position table gathered out of range is an error in one engine and zeros in the next, and a table longer than
``max_seq_length`` is no limit at all. This pass reshapes the ids to what they may be at most::

    ids  ->  Reshape(ids, [batch, Min(sequence, max)])

Up to the maximum that changes nothing; above it the numbers of elements differ, which every engine refuses. (Adding a
row of ``max`` zeros was tried first: OpenVINO's CPU plugin broadcasts 65 with 64 without a word.)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.surgery import add_constant, graph_input, make_node


def limit_sequence(model: ir.Model) -> int:
    """Guard the ``input_ids`` of a model whose ``max_sequence`` metadata is set; returns 1, or 0 where it is not."""
    maximum = model.metadata_props.get("max_sequence")
    if maximum is None:
        return 0
    ids = graph_input(model.graph, "input_ids")
    limit = add_constant(model, "limit/maximum", np.array([int(maximum)], dtype=np.int64))
    integer = ir.DataType.INT64
    batch = make_node("Shape", [ids], "limit/Shape.batch", integer, [1], {"start": 0, "end": 1})
    length = make_node("Shape", [ids], "limit/Shape.sequence", integer, [1], {"start": 1, "end": 2})
    capped = make_node("Min", [length.outputs[0], limit], "limit/Min", integer, [1])
    target = make_node("Concat", [batch.outputs[0], capped.outputs[0]], "limit/Concat", integer, [2], {"axis": 0})
    guarded = make_node("Reshape", [ids, target.outputs[0]], "limit/Reshape", integer, ids.shape)
    ids.replace_all_uses_with(guarded.outputs[0])
    for node in (batch, length, guarded):
        node.replace_input_with(0, ids)
    model.graph.insert_before(model.graph[0], [batch, length, capped, target, guarded])
    return 1
