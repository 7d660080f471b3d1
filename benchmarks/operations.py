"""How much an encoder computes for a sentence, from the shapes of its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks.peer_programs import transformer_folder

FORMULA = (
    "2 W s + 4 L h s^2 operations for a sentence of s tokens: W weights of the linear layers (all matrices but "
    "embedding tables and an unused pooler), L layers, h their width; a multiplication and an addition are two. "
    "Padding is not counted."
)


@dataclass(frozen=True)
class Shape:
    """What of an encoder decides how much there is to compute.

    Attributes:
        layers: Layers, each with one attention.
        hidden: Their width.
        linear_weights: Weights of linear layers that every token passes through.
        parameters: All numbers in the file of weights.
    """

    layers: int
    hidden: int
    linear_weights: int
    parameters: int

    def operations(self, tokens: int) -> int:
        """Return the operations of the matrix products for one sentence: `FORMULA`."""
        return 2 * self.linear_weights * tokens + 4 * self.layers * self.hidden * tokens**2


def shape_of(checkpoint: Path) -> Shape:
    """Read the shape of a sentence-transformers checkpoint.

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
    return Shape(config["num_hidden_layers"], config["hidden_size"], linear, parameters)


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
