from __future__ import annotations

import pytest

from exporter.precisions.int8.matmuls import MatMul, attention_macs, matmuls_of
from tests.support.encoders import INNER, WIDTH, small_encoder
from tests.support.graphs import model_of


def test_the_matmuls_of_the_transformer_are_found_in_order_and_those_of_the_head_are_not() -> None:
    found = matmuls_of(small_encoder())
    assert [matmul.module for matmul in found] == [
        "layer.0.ffn",
        "layer.0.ffn_output",
        "layer.1.ffn",
        "layer.1.ffn_output",
    ]
    assert [matmul.macs for matmul in found] == [WIDTH * INNER] * 4
    assert [matmul.bias for matmul in found] == [f"{matmul.module}/Add" for matmul in found]


def test_uses_of_a_shared_weight_are_matmuls_of_their_own() -> None:
    found = matmuls_of(small_encoder(shared=True))
    assert len(found) == 4
    assert len({matmul.weight for matmul in found}) == 2
    assert len({matmul.activation for matmul in found}) == 4


@pytest.mark.parametrize(
    ("module", "title"),
    [
        ("layer.3.attention.output.dense", "layer 3 attention output"),
        ("layer.11.attention.self.query", "layer 11 attention query"),
        ("layer.0.ffn.lin2", "layer 0 feed-forward out"),
        ("layer.2.ffn_output", "layer 2 feed-forward out"),
        ("group.5.0.use.1.attention.dense", "group 5 layer 0 use 1 attention output"),
        ("embedding_hidden_mapping_in", "embedding_hidden_mapping_in"),
        ("encoder.embedding_hidden_mapping_in", "encoder.embedding_hidden_mapping_in"),
    ],
)
def test_a_module_is_called_in_words(module: str, title: str) -> None:
    assert MatMul(f"{module}/MatMul", module, "x", "w", None, 1, 1).title == title


def test_a_matmul_of_two_activations_is_left_alone_and_its_work_counted() -> None:
    body = (
        """g (float[B,2,S,4] q, float[B,2,S,4] k, float[B,2,S,4] v) => (float[B,2,S,4] y) { y = Attention(q, k, v) }"""
    )
    graph = small_encoder()
    attending = graph.with_model(model_of(body))
    assert matmuls_of(attending) == ()
    assert attention_macs(attending, tokens=10.0) == 2 * 10 * 8
    assert attention_macs(graph, tokens=10.0) == 0


def test_a_matmul_that_reads_no_input_is_left_alone() -> None:
    body = """g (float[B,4] x) => (float[B,4] y)
        <float[4,4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[4,4] table = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}>
        { normed = Relu(table) distances = MatMul(normed, w) read = MatMul(x, w) y = MatMul(read, distances) }"""
    found = matmuls_of(small_encoder().with_model(model_of(body)))
    assert [matmul.activation for matmul in found] == ["x"]


@pytest.mark.parametrize("layer", ["layer.3", "group.5.0.use.1"])
def test_matmuls_of_one_layer_belong_together(layer: str) -> None:
    ends = ("attention.query", "attention.dense", "ffn_output")
    assert {MatMul("n", f"{layer}.{end}", "x", "w", None, 1, 1).layer for end in ends} == {layer}
