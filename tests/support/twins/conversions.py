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
from transformers import AlbertConfig, AlbertModel, BertConfig, DistilBertConfig, DistilBertModel

from tests.support.twins.names import LAYER_PARTS, NAMES
from tests.support.twins.originals import Architecture

ARCHITECTURES = ("distilbert", "albert")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


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


def _distilbert(config: BertConfig, weights: Mapping[str, Tensor]) -> DistilBertModel:
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
        "embeddings.LayerNorm.weight": weights["embeddings.LayerNorm.weight"],
        "embeddings.LayerNorm.bias": weights["embeddings.LayerNorm.bias"],
    }
    made.load_state_dict(state | _layers("distilbert", config.num_hidden_layers, weights))
    return made


def _albert(config: BertConfig, weights: Mapping[str, Tensor]) -> AlbertModel:
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
    made.load_state_dict(state | _layers("albert", config.num_hidden_layers, weights))
    return made


def _layers(architecture: Architecture, count: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of BERT's layers under the names of another architecture."""
    mine, theirs = NAMES[architecture], NAMES["bert"]
    return {
        f"{mine.layer.format(layer)}{getattr(mine, part)}.{kind}": weights[
            f"{theirs.layer.format(layer)}{getattr(theirs, part)}.{kind}"
        ]
        for layer in range(count)
        for part in LAYER_PARTS
        for kind in ("weight", "bias")
    }
