"""Twins of the checkpoints whose tokenizer is no WordPiece: XLM-R's kin, Qwen3 and Gemma 3.

transformers writes their weights and their ``config.json`` as it does today, in one ``model.safetensors``; the files
of sentence-transformers and of the tokenizer are written here. XLM-R and the BERT have the weights of ``weights.py``,
Qwen3 and Gemma 3 those of ``tests/support/checkpoints.py``, which let fewer faults be seen. Sizes and modules are
published ones; what the model cards leave out (the base of rotations, the steps of a tokenizer) is that of the family,
or transformers' default.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from tests.support.checkpoints import ARCHITECTURES, spread_weights
from tests.support.full_checkpoints import FULL
from tests.support.twins.originals import KLUE_ROBERTA, Size, SizeName, Twin
from tests.support.twins.subwords import SIZE, Subwords, write_subwords
from tests.support.twins.tokenizer import corpus_texts, write_json
from tests.support.twins.weights import state_dict

_VERSIONS = {"sentence_transformers": "5.1.0", "transformers": "4.56.0", "pytorch": "2.8.0"}


@dataclass(frozen=True)
class MultilingualTwin:
    """All that tells one checkpoint from the others.

    Attributes:
        checkpoint: The original's name on the hub.
        architecture: A key of ``ARCHITECTURES``.
        full: The original's configuration.
        tokenizer: Its kind of tokenizer.
        pooling: Pooling mode.
        max_seq_length: Tokens that the original reads of a sentence.
        small: What the configuration of the small twin has in place of ``full``.
        small_max_seq_length: Tokens that the small twin reads: where the original's would cost minutes, fewer.
        modules: What follows the pooling.
        prompts: The prompts of ``config_sentence_transformers.json``, by name.
    """

    checkpoint: str
    architecture: str
    full: Mapping[str, Any]
    tokenizer: Subwords
    pooling: Literal["cls", "mean", "lasttoken"]
    max_seq_length: int
    small: Mapping[str, Any]
    small_max_seq_length: int
    modules: tuple[Literal["Dense", "Normalize"], ...] = ("Normalize",)
    prompts: Mapping[str, str] = field(default_factory=dict)


_XLM_R = {"vocab_size": 250_002, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_XLM_R |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3_072}
_LARGE = {"hidden_size": 1_024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4_096}
_SMALL = {"vocab_size": SIZE, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL |= {"intermediate_size": 128}
_SMALL_LONG = {**_SMALL, "max_position_embeddings": 258}  # 256 tokens, in place of 8,192
_GEMMA_TASKS = {
    "query": "search result",
    "BitextMining": "search result",
    "Clustering": "clustering",
    "Classification": "classification",
    "InstructionRetrieval": "code retrieval",
    "MultilabelClassification": "classification",
    "PairClassification": "sentence similarity",
    "Reranking": "search result",
    "Retrieval-query": "search result",
    "STS": "sentence similarity",
    "Summarization": "summarization",
}


def _of_bge_m3(checkpoint: str, prompts: Mapping[str, str] = MappingProxyType({})) -> MultilingualTwin:
    """Return the twin of a checkpoint with the sizes of BGE-M3, an XLM-R large with 8,194 positions."""
    return MultilingualTwin(
        checkpoint=checkpoint,
        architecture="xlm-roberta",
        full={**_XLM_R, **_LARGE, "max_position_embeddings": 8_194},
        tokenizer="xlm-roberta",
        pooling="cls",
        max_seq_length=8_192,
        small=_SMALL_LONG,
        small_max_seq_length=256,
        prompts=prompts,
    )


def _of_e5(checkpoint: str, sizes: Mapping[str, Any]) -> MultilingualTwin:
    """Return the twin of a multilingual E5 that is an XLM-R."""
    return MultilingualTwin(
        checkpoint=checkpoint,
        architecture="xlm-roberta",
        full={**_XLM_R, **sizes, "max_position_embeddings": 514},
        tokenizer="xlm-roberta",
        pooling="mean",
        max_seq_length=512,
        small=_SMALL,
        small_max_seq_length=512,
    )


MULTILINGUAL: Mapping[str, MultilingualTwin] = MappingProxyType(
    {
        "kure-v1": _of_bge_m3("nlpai-lab/KURE-v1"),
        "bge-m3-ko": _of_bge_m3("dragonkue/BGE-m3-ko"),
        "arctic-embed-l-v2.0-ko": _of_bge_m3("dragonkue/snowflake-arctic-embed-l-v2.0-ko", {"query": "query: "}),
        # A BERT of 384 dimensions with XLM-R's tokenizer: 35 rows of its table belong to no entry.
        "multilingual-e5-small": MultilingualTwin(
            checkpoint="intfloat/multilingual-e5-small",
            architecture="bert",
            full={
                "vocab_size": 250_037,
                "hidden_size": 384,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "intermediate_size": 1_536,
                "max_position_embeddings": 512,
                "type_vocab_size": 2,
                "layer_norm_eps": 1e-12,
                "pad_token_id": 0,
                "tokenizer_class": "XLMRobertaTokenizer",
            },
            tokenizer="xlm-roberta",
            pooling="mean",
            max_seq_length=512,
            small={**_SMALL, "vocab_size": SIZE + 35},
            small_max_seq_length=512,
        ),
        "multilingual-e5-base": _of_e5("intfloat/multilingual-e5-base", _BASE),
        "multilingual-e5-large": _of_e5("intfloat/multilingual-e5-large", _LARGE),
        "qwen3-embedding-0.6b": MultilingualTwin(
            checkpoint="Qwen/Qwen3-Embedding-0.6B",
            architecture="qwen3",
            full={**FULL["qwen3"].sizes, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
            tokenizer="qwen2",
            pooling="lasttoken",
            max_seq_length=32_768,
            small={**_SMALL, "num_key_value_heads": 2, "head_dim": 16},
            small_max_seq_length=256,
            prompts={
                "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
                "document": "",
            },
        ),
        "embeddinggemma-300m": MultilingualTwin(
            checkpoint="google/embeddinggemma-300m",
            architecture="gemma3_text",
            full={**FULL["gemma3"].sizes, "bos_token_id": 2, "eos_token_id": 1},
            tokenizer="gemma",
            pooling="mean",
            max_seq_length=2_048,
            small={
                **_SMALL,
                "num_hidden_layers": 3,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            },
            small_max_seq_length=256,
            modules=("Dense", "Dense", "Normalize"),
            prompts={
                **{name: f"task: {task} | query: " for name, task in _GEMMA_TASKS.items()},
                "document": "title: none | text: ",
                "Retrieval-document": "title: none | text: ",
            },
        ),
    }
)
"""By the name of their recipe."""


def build_multilingual(name: str, folder: Path, size: SizeName, seed: int, card: str) -> None:
    """Write one of ``MULTILINGUAL``, ready for ``SentenceTransformer(str(folder))``.

    Args:
        name: A key of ``MULTILINGUAL``.
        folder: Where to write; it is there.
        size: ``small`` or ``full``.
        seed: Of the weights.
        card: The text of ``README.md``.
    """
    twin = MULTILINGUAL[name]
    config_class, model_class, _ = ARCHITECTURES[twin.architecture]
    sizes = {**twin.full, **(twin.small if size == "small" else {})}
    limit = twin.small_max_seq_length if size == "small" else twin.max_seq_length
    torch.manual_seed(zlib.crc32(f"{name}/{size}/{seed}".encode()))
    model = model_class(config_class(**sizes))
    if twin.architecture in ("bert", "xlm-roberta"):
        _load_weights(model, twin, sizes)
    else:
        spread_weights(model, twin.architecture, 4 if size == "small" else 2)
    model.save_pretrained(folder)
    _write_modules(folder, twin, int(sizes["hidden_size"]))
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    settings = {"__version__": _VERSIONS, "prompts": dict(twin.prompts), "default_prompt_name": None}
    write_json(folder / "config_sentence_transformers.json", settings)
    write_subwords(folder, twin.tokenizer, limit, corpus_texts())
    (folder / "README.md").write_text(card, encoding="utf-8")


def _load_weights(model: Any, twin: MultilingualTwin, sizes: Mapping[str, Any]) -> None:
    """Fill an encoder of BERT's kin with the weights of ``weights.py``; XLM-R's parameters have RoBERTa's names."""
    like = Twin(
        checkpoint=twin.checkpoint,
        architecture="bert" if twin.architecture == "bert" else "roberta",
        small=_sizes_of(sizes),
        full=_sizes_of(sizes),
        pooling="cls" if twin.pooling == "cls" else "mean",
        max_seq_length=twin.max_seq_length,
        do_lower_case=False,
        tokenizer=KLUE_ROBERTA,  # its special tokens have the ids of <s>, <pad>, </s> and <unk>
        positions=int(sizes["max_position_embeddings"]),
        token_types=int(sizes["type_vocab_size"]),
    )
    generator = torch.Generator().manual_seed(torch.initial_seed())
    state = state_dict(like, like.small, generator)
    del state["embeddings.position_ids"]
    model.load_state_dict(state)


def _sizes_of(sizes: Mapping[str, Any]) -> Size:
    return Size(
        vocabulary=int(sizes["vocab_size"]),
        layers=int(sizes["num_hidden_layers"]),
        hidden=int(sizes["hidden_size"]),
        heads=int(sizes["num_attention_heads"]),
        feed_forward=int(sizes["intermediate_size"]),
    )


def _write_modules(folder: Path, twin: MultilingualTwin, width: int) -> None:
    """Write ``modules.json`` and the folder of each module after the transformer."""
    names = ("Transformer", "Pooling", *twin.modules)
    paths = ["", *(f"{index}_{name}" for index, name in enumerate(names) if index)]
    types = [f"sentence_transformers.models.{name}" for name in names]
    write_json(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": kind}
            for index, (path, kind) in enumerate(zip(paths, types, strict=True))
        ],
    )
    for path in paths[1:]:
        (folder / path).mkdir(exist_ok=True)
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens"}
    modes |= {"weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken"}
    flags = {f"pooling_mode_{flag}": mode == twin.pooling for mode, flag in modes.items()}
    write_json(folder / paths[1] / "config.json", {"word_embedding_dimension": width, **flags, "include_prompt": True})
    for path, inputs, outputs in zip(
        [path for path in paths if path.endswith("Dense")], (width, 4 * width), (4 * width, width), strict=False
    ):
        settings = {"in_features": inputs, "out_features": outputs, "bias": False}
        write_json(
            folder / path / "config.json", {**settings, "activation_function": "torch.nn.modules.linear.Identity"}
        )
        save_file(
            {"linear.weight": torch.randn(outputs, inputs) / math.sqrt(inputs)}, folder / path / "model.safetensors"
        )
