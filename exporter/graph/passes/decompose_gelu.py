"""Write ``Gelu`` out, for operator sets below 20, which have no such operator.

::

    Gelu(x)                      ->  x (1 + erf(x / sqrt(2))) / 2
    Gelu<approximate = tanh>(x)  ->  x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

Source: https://onnx.ai/onnx/operators/onnx__Gelu.html
"""

from __future__ import annotations

import math
from functools import partial

import onnx_ir as ir

from exporter.graph.surgery import NodeWriter, input_of


def decompose_gelu(model: ir.Model) -> int:
    """Replace every ``Gelu``; returns how many."""
    nodes = [node for node in model.graph if node.op_type == "Gelu" and not node.domain]
    for node in nodes:
        x, writer = input_of(node), NodeWriter(model, node)
        write, number = partial(writer.write, like=x), writer.number
        if node.attributes.get_string("approximate", "none") == "tanh":
            cubed = write("Mul", write("Mul", write("Mul", x, x), x), number(0.044715))
            share = write("Tanh", write("Mul", write("Add", x, cubed), number(math.sqrt(2 / math.pi))))
        else:
            share = write("Erf", write("Div", x, number(math.sqrt(2))))
        writer.replace(write("Mul", write("Mul", x, write("Add", share, number(1.0))), number(0.5)))
    return len(nodes)
