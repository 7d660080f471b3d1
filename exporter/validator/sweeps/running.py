"""What the parts of a sweep share: both sides, the bounds, and the form of a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from exporter.checkpoint import Checkpoint
from exporter.recipe import Gate, Shapes
from exporter.runtime.tokens import IntArray, TextTokenizer
from exporter.targets import Precision
from exporter.validator.reference import cast
from exporter.validator.sweeps.inputs import material_of

MOST_NAMED = 3  # sentences per part about what is wrong

Vectors = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


class PaddedEncoder(Protocol):
    """Whatever turns padded token ids into vectors: ``Encoder.encode_padded``."""

    def encode_padded(self, input_ids: IntArray, attention_mask: IntArray) -> Vectors:
        """Encode (batch, sequence) int64 ids and mask as one batch: (batch, dimension) float32."""
        ...


class Remembering:
    """Runs each batch of token ids once, and answers from memory when it is asked again."""

    def __init__(self, encode: Callable[[IntArray, IntArray], Vectors]) -> None:
        self._encode = encode
        self._known: dict[tuple[bytes, bytes, int], Vectors] = {}

    def encode_padded(self, input_ids: IntArray, attention_mask: IntArray) -> Vectors:
        """Return the vectors (batch, dimension) float32."""
        key = (input_ids.tobytes(), attention_mask.tobytes(), len(input_ids))
        if key not in self._known:
            self._known[key] = self._encode(input_ids, attention_mask)
        return self._known[key]


class SweepReference(Remembering):
    """The PyTorch model's vectors of token ids. What was computed once serves every further sweep of an export."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.encode_tokens)
        self.checkpoint = checkpoint
        self.material = material_of(checkpoint)
        self.tokenizer = TextTokenizer(checkpoint.tokenizer)

    def in_format_of(self, precision: Precision) -> PaddedEncoder | None:
        """Return PyTorch in the number format of a precision, or in float64 for float32. None where it has none."""
        dtype = {Precision.FP32: torch.float64, Precision.BF16: torch.bfloat16}.get(precision)
        return None if dtype is None else Remembering(cast(self.checkpoint, dtype).encode_tokens)


@dataclass(frozen=True)
class Run:
    """What the parts of one sweep share."""

    reference: SweepReference
    candidate: PaddedEncoder
    shapes: Shapes
    gate: Gate
    batch_bound: float | None
    leak_bound: float | None
    right_padding_only: bool
    width_tokens: int
    precision: Precision


@dataclass(frozen=True)
class Part:
    """What one part covered, what is wrong, and the same in figures."""

    coverage: str
    failures: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def shortened(failures: list[str], what: str) -> list[str]:
    """Return the first sentences, and how many there would be."""
    if len(failures) <= MOST_NAMED:
        return failures
    return [*failures[:MOST_NAMED], f"{len(failures)} {what}"]
