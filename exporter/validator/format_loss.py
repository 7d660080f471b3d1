"""What a number format loses by itself: the reference computed in that format, against the reference in float32.

A gate with fixed bounds cannot know how much of a format's loss is the model's own: some texts of some models lose more
in bfloat16 than any sound export of another model does. So the same model is also run in the format by other means
(PyTorch, or the emulator of int8), and the candidate is compared with what these lose on the same probes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from exporter.checkpoint import Checkpoint
from exporter.validator.parity import Parity, compare

SAMPLED = 16
"""One probe in so many is computed in float16, in which PyTorch is ten times slower on processors than in float32."""

MOST_EXACT = 16
"""Probes that are computed in float64, at most: where more miss a bound, it is not for rounding."""

_FORMATS = {"fp16": (torch.float16, SAMPLED), "bf16": (torch.bfloat16, 1)}


@dataclass(frozen=True)
class FormatLoss:
    """What a format loses on the probes.

    Attributes:
        source: What computed in the format, for example ``"PyTorch in bfloat16"``.
        parity: Its vectors against the reference's. A row that was not computed, or is not finite, is NaN.
        emulated: (probes, dimension) float32, its vectors, where it computes with the very numbers of the candidate.
    """

    source: str
    parity: Parity
    emulated: npt.NDArray[np.float32] | None = None

    @property
    def rows(self) -> npt.NDArray[np.bool_]:
        """(probes,) whether the loss of a probe is known."""
        return np.isfinite(self.parity.relative_error)

    @property
    def mean_relative_error(self) -> float:
        """Mean relative error over the probes that are known; NaN where none is."""
        known = self.parity.relative_error[self.rows]
        return float(known.mean()) if len(known) else float("nan")

    @property
    def max_relative_error(self) -> float:
        """Largest relative error over the probes that are known; NaN where none is."""
        known = self.parity.relative_error[self.rows]
        return float(known.max()) if len(known) else float("nan")

    def emulator_error(self, vectors: npt.NDArray[np.float32]) -> float | None:
        """Return the mean ``|vector - emulated| / |emulated|`` over the probes; None where nothing was emulated.

        Args:
            vectors: (probes, dimension) float32, the candidate's.
        """
        if self.emulated is None:
            return None
        wanted = self.emulated.astype(np.float64)
        norms = np.linalg.norm(wanted, axis=1)
        return float(np.mean(np.linalg.norm(vectors - wanted, axis=1) / np.where(norms > 0, norms, 1.0)))

    def to_dict(self) -> dict[str, Any]:
        """Return the loss as JSON data; null where nothing is known."""
        known = self.rows
        figures = {
            "min_cosine": self.parity.cosine[known].min(initial=1.0),
            "min_centered_cosine": self.parity.centered_cosine[known].min(initial=1.0),
            "mean_relative_error": self.mean_relative_error,
            "max_relative_error": self.max_relative_error,
        }
        return {
            "source": self.source,
            "probes": int(known.sum()),
            **{name: float(value) if known.any() else None for name, value in figures.items()},
        }


def format_loss_of(
    checkpoint: Checkpoint,
    precision: str,
    texts: Sequence[str],
    reference: npt.NDArray[np.float32],
    token_ids: Sequence[Sequence[int]],
) -> FormatLoss | None:
    """Encode the probes with the same model cast to float16 or bfloat16, every part of it, and compare.

    Args:
        checkpoint: The reference model, in float32; it is left as it is.
        precision: ``"fp16"`` or ``"bf16"``. None is returned for any other.
        texts: The probes.
        reference: (probes, dimension) float32, what the model answers in float32.
        token_ids: Token ids of each probe.
    """
    if precision not in _FORMATS:
        return None
    dtype, step = _FORMATS[precision]
    cast = replace(checkpoint, model=_cast(checkpoint, dtype))
    vectors = np.full(reference.shape, np.nan, np.float32)
    vectors[::step] = cast.encode(list(texts[::step]))
    return FormatLoss(f"PyTorch in {str(dtype).removeprefix('torch.')}", compare(reference, vectors, token_ids))


def rounding_loss_of(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    reference: npt.NDArray[np.float32],
    token_ids: Sequence[Sequence[int]],
    rows: Sequence[int],
) -> FormatLoss:
    """Encode some probes with the same model in float64: what float32 itself loses on them.

    Some texts of some models amplify the roundings of float32: PyTorch and a sound engine then differ by more than on
    any other text, and each of them from float64.

    Args:
        checkpoint: The reference model, in float32; it is left as it is.
        texts: The probes.
        reference: (probes, dimension) float32, what the model answers in float32.
        token_ids: Token ids of each probe.
        rows: Which probes.
    """
    exact = replace(checkpoint, model=_cast(checkpoint, torch.float64))
    vectors = np.full(reference.shape, np.nan, np.float32)
    vectors[rows] = exact.encode([texts[row] for row in rows])
    return FormatLoss("PyTorch in float32", compare(reference, vectors, token_ids))


def _cast(checkpoint: Checkpoint, dtype: torch.dtype) -> SentenceTransformer:
    # What the copy finds in the memo it takes from there: no float32 copy of a weight is made.
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
        for parameter in checkpoint.model.parameters()
        if parameter.is_floating_point()
    }
    model: SentenceTransformer = copy.deepcopy(checkpoint.model, memo).to(dtype)
    return model
