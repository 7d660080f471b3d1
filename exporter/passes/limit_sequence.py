"""Make a sequence longer than the model's maximum an error in every engine.

A position table gathered out of range is an error in one engine and zeros in the next, and a table longer than
``max_seq_length`` is no limit at all. This pass adds a row of zeros that is as long as the model may read::

    ids  ->  Add(ids, Slice(zeros[1, max], 0 : sequence))

Up to the maximum that adds nothing; above it the two shapes do not broadcast and the run fails before any arithmetic.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.passes.building import add_constant, make_node


def limit_sequence(model: ir.Model) -> int:
    """Guard the ``input_ids`` of a model whose ``max_sequence`` metadata is set; returns 1, or 0 where it is not."""
    maximum = model.metadata_props.get("max_sequence")
    if maximum is None:
        return 0
    ids = next(value for value in model.graph.inputs if value.name == "input_ids")
    zeros = add_constant(model, "limit/zeros", np.zeros((1, int(maximum)), dtype=np.int64))
    start = add_constant(model, "limit/start", np.array([0], dtype=np.int64))
    axis = add_constant(model, "limit/axis", np.array([1], dtype=np.int64))
    integer = ir.DataType.INT64
    length = make_node("Shape", [ids], "limit/Shape", integer, [1], {"start": 1, "end": 2})
    row = make_node("Slice", [zeros, start, length.outputs[0], axis], "limit/Slice", integer, [1, None])
    guarded = make_node("Add", [ids, row.outputs[0]], "limit/Add", integer, ids.shape)
    ids.replace_all_uses_with(guarded.outputs[0])
    guarded.replace_input_with(0, ids)
    length.replace_input_with(0, ids)
    model.graph.insert_before(model.graph[0], [length, row, guarded])
    return 1
