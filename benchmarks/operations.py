"""How much an encoder computes for a sentence: from a configuration, or from the shapes of a checkpoint's weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from benchmarks.peer_programs import transformer_folder

FORMULA = (
    "2 W s + 4 h p operations for a sentence of s tokens: W weights of the linear layers (all matrices but embedding "
    "tables and an unused pooler), h their width, p the pairs of tokens that attend to each other, summed over the "
    "layers (s^2 in a layer, fewer in a layer with a local window); a multiplication and an addition are two. "
    "Padding, and pairs that a mask excludes, are not counted."
)


@dataclass(frozen=True)
class Shape:
    """What of an encoder decides how much there is to compute.

    Attributes:
        layers: How often a layer is applied, shared or not.
        hidden: Width of a layer.
        linear_weights: Weights of linear layers that a token passes through; a shared layer's count at each use.
        local_layers: Layers in which a token attends to its neighborhood only.
        distance: How many tokens before and after itself a token attends to in a local layer.
    """

    layers: int
    hidden: int
    linear_weights: int
    local_layers: int = 0
    distance: int = 0

    def operations(self, tokens: int) -> int:
        """Return the operations of the matrix products for one sentence: `FORMULA`.

        Softmax, norms, activations and pooling are left out: other units compute them.
        """
        reach = min(self.distance, tokens - 1)
        local = tokens * (2 * reach + 1) - reach * (reach + 1)
        pairs = (self.layers - self.local_layers) * tokens**2 + self.local_layers * local
        return 2 * self.linear_weights * tokens + 4 * self.hidden * pairs


def shape_of_config(config: Any) -> Shape:
    """Return the shape of a transformers configuration, whatever the architecture calls its sizes.

    Per token, a layer has ``4 h^2`` weights for query, key, value and output, and ``2 h i`` for a feed-forward part
    without a gate. Embeddings that are narrower than layers are projected.
    """
    hidden = getattr(config, "hidden_size", None) or config.dim
    layers = getattr(config, "num_hidden_layers", None) or config.n_layers
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim
    embedding = embedding_of(config)
    projection = embedding * hidden if embedding != hidden else 0
    return Shape(layers, hidden, layers * (4 * hidden * hidden + 2 * hidden * inner) + projection)


def embedding_of(config: Any) -> int:
    """Return the width of a token's embedding."""
    return int(getattr(config, "embedding_size", None) or getattr(config, "hidden_size", None) or config.dim)


def shape_of_checkpoint(checkpoint: Path) -> tuple[Shape, int]:
    """Return the shape of a sentence-transformers checkpoint without shared layers, and its number of parameters.

    Raises:
        FileNotFoundError: Its transformer has no file with the weights of linear layers.
    """
    folder = transformer_folder(str(checkpoint))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    linear = parameters = 0
    for name, extents in _extents(folder):
        parameters += math.prod(extents)
        if len(extents) == 2 and "embedding" not in name and "pooler" not in name:
            linear += math.prod(extents)
    if not linear:
        raise FileNotFoundError(f"{folder} has no file with the weights of linear layers")
    return Shape(config["num_hidden_layers"], config["hidden_size"], linear, *_local(config)), parameters


def _local(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many layers are local, and their distance; ModernBERT's configuration has the whole window."""
    if "local_attention" not in config:
        return 0, 0
    return config["layer_types"].count("sliding_attention"), config["local_attention"] // 2


def _extents(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of each tensor; no weights are read."""
    if files := sorted(folder.glob("*.safetensors")):
        for file in files:
            with safe_open(file, framework="numpy") as weights:
                for name in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                    yield name, tuple(weights.get_slice(name).get_shape())
        return
    for file in sorted(folder.glob("pytorch_model*.bin")):
        for name, tensor in torch.load(file, map_location="meta", weights_only=True, mmap=True).items():
            yield name, tuple(tensor.shape)
