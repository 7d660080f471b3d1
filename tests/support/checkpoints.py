"""Small checkpoints with seeded weights, one per combination of architecture and modules that folding serves."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sentence_transformers.sentence_transformer.modules.layer_norm import LayerNorm

from exporter.checkpoint.configuration import missing_versions
from exporter.recipe import recipes_folder

DEMO = recipes_folder() / "demo" / "checkpoint"
MAX_SEQ_LENGTH = 64

_SIZES = {
    "vocab_size": 12_800,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
}
_DISTIL_SIZES = {
    "vocab_size": 12_800,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
    "max_position_embeddings": 130,
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 16}  # two queries share a key; heads are wider than the model
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
DISTANCES: dict[str, Any] = {
    "relative_attention": True,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
}
"""As DeBERTa v3: no positions but distances, whose vectors share the projections of queries and keys."""
_NORMS_BEFORE = ("eurobert", "gemma3_text", "modernbert", "qwen3", "t5")

# Positions of RoBERTa's kin begin at padding_idx + 1; the demo's tokenizer pads with 0.
_ALL: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "albert": (transformers.AlbertConfig, transformers.AlbertModel, {**_SIZES, "embedding_size": 16}),
    # Several groups, and several layers in a group, take turns: nothing that the published models do.
    "albert-groups": (
        transformers.AlbertConfig,
        transformers.AlbertModel,
        {**_SIZES, "embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    "bert": (transformers.BertConfig, transformers.BertModel, _SIZES),
    "camembert": (transformers.CamembertConfig, transformers.CamembertModel, {**_SIZES, "pad_token_id": 0}),
    "deberta-v2": (
        transformers.DebertaV2Config,
        transformers.DebertaV2Model,
        {**_SIZES, **DISTANCES, "position_buckets": 16},
    ),
    "distilbert": (transformers.DistilBertConfig, transformers.DistilBertModel, _DISTIL_SIZES),
    "electra": (transformers.ElectraConfig, transformers.ElectraModel, {**_SIZES, "embedding_size": 16}),
    "eurobert": (transformers.EuroBertConfig, transformers.EuroBertModel, {**_SIZES, **_GROUPED, **_SPECIAL}),
    # Every third layer sees the whole sentence, the others the neighbors of a token.
    "gemma3_text": (
        transformers.Gemma3TextConfig,
        transformers.Gemma3TextModel,
        {
            **_SIZES,
            **_GROUPED,
            **_SPECIAL,
            "num_hidden_layers": 3,
            "use_bidirectional_attention": True,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    "gte": (transformers.GteConfig, transformers.GteModel, {**_SIZES, "pad_token_id": 0}),
    "jina_embeddings_v3": (
        transformers.JinaEmbeddingsV3Config,
        transformers.JinaEmbeddingsV3Model,
        {**_SIZES, "pad_token_id": 0},
    ),
    "modernbert": (
        transformers.ModernBertConfig,
        transformers.ModernBertModel,
        {**_SIZES, **_SPECIAL, "num_hidden_layers": 3, "local_attention": 16, "cls_token_id": 2, "sep_token_id": 3},
    ),
    "mpnet": (transformers.MPNetConfig, transformers.MPNetModel, {**_SIZES, "pad_token_id": 0}),
    "nomic_bert": (transformers.NomicBertConfig, transformers.NomicBertModel, _SIZES),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3Model, {**_SIZES, **_GROUPED, **_SPECIAL}),
    "roberta": (transformers.RobertaConfig, transformers.RobertaModel, {**_SIZES, "pad_token_id": 0}),
    "roformer": (transformers.RoFormerConfig, transformers.RoFormerModel, {**_SIZES, "embedding_size": 16}),
    "t5": (
        transformers.T5Config,
        transformers.T5EncoderModel,
        {"vocab_size": 12_800, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    ),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaModel, {**_SIZES, "pad_token_id": 0}),
}

# Those that the installed versions can fold; `test_configuration.py` has what is said of the others.
ARCHITECTURES = {name: of for name, of in _ALL.items() if not missing_versions(name)}


def save_checkpoint(
    folder: Path,
    architecture: str = "bert",
    pooling: str | tuple[str, ...] = "mean",
    modules: tuple[str, ...] = (),
    *,
    seed: int = 0,
    sizes: Mapping[str, Any] | None = None,
    max_seq_length: int = MAX_SEQ_LENGTH,
) -> Path:
    """Save a sentence-transformers folder with the demo's tokenizer and return it.

    Args:
        folder: An empty folder to work in.
        architecture: A key of ``ARCHITECTURES``.
        pooling: One mode or several.
        modules: What follows the pooling, in order: ``"dense"``, ``"layer_norm"``, ``"normalize"``.
        seed: Seeds the weights; they are spread wider than transformers' own, so that sentences differ.
        sizes: Of the configuration, in place of the small ones.
        max_seq_length: Tokens that are read of a sentence.
    """
    config_class, model_class, small = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    model = model_class(config_class(**(small if sizes is None else sizes)))
    # T5 does not divide its scores: 4 would make one token win them all, as it would in wide layers.
    spread_weights(model, architecture, 2 if architecture == "t5" or sizes is not None else 4)
    model.save_pretrained(folder / "transformer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / "transformer" / name)
    pooled = Pooling(model.config.hidden_size, pooling_mode=pooling)
    parts: list[torch.nn.Module] = [
        Transformer(str(folder / "transformer"), max_seq_length=max_seq_length),
        pooled,
    ]
    dimension = pooled.get_embedding_dimension()
    for module in modules:
        if module == "dense":
            width = 24 if sizes is None else dimension * 3 // 4
            parts.append(Dense(dimension, width))
            dimension = width
        else:
            parts.append(LayerNorm(dimension) if module == "layer_norm" else Normalize())
    saved = folder / "checkpoint"
    SentenceTransformer(modules=parts, device="cpu").save(str(saved), create_model_card=False)
    return saved


def spread_weights(model: torch.nn.Module, architecture: str, spread: float) -> None:
    """Spread a new model's weights, so that sentences differ, and give norms that stand before a layer weights to lose.

    Args:
        model: As transformers initializes it.
        architecture: A key of ``ARCHITECTURES``.
        spread: What matrices are multiplied by.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "position" not in name:
                parameter.mul_(spread)
            elif architecture in _NORMS_BEFORE and "norm" in name:  # ones would leave nothing to be found
                parameter.add_(torch.randn_like(parameter) / 10)
