"""Take the vector of the first token by its position, where every row begins with a token.

sentence-transformers finds the first token of a row by the mask, whatever side the row is padded on. ONNX Runtime has
no CUDA kernel for that ``ArgMax`` of integers: the node runs on the CPU, and the GPU waits for it in the middle of a
batch (measured on an H200; the report named the node). With padding on the right the answer is always 0::

    GatherElements(hidden, Expand(Unsqueeze(ArgMax(Cast(attention_mask)))))  ->  Gather(hidden, [0])      along axis 1

Right padding is then part of the graph's contract, as it is for ``attention_lengths``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.surgery import add_constant, chain_above, graph_input, make_node
from exporter.targets import Padding


def first_token(model: ir.Model) -> int:
    """Gather position 0 wherever the first token is searched for in the mask; returns how many places were changed."""
    attention_mask = graph_input(model.graph, "attention_mask")
    found = [node for node in model.graph if _gathers_the_first_token(node, attention_mask)]
    for node in found:
        output = node.outputs[0]
        position = add_constant(model, f"{node.name}/first", np.array([0], dtype=np.int64))
        hidden, dtype = node.inputs[0], output.dtype
        assert hidden is not None
        assert dtype is not None
        gather = make_node("Gather", [hidden, position], f"{node.name}/Gather", dtype, output.shape, {"axis": 1})
        model.graph.insert_before(node, [gather])
        output.replace_all_uses_with(gather.outputs[0])
        model.graph.remove(node, safe=True)
    if found:
        model.metadata_props["padding"] = Padding.RIGHT.value
    return len(found)


def _gathers_the_first_token(node: ir.Node, attention_mask: ir.Value) -> bool:
    """Whether a node gathers, along the sequence, at the first position where the mask is largest."""
    if node.op_type != "GatherElements" or node.attributes.get_int("axis", 0) != 1 or node.outputs[0].is_graph_output():
        return False
    chain = chain_above(node.inputs[1], "Expand", "Unsqueeze", "Unsqueeze", "ArgMax", "Cast")
    return chain is not None and _finds_the_first(chain[3]) and chain[4].inputs[0] is attention_mask


def _finds_the_first(node: ir.Node) -> bool:
    """Whether an ``ArgMax`` searches along the sequence and takes the first of equal values."""
    return node.attributes.get_int("axis", 0) == 1 and node.attributes.get_int("select_last_index", 0) == 0
