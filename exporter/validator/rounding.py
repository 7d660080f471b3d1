"""To what numbers vectors are rounded: found in the values alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FEWEST_ROWS = 4
_STEPS = 255  # between the smallest and the largest number of 8 bits
_OFF_STEP = 0.03  # of a step: what scaling in float32 leaves


def can_be_told(vectors: npt.NDArray[np.float32]) -> bool:
    """Whether ``rounded_to`` says anything about (rows, dimension) vectors: they are enough, and all are numbers."""
    found = np.asarray(vectors, np.float32)
    return bool(len(found) >= FEWEST_ROWS and found.shape[1] >= 8 and np.isfinite(found).all() and found.any())


def rounded_to(vectors: npt.NDArray[np.float32]) -> str | None:
    """Return ``"float16"``, ``"bfloat16"`` or ``"8 bits"``, if every value is such a number; None where not.

    Numbers of 8 bits are recognized whatever their scale is, of each vector or of all, also if the vectors were scaled
    to length 1 after it.

    Args:
        vectors: (rows, dimension).
    """
    if not can_be_told(vectors):
        return None
    found = np.asarray(vectors, np.float32)
    if all(_has_256_steps(row) for row in found.astype(np.float64)):
        return "8 bits"
    if not (np.ascontiguousarray(found).view(np.uint32) & 0xFFFF).any():
        return "bfloat16"
    with np.errstate(over="ignore"):
        return "float16" if (found.astype(np.float16).astype(np.float32) == found).all() else None


def _has_256_steps(row: npt.NDArray[np.float64]) -> bool:
    """Whether all values are at most 255 steps apart, and whole numbers of steps."""
    values = np.unique(row)
    width = float(values[-1] - values[0])
    if width == 0:
        return True
    gaps = np.diff(values)
    step = float(gaps[gaps > width * 1e-6].min())
    if width / step > _STEPS + 1:
        return False
    # The smallest gap has the largest relative error of rounding: the whole width gives the step more exactly.
    step = width / round(width / step)
    counts = (values - values[0]) / step
    return bool(np.abs(counts - np.round(counts)).max() < _OFF_STEP)
