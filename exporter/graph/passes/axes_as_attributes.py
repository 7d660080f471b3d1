"""Give reductions their axes as an attribute, for operator sets below 18, where they are no input.

``ReduceSum`` reads its axes as an input since opset 13 already, and is left alone.
"""

from __future__ import annotations

import onnx_ir as ir

REDUCTIONS = frozenset({"ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"})


def axes_as_attributes(model: ir.Model) -> int:
    """Move the stored axes of every reduction into an attribute; returns how many moved."""
    count = 0
    for node in model.graph:
        axes = node.inputs[1] if node.op_type in REDUCTIONS and len(node.inputs) > 1 else None
        if axes is not None and axes.const_value is not None and axes.const_value.size:
            node.attributes.pop("noop_with_empty_axes", None)  # and they are not empty
            node.attributes["axes"] = ir.AttrInt64s("axes", axes.const_value.numpy().tolist())
            node.resize_inputs(1)
            count += 1
    return count
