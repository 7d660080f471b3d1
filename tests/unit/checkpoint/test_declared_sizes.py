"""Sizes that DeBERTa's configuration declares; those of the others are tested in ``test_reference.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from exporter.checkpoint.configuration import transformer_rules
from exporter.checkpoint.declared_sizes import check_declared_sizes
from exporter.checkpoint.rules import select_keys
from exporter.checkpoint.weights import StoredWeights
from exporter.errors import CheckpointError

SIZES = {"model_type": "deberta-v2", "vocab_size": 100, "hidden_size": 8, "max_position_embeddings": 32}


def check(folder: Path, **sizes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**SIZES, **sizes}))
    save_file({"embeddings.word_embeddings.weight": np.ones((100, 8), np.float32)}, folder / "model.safetensors")
    check_declared_sizes(folder, StoredWeights([folder / "model.safetensors"]))


def test_what_says_that_there_is_no_table_is_no_size(tmp_path: Path) -> None:
    check(tmp_path, type_vocab_size=0, max_relative_positions=-1, position_buckets=-1)
    check(tmp_path, type_vocab_size=2, max_relative_positions=32, position_buckets=16)


@pytest.mark.parametrize("key", ["type_vocab_size", "max_relative_positions", "position_buckets"])
@pytest.mark.parametrize("size", [-2, 10**9, 1.5])
def test_a_table_that_no_tensor_has_is_refused(key: str, size: float, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: {key} is {size}"):
        check(tmp_path, **{key: size})


def test_positions_are_limited_though_no_table_has_a_row_for_each(tmp_path: Path) -> None:
    """Distances are computed for every pair of tokens."""
    numbers = np.ones((5_000, 8), np.float32)
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "max_position_embeddings": 4_097}))
    save_file({"embeddings.word_embeddings.weight": numbers}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="max_position_embeddings is 4097, and at most 4096 positions of DeBERTa"):
        check_declared_sizes(tmp_path, StoredWeights([tmp_path / "model.safetensors"]))


def test_a_convolution_over_tokens_is_refused() -> None:
    rules = transformer_rules("deberta-v2", "config.json")
    assert select_keys({"conv_kernel_size": 0}, rules, "config.json") == ({"conv_kernel_size": 0}, ())
    with pytest.raises(CheckpointError, match="conv_kernel_size is 3"):
        select_keys({"conv_kernel_size": 3}, rules, "config.json")
