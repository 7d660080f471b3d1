"""The MatMuls of a graph that can compute in int8: an activation times a stored weight.

The MatMuls inside attention, of two activations, are not among them. They are a few percent of the work at the length
of sentences, and what they read, probabilities and values, has no weight whose error could be made up for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_ir as ir

from exporter.graph import Graph
from exporter.graph.passes.name_nodes import HEAD
from exporter.graph.surgery import bias_of

# ALBERT with several groups of layers, or several layers in one, names the use of each: see ``name_nodes``.
_LAYER = re.compile(r"^(layer\.(?P<layer>\d+)|group\.(?P<group>\d+)\.(?P<inner>\d+)\.use\.(?P<use>\d+))\.?")
_WORDS = {
    "attention.self.query": "attention query",
    "attention.self.key": "attention key",
    "attention.self.value": "attention value",
    "attention.output.dense": "attention output",
    "attention.dense": "attention output",
    "attention.query": "attention query",
    "attention.key": "attention key",
    "attention.value": "attention value",
    "attention.q_lin": "attention query",
    "attention.k_lin": "attention key",
    "attention.v_lin": "attention value",
    "attention.out_lin": "attention output",
    "attention.attn.q": "attention query",
    "attention.attn.k": "attention key",
    "attention.attn.v": "attention value",
    "attention.attn.o": "attention output",
    "self_attn.q_proj": "attention query",
    "self_attn.k_proj": "attention key",
    "self_attn.v_proj": "attention value",
    "self_attn.o_proj": "attention output",
    "layer.0.SelfAttention.q": "attention query",
    "layer.0.SelfAttention.k": "attention key",
    "layer.0.SelfAttention.v": "attention value",
    "layer.0.SelfAttention.o": "attention output",
    "attn.Wqkv": "attention query, key and value",
    "attn.Wo": "attention output",
    "intermediate.dense": "feed-forward in",
    "output.dense": "feed-forward out",
    "ffn": "feed-forward in",
    "ffn_output": "feed-forward out",
    "ffn.lin1": "feed-forward in",
    "ffn.lin2": "feed-forward out",
    "mlp.gate_proj": "feed-forward gate",
    "mlp.up_proj": "feed-forward in",
    "mlp.down_proj": "feed-forward out",
    "mlp.Wi": "feed-forward in and gate",
    "mlp.Wo": "feed-forward out",
    "layer.1.DenseReluDense.wi": "feed-forward in",
    "layer.1.DenseReluDense.wi_0": "feed-forward gate",
    "layer.1.DenseReluDense.wi_1": "feed-forward in",
    "layer.1.DenseReluDense.wo": "feed-forward out",
}


@dataclass(frozen=True)
class MatMul:
    """A MatMul with a stored weight: one use of that weight.

    Attributes:
        node: Name of the ``MatMul``.
        module: The module it comes from, for example ``"layer.3.attention.output.dense"``.
        activation: Name of the value it reads.
        weight: Name of the initializer, (inputs, outputs) float32; shared where ALBERT shares it.
        bias: Name of the ``Add`` that follows it with a stored bias, or None.
        inputs: Channels read.
        outputs: Channels written.
        scaled: Whether the activation is a normalization whose last step multiplies by a stored weight.
    """

    node: str
    module: str
    activation: str
    weight: str
    bias: str | None
    inputs: int
    outputs: int
    scaled: bool = False

    @property
    def macs(self) -> int:
        """Multiplications per token."""
        return self.inputs * self.outputs

    @property
    def layer(self) -> str:
        """The layer's name, for example ``"layer.3"``; the module's own outside of layers."""
        match = _LAYER.match(self.module)
        return self.module if match is None else match[1]

    @property
    def title(self) -> str:
        """The module in words: ``"layer 3 attention output"``."""
        match = _LAYER.match(self.module)
        if match is None:
            return self.module
        rest = self.module[match.end() :]
        where = "group {group} layer {inner} use {use}" if match["layer"] is None else "layer {layer}"
        return f"{where.format(**match.groupdict())} {_WORDS.get(rest, rest)}"


def matmuls_of(graph: Graph) -> tuple[MatMul, ...]:
    """Return these MatMuls of the transformer in the order of computation.

    What follows the transformer stays in float32, and so do MatMuls that depend on no input: an engine computes
    DeBERTa's vectors of distances once.
    """
    dependent = set(graph.model.graph.inputs)
    found = []
    for node in graph.model.graph:
        if not dependent.isdisjoint(node.inputs):
            dependent.update(node.outputs)
            if (matmul := matmul_of(node)) is not None:
                found.append(matmul)
    return tuple(found)


def matmul_of(node: ir.Node) -> MatMul | None:
    """Return what is known of such a MatMul, or None for any other node."""
    if node.op_type != "MatMul" or str(node.name).startswith(HEAD):
        return None
    activation, weight = node.inputs
    if activation is None or weight is None or weight.const_value is None or weight.dtype != ir.DataType.FLOAT:
        return None
    if activation.const_value is not None or len(weight.const_value.shape) != 2:
        return None
    inputs, outputs = weight.const_value.shape.numpy()
    name = str(node.name)
    bias = bias_of(node)
    return MatMul(
        node=name,
        module=name.rpartition("/")[0],
        activation=str(activation.name),
        weight=str(weight.name),
        bias=str(bias[0].name) if bias is not None else None,
        inputs=inputs,
        outputs=outputs,
        scaled=_ends_with_a_factor(activation.producer()),
    )


def _ends_with_a_factor(node: ir.Node | None) -> bool:
    without_bias = node is not None and node.op_type == "LayerNormalization" and len(node.inputs) < 3
    return without_bias or (node is not None and node.op_type == "RMSNormalization")


def attention_macs(graph: Graph, tokens: float) -> float:
    """Return the multiplications per token of the MatMuls inside attention, at ``tokens`` tokens per sentence.

    Scores and weighted values take ``tokens * width`` each, width being heads times the size of a head.
    """
    widths = []
    for node in graph.model.graph:
        query = node.inputs[0] if node.op_type == "Attention" else None
        if query is not None and query.shape is not None:
            heads, size = query.shape[1], query.shape[3]
            widths.append(int(heads) * int(size) if isinstance(heads, int) and isinstance(size, int) else 0)
    return 2.0 * tokens * sum(widths)
