"""Leave out the number of parts of a ``Split`` into equal ones, for operator sets below 18, which count the outputs.

Source: https://onnx.ai/onnx/operators/onnx__Split.html
"""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph.surgery import input_of


def remove_split_count(model: ir.Model) -> int:
    """Remove ``num_outputs`` of every ``Split`` into parts of one size; returns how many it removed."""
    count = 0
    for node in model.graph:
        if node.op_type == "Split" and "num_outputs" in node.attributes and _is_even(node):
            del node.attributes["num_outputs"]
            count += 1
    return count


def _is_even(node: ir.Node) -> bool:
    shape, parts = input_of(node).shape, len(node.outputs)
    size = None if shape is None else shape[node.attributes.get_int("axis", 0)]
    return isinstance(size, int) and size % parts == 0 and node.attributes.get_int("num_outputs", 0) == parts
