"""What a number format loses by itself: the reference computed in that format, against the reference in float32.

A gate with fixed bounds cannot know how much of a format's loss is the model's own: some texts of some models lose more
in bfloat16 than any sound export of another model does. So the same model is also run in the format by other means
(PyTorch, or the emulator of int8), and the candidate is compared with what these lose on the same probes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.validator.parity import RowErrors

MOST_EXACT = 16
"""Probes that are computed in float64, at most, where the mean over all is within its bound: where more miss a bound of
single probes, it is not for rounding."""


@dataclass(frozen=True)
class FormatLoss:
    """What a format loses on the probes.

    Attributes:
        source: What computed in the format, for example ``"PyTorch in bfloat16"``.
        parity: How far its vectors are from the reference's. A row that was not computed, or is not finite, is NaN.
        emulated: (probes, dimension) float32, its vectors, where it computes with the very numbers of the candidate.
        emulate_again: Returns such vectors with every number of the weights changed in the last digit of float32. They
            are as right as ``emulated``, so how far apart the two are is what rounding alone does to this model.
    """

    source: str
    parity: RowErrors
    emulated: npt.NDArray[np.float32] | None = None
    emulate_again: Callable[[], npt.NDArray[np.float32]] | None = None

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

    def emulator_rounding(self) -> float | None:
        """Return ``emulator_error`` of ``emulate_again``; None where nothing can be emulated again."""
        return None if self.emulate_again is None else self.emulator_error(self.emulate_again())

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
