"""Real weights in other architectures: a BERT encoder written as DistilBERT and as ALBERT, its vectors unchanged.

Seeded twins have no outliers, and what int8 does to them says little. Small BERT encoders with real weights can be had
without a hub; DistilBERT's and ALBERT's cannot, but a BERT can be written as either:

- DistilBERT has no token types: the row of type 0 goes into every position's vector.
- ALBERT with as many groups as layers shares nothing, and an embedding as wide as the model passes through an identity.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor
from transformers import AlbertConfig, AlbertModel, DistilBertConfig, DistilBertModel

ARCHITECTURES = ("distilbert", "albert")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_DISTIL_LAYER = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
_ALBERT_LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.dense": "attention.output.dense",
    "attention.LayerNorm": "attention.output.LayerNorm",
    "ffn": "intermediate.dense",
    "ffn_output": "output.dense",
    "full_layer_layer_norm": "output.LayerNorm",
}


def convert_checkpoint(source: Path, folder: Path, architecture: str) -> Path:
    """Write a BERT sentence encoder as another architecture and return its folder.

    Args:
        source: A sentence-transformers checkpoint whose transformer is a BERT with LayerNorms at 1e-12.
        folder: An empty folder, where the transformer and the checkpoint go.
        architecture: One of ``ARCHITECTURES``.
    """
    reference = SentenceTransformer(str(source), device="cpu")
    bert = reference[0].auto_model
    weights = {name: tensor.float() for name, tensor in bert.state_dict().items()}
    model = _distilbert(bert.config, weights) if architecture == "distilbert" else _albert(bert.config, weights)
    plain = folder / "transformer"
    model.save_pretrained(plain)
    reference[0].tokenizer.save_pretrained(str(plain))
    for name in _TOKENIZER_FILES:
        if (source / name).is_file() and not (plain / name).is_file():
            shutil.copy(source / name, plain / name)
    transformer = Transformer(str(plain), max_seq_length=reference.max_seq_length)
    modules = [transformer, *list(reference)[1:]]
    saved = folder / "checkpoint"
    SentenceTransformer(modules=modules, device="cpu").save(str(saved), create_model_card=False)
    return saved


def _distilbert(config: object, weights: Mapping[str, Tensor]) -> DistilBertModel:
    made = DistilBertModel(
        DistilBertConfig(
            vocab_size=config.vocab_size,
            dim=config.hidden_size,
            n_layers=config.num_hidden_layers,
            n_heads=config.num_attention_heads,
            hidden_dim=config.intermediate_size,
            max_position_embeddings=config.max_position_embeddings,
            activation=config.hidden_act,
            pad_token_id=config.pad_token_id,
        )
    )
    state = {
        "embeddings.word_embeddings.weight": weights["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0],
        **_of_module("embeddings.LayerNorm", weights, "embeddings.LayerNorm"),
    }
    for layer in range(config.num_hidden_layers):
        for mine, theirs in _DISTIL_LAYER.items():
            state |= _of_module(f"transformer.layer.{layer}.{mine}", weights, f"encoder.layer.{layer}.{theirs}")
    made.load_state_dict(state)
    return made


def _albert(config: object, weights: Mapping[str, Tensor]) -> AlbertModel:
    made = AlbertModel(
        AlbertConfig(
            vocab_size=config.vocab_size,
            embedding_size=config.hidden_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_hidden_groups=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            hidden_act=config.hidden_act,
            layer_norm_eps=config.layer_norm_eps,
            pad_token_id=config.pad_token_id,
        ),
        add_pooling_layer=False,
    )
    state = {name: tensor for name, tensor in weights.items() if name.startswith("embeddings.")}
    state["encoder.embedding_hidden_mapping_in.weight"] = torch.eye(config.hidden_size)
    state["encoder.embedding_hidden_mapping_in.bias"] = torch.zeros(config.hidden_size)
    for layer in range(config.num_hidden_layers):
        place = f"encoder.albert_layer_groups.{layer}.albert_layers.0"
        for mine, theirs in _ALBERT_LAYER.items():
            state |= _of_module(f"{place}.{mine}", weights, f"encoder.layer.{layer}.{theirs}")
    made.load_state_dict(state)
    return made


def _of_module(mine: str, weights: Mapping[str, Tensor], theirs: str) -> dict[str, Tensor]:
    return {f"{mine}.{part}": weights[f"{theirs}.{part}"] for part in ("weight", "bias")}
