"""Let ``ArgMax`` read int32 in place of int64, for which older versions of ONNX Runtime have no kernel.

::

    ArgMax(mask)  ->  ArgMax(Cast<int32>(mask))

Pooling by the last token asks so for the attention mask, which holds zeros and ones.
"""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph.surgery import NodeWriter, input_of


def narrow_argmax(model: ir.Model) -> int:
    """Cast what every ``ArgMax`` of int64 reads; returns how many."""
    nodes = [node for node in model.graph if node.op_type == "ArgMax" and input_of(node).dtype == ir.DataType.INT64]
    for node in nodes:
        value, integer = input_of(node), ir.DataType.INT32
        node.replace_input_with(0, NodeWriter(model, node).write("Cast", value, like=value, dtype=integer, to=integer))
    return len(nodes)
