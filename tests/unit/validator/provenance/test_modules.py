"""A node belongs to a module by its name, a parameter by its own."""

from __future__ import annotations

import pytest

from exporter.validator.provenance.modules import belongs, module_of


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("layer.3.attention.self.query/MatMul", "layer.3.attention.self.query"),
        ("layer.3.attention.self.query/MatMul_quant", "layer.3.attention.self.query"),
        ("embeddings.word_embeddings/Gather/Add", "embeddings.word_embeddings"),
        ("layer.0.activation/Gelu/Mul.smooth", "layer.0.activation"),
        ("Multiply_160", None),
        ("inputs/Shape.0", None),
    ],
)
def test_a_node_is_called_after_its_module(node: str, module: str | None) -> None:
    assert module_of(node) == module


@pytest.mark.parametrize(
    ("module", "parameter"),
    [
        ("layer.3.attention.self.query", "0.model.encoder.layer.3.attention.self.query.weight"),
        ("layer.3", "0.model.encoder.layer.3.output.LayerNorm.bias"),
        ("layer.11.output.dense", "0.auto_model.encoder.layer.11.output.dense.bias"),
        ("layer.1.ffn.lin1", "0.model.transformer.layer.1.ffn.lin1.weight"),
        ("layer.5.ffn", "0.model.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"),
        ("group.1.0.use.2.ffn", "0.model.encoder.albert_layer_groups.1.albert_layers.0.ffn.weight"),
        ("embeddings", "0.model.embeddings.token_type_embeddings.weight"),
        ("embeddings.LayerNorm", "0.model.embeddings.LayerNorm.weight"),
        ("encoder.embedding_hidden_mapping_in", "0.model.encoder.embedding_hidden_mapping_in.bias"),
        ("module.2.linear", "2.linear.weight"),
        ("module.2", "2.weight"),
        *(
            (module, "0.model.encoder.rel_embeddings.weight")
            for module in (
                "encoder",
                "encoder.LayerNorm",
                "layer.3.attention.self",
                "layer.11.attention.self.pos_key_proj",
            )
        ),
    ],
)
def test_a_parameter_belongs_to_its_module(module: str, parameter: str) -> None:
    assert belongs(module, parameter)


@pytest.mark.parametrize(
    ("module", "parameter"),
    [
        ("layer.3.attention.self.query", "0.model.encoder.layer.2.attention.self.query.weight"),
        ("layer.3.output.dense", "0.model.encoder.rel_embeddings.weight"),
        ("layer.3.attention.self.value_proj", "0.model.encoder.rel_embeddings.weight"),
        ("embeddings.LayerNorm", "0.model.encoder.rel_embeddings.weight"),
        ("layer.1.output.dense", "0.model.encoder.layer.11.output.dense.weight"),
        ("layer.3.attention.self.query", "0.model.encoder.layer.3.attention.self.key.weight"),
        ("layer.3.output", "0.model.encoder.layer.3.output_layer_norm.weight"),
        ("embeddings.LayerNorm", "0.model.encoder.layer.0.output.LayerNorm.weight"),
        ("layer.5.ffn", "0.model.encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight"),
        ("group.1.0.use.2.ffn", "0.model.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"),
        ("module.2.linear", "3.linear.weight"),
    ],
)
def test_a_parameter_does_not_belong_to_another_module(module: str, parameter: str) -> None:
    assert not belongs(module, parameter)
