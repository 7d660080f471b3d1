"""The sizes that a checkpoint's configuration declares, compared with the tensors of its weight files.

A library builds a model by its configuration before it opens the weights. So a size that no tensor has is refused
first: it would take the memory of the machine, or hours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from exporter.checkpoint.configuration import RELATIVE_POSITIONS, own_names
from exporter.checkpoint.weights import StoredWeights
from exporter.errors import CheckpointError

# Sizes of a transformer by their standard names in transformers, and DistilBERT's own name of intermediate_size.
_EXTENTS = (
    *("hidden_size", "embedding_size", "intermediate_size", "hidden_dim"),
    *("vocab_size", "max_position_embeddings", "type_vocab_size"),
    *("max_relative_positions", "position_buckets"),  # of DeBERTa
)
# In a configuration of DeBERTa, these values mean that the size is not used.
_NONE_OF_DEBERTA = {"type_vocab_size": 0, "max_relative_positions": -1, "position_buckets": -1}
_WIDTHS = ("hidden_size", "embedding_size")  # the smaller one is the least width of a table
_TABLES = (
    *("vocab_size", "max_position_embeddings", "type_vocab_size", "intermediate_size", "hidden_dim"),
    *("max_relative_positions", "position_buckets"),
)
_COUNTS = ("num_hidden_layers", "num_attention_heads", "num_hidden_groups", "inner_group_num")

MOST_POSITIONS = 2**18  # published models have up to 131,072, and no tensor counts rotations
MOST_DISTANCES = 4096  # DeBERTa computes one for each pair of tokens; published models have 512
MOST_LAYERS = 1000  # published models have 12 and 24; no tensor counts the uses of ALBERT's shared layers


def check_declared_sizes(place: Path, stored: StoredWeights) -> None:
    """Refuse the configuration of one module where its weight files have no tensor of a size that it declares.

    Args:
        place: Folder of the module, with its ``config.json``.
        stored: Its weight files.

    Raises:
        CheckpointError: A size is not a positive integer, or is larger than every tensor allows.
    """
    where = place / "config.json"
    config: dict[str, Any] = json.loads(where.read_text(encoding="utf-8"))
    shapes = {name: shape for name in stored.names if prod(shape := stored.shape(name)) > 0}
    if "model_type" in config:
        _check_transformer(config, shapes, where)
    else:
        _check_module(config, shapes, where)


def _check_transformer(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: Path) -> None:
    largest = max((extent for shape in shapes.values() for extent in shape), default=0)
    if config["model_type"] in RELATIVE_POSITIONS and "max_position_embeddings" in config:
        reason = f"at most {MOST_POSITIONS} positions can be exported"
        _check_range("max_position_embeddings", config["max_position_embeddings"], MOST_POSITIONS, reason, where)
        config = {key: value for key, value in config.items() if key != "max_position_embeddings"}
    if config["model_type"] == "deberta-v2":
        for key in ("max_position_embeddings", "max_relative_positions"):
            if key in config and config[key] != _NONE_OF_DEBERTA.get(key):
                reason = f"at most {MOST_DISTANCES} positions of DeBERTa can be exported"
                _check_range(key, config[key], MOST_DISTANCES, reason, where)
        config = {
            key: value for key, value in config.items() if key not in _NONE_OF_DEBERTA or value != _NONE_OF_DEBERTA[key]
        }
    for key in _stated(config, _EXTENTS):
        _check_range(
            key, config[key], largest, f"the largest extent of a tensor in the weight files is {largest}", where
        )
    numbers = sum(map(prod, shapes.values()))
    width = min((config[key] for key in _stated(config, _WIDTHS)), default=1)
    for key in _stated(config, _TABLES):
        reason = f"the weight files hold {numbers:,} numbers in all, and each of its rows takes {width}"
        _check_range(key, config[key], numbers // width, reason, where)
    for key in _stated(config, _COUNTS):
        most, reason = _most(key, config["model_type"], len(shapes), largest)
        _check_range(key, config[key], most, reason, where)


def _stated(config: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    """Return the keys of a configuration that state these sizes, by their standard names or the architecture's own."""
    own = own_names(config["model_type"])
    return [key for name in names for key in dict.fromkeys((name, own.get(name, name))) if key in config]


def _most(key: str, model_type: str, tensors: int, largest: int) -> tuple[int, str]:
    """Return the largest legal value of a count, and why it is the largest."""
    if key in {"num_attention_heads", "n_heads"}:
        return largest, f"the largest extent of a tensor in the weight files is {largest}"
    if (model_type == "albert" and key == "num_hidden_layers") or tensors > MOST_LAYERS:
        return MOST_LAYERS, f"at most {MOST_LAYERS} layers can be exported"
    return tensors, f"the weight files hold {tensors} tensors"


def _check_module(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """Compare the sizes of a Dense or a LayerNorm with its weight, which has exactly these."""
    declared = {"linear.weight": ("out_features", "in_features"), "norm.weight": ("dimension",)}
    keys = declared["linear.weight" if "in_features" in config or "out_features" in config else "norm.weight"]
    name = next(name for name, known in declared.items() if known == keys)
    for axis, key in enumerate(keys):
        extents = shapes.get(name, ())
        if key not in config:
            raise CheckpointError(f"{where}: {key} is missing", next_step="save the checkpoint again")
        if axis >= len(extents) or type(config[key]) is not int or config[key] != extents[axis]:
            raise CheckpointError(
                f"{where}: {key} is {_short(config[key])}, and {name} in the weight files has the shape "
                f"{list(extents)}",
                next_step="save the checkpoint again with SentenceTransformer.save",
            )


def _check_range(key: str, value: Any, most: int, reason: str, where: Path) -> None:
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"{where}: {key} is {_short(value)}, and must be a positive integer",
            next_step="correct it, or save the checkpoint again",
        )
    if value > most:
        raise CheckpointError(
            f"{where}: {key} is {_short(value)}, and {reason}",
            next_step="correct it, or check that configuration and weights belong together",
        )


def _short(value: Any) -> str:
    """Return a value for a message, without its end where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
