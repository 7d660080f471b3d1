"""The parsed network of TensorRT: attention by lengths, which the parser drops, and what the network consists of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.errors import BuildError
from exporter.runtime.contract import INPUTS

if TYPE_CHECKING:
    from exporter.graph import Graph


def lengths_wanted(graph: Graph) -> int:
    """Count the attentions of a graph that take lengths."""
    nodes = [node for node in graph.model.graph if node.op_type == "Attention" and len(node.inputs) > 6]
    return sum(node.inputs[6] is not None for node in nodes)


def restore_lengths(trt: Any, network: Any, wanted: int) -> str:
    """Give every attention of the network the lengths that the parser dropped; returns what attention is now.

    ``key_value_lengths`` is int32 (batch,): the sum of ``attention_mask`` over each row. Without it padding would be
    attended to.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        network: As parsed.
        wanted: How many attentions of the graph take lengths.

    Raises:
        BuildError: Another number of attentions than ``wanted`` came to have lengths.
    """
    attentions = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # The binding returns layers of a parsed network by their base class, which has no ``attention``.
            layer.__class__ = trt.IAttentionInputLayer
            attentions.append(layer.attention)
    if wanted:
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        short = network.add_cast(next(tensor for tensor in inputs if tensor.name == INPUTS[1]), trt.int32)
        lengths = network.add_reduce(short.get_output(0), trt.ReduceOperation.SUM, axes=1 << 1, keep_dims=False)
        short.name, lengths.name = "lengths/Cast.int32", "lengths/ReduceSum.int32"
        for attention in attentions:
            if attention.mask is None:
                attention.key_value_lengths = lengths.get_output(0)
    limited = sum(attention.key_value_lengths is not None for attention in attentions) if wanted else 0
    if limited != wanted:
        raise BuildError(
            f"{wanted} attentions of the graph take lengths, and {limited} of the network came to have them"
        )
    masked = sum(attention.mask is not None for attention in attentions)
    return f"{len(attentions)} operators, {limited} of them by lengths, {masked} with a mask"


def network_summary(network: Any) -> str:
    """Count the layers of a network by the type of their first output."""
    counts: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            kind = layer.get_output(0).dtype.name.lower()
            counts[kind] = counts.get(kind, 0) + 1
    by_type = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{network.num_layers} layers before fusion ({by_type})"
