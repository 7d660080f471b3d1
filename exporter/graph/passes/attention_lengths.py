"""Give attention the length of each row instead of a mask.

An arbitrary mask keeps GPU kernels off their fast path, a length does not. Where the mask of an ``Attention`` is the
padding mask that ``direct_mask`` writes, and padding stands on the right, the ONNX operator of opset 24 takes the same
from its input ``nonpad_kv_seqlen``::

    Attention(Q, K, V, mask)  ->  Attention(Q, K, V, , , , lengths)        lengths[b] = sum of attention_mask[b, :]

Right padding is then part of the graph's contract (``padding`` in its metadata): of a row that is padded on the left,
or has holes, a length says something else than the mask did.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html, version 24
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.surgery import add_constant, chain_above, graph_input, make_node
from exporter.targets import Padding

OPSET = 24


def attention_lengths(model: ir.Model) -> int:
    """Replace the mask of every ``Attention`` that has a plain padding mask; returns how many were.

    Attention with another mask (relative positions, windows) is left alone, and so is one with a cache.
    """
    attention_mask = graph_input(model.graph, "attention_mask")
    masked = [node for node in model.graph if _has_padding_mask(node, attention_mask)]
    if not masked:
        return 0
    lengths = _insert(model, attention_mask)
    for node in masked:
        node.resize_inputs(7)
        node.replace_input_with(3, None)
        node.replace_input_with(6, lengths)
    model.graph.opset_imports[""] = max(OPSET, model.graph.opset_imports[""])
    model.metadata_props["padding"] = Padding.RIGHT.value
    return len(masked)


def _insert(model: ir.Model, attention_mask: ir.Value) -> ir.Value:
    """Write the lengths (batch,) int64 at the head of the graph and return them."""
    axes = add_constant(model, "lengths/axes", np.array([1], dtype=np.int64))
    batch = attention_mask.shape[0] if attention_mask.shape is not None else None
    inputs = [attention_mask, axes]
    total = make_node("ReduceSum", inputs, "lengths/ReduceSum", ir.DataType.INT64, [batch], {"keepdims": 0})
    model.graph.insert_before(model.graph[0], [total])
    return total.outputs[0]


def _has_padding_mask(node: ir.Node, attention_mask: ir.Value) -> bool:
    """Whether a node is an attention whose mask is ``Expand(Unsqueeze(Cast(attention_mask)))`` to boolean."""
    if node.op_type != "Attention" or len(node.inputs) < 4 or any(value is not None for value in node.inputs[4:]):
        return False
    chain = chain_above(node.inputs[3], "Expand", "Unsqueeze", "Cast")
    return chain is not None and chain[-1].inputs[0] is attention_mask
