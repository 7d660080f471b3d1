"""Checkpoints of published sizes with seeded weights and the demo's tokenizer, for architectures without a recipe.

    python -m tests.support.full_checkpoints qwen3 FOLDER

Sizes are those of a published model of the architecture. The tokenizer is the demo's, so most word vectors are never
looked up by text; checks and sweeps read them all the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.checkpoints import DISTANCES, MAX_SEQ_LENGTH, save_checkpoint

_SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_XLM_R_LARGE = {**_LARGE, "vocab_size": 250_002, "type_vocab_size": 1, "pad_token_id": 0}


@dataclass(frozen=True)
class Full:
    """One published size.

    Attributes:
        like: The model that has it.
        architecture: A key of ``ARCHITECTURES``.
        sizes: Its configuration.
        pooling: Pooling mode.
        modules: What follows the pooling.
        max_seq_length: Tokens that are read of a sentence.
    """

    like: str
    architecture: str
    sizes: Mapping[str, Any]
    pooling: str = "mean"
    modules: tuple[str, ...] = field(default=("normalize",))
    max_seq_length: int = 512


FULL: Mapping[str, Full] = MappingProxyType(
    {
        "xlm-roberta-large": Full(
            "intfloat/multilingual-e5-large",
            "xlm-roberta",
            {**_XLM_R_LARGE, "max_position_embeddings": 514},
        ),
        "xlm-roberta-large-long": Full(
            "BAAI/bge-m3",
            "xlm-roberta",
            {**_XLM_R_LARGE, "max_position_embeddings": 8194},
            pooling="cls",
            max_seq_length=8192,
        ),
        "modernbert": Full(
            "answerdotai/ModernBERT-base",
            "modernbert",
            {
                **_BASE,
                **_SPECIAL,
                "vocab_size": 50_368,
                "num_hidden_layers": 22,
                "intermediate_size": 1152,
                "max_position_embeddings": 8192,
                "cls_token_id": 2,
                "sep_token_id": 3,
            },
        ),
        "qwen3": Full(
            "Qwen/Qwen3-Embedding-0.6B",
            "qwen3",
            {
                **_SPECIAL,
                "vocab_size": 151_669,
                "hidden_size": 1024,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "intermediate_size": 3072,
                "max_position_embeddings": 32_768,
            },
            pooling="lasttoken",
        ),
        "gemma3": Full(
            "google/embeddinggemma-300m",
            "gemma3_text",
            {
                **_SPECIAL,
                "vocab_size": 262_144,
                "hidden_size": 768,
                "num_hidden_layers": 24,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "head_dim": 256,
                "intermediate_size": 1152,
                "max_position_embeddings": 2048,
                "sliding_window": 512,
                "use_bidirectional_attention": True,
            },
            modules=("dense", "dense", "normalize"),
        ),
        "eurobert": Full(
            "EuroBERT/EuroBERT-210m",
            "eurobert",
            {**_BASE, **_SPECIAL, "vocab_size": 128_256, "num_key_value_heads": 12, "max_position_embeddings": 8192},
        ),
        "camembert": Full(
            "almanach/camembert-base",
            "camembert",
            {**_BASE, "vocab_size": 32_005, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 0},
        ),
        "roformer": Full(
            "junnyu/roformer_chinese_base",
            "roformer",
            {**_BASE, "vocab_size": 50_000, "max_position_embeddings": 1536, "type_vocab_size": 2},
        ),
        "t5": Full(
            "sentence-transformers/sentence-t5-base",
            "t5",
            {"vocab_size": 32_128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
            modules=("dense", "normalize"),
        ),
        "deberta-v3": Full(
            "microsoft/deberta-v3-base",
            "deberta-v2",
            {
                **_BASE,
                **DISTANCES,
                "vocab_size": 128_100,
                "position_buckets": 256,
                "max_position_embeddings": 512,
            },
        ),
        "nomic-bert": Full(
            "nomic-ai/nomic-embed-text-v1.5",
            "nomic_bert",
            {**_BASE, "vocab_size": 30_528, "max_position_embeddings": 2048, "type_vocab_size": 2},
        ),
        "gte": Full(
            "Alibaba-NLP/gte-multilingual-base",
            "gte",
            {**_BASE, "vocab_size": 250_048, "max_position_embeddings": 8192, "type_vocab_size": 1, "pad_token_id": 0},
            pooling="cls",
        ),
        "jina-v3": Full(
            "jinaai/jina-embeddings-v3",
            "jina_embeddings_v3",
            {**_XLM_R_LARGE, "max_position_embeddings": 8194},
        ),
    }
)


def main() -> None:
    """Write the checkpoint of one published size into a folder, which is made."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("name", choices=FULL)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="build the small size that the tests use")
    options = parser.parse_args()
    full = FULL[options.name]
    options.folder.mkdir(parents=True)
    save_checkpoint(
        options.folder,
        full.architecture,
        full.pooling,
        full.modules,
        sizes=None if options.small else full.sizes,
        max_seq_length=MAX_SEQ_LENGTH if options.small else full.max_seq_length,
    )


if __name__ == "__main__":
    main()
