"""From what an activation held to the range it is quantized in: MinMax, percentile, entropy and least squares.

onnxruntime's calibrators are not used: they keep every activation of every batch, their percentile fails on batches of
different lengths, and they count padding. The tests compare our entropy method with its own.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from exporter.precisions.int8.scheme import Array

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")
PERCENTILE = 99.99

_BINS = 2048
_LEVELS = 128  # of one side of int8
_STRIDE = 16  # bins between two clips that entropy looks at
_SHARES = np.linspace(0.2, 1.0, 81)  # of the whole range: the clips that least squares looks at


def value_range(sample: Array, low: float, high: float, method: Method, *, symmetric: bool) -> tuple[float, float]:
    """Return (low, high) of what an activation is quantized in; 0 lies in it.

    Args:
        sample: Some of the values, of any shape.
        low: The smallest of all values.
        high: The largest of all values.
        method: ``"minmax"`` takes these two; the others cut off what is rare: all but the 99.99th percentile, what
            costs the least information, or what costs the least squared error.
        symmetric: Whether the type is signed and without a zero point: then ``low == -high``.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    if method == "percentile":
        first, last = _percentile(sample, symmetric=symmetric)
        return max(low, first), min(high, last)
    if method == "entropy":
        clip = entropy_clip(np.abs(sample))
        return max(low, -clip), min(high, clip)
    if method == "mse":
        return _least_squares(sample, low, high)
    return low, high


def _percentile(sample: Array, *, symmetric: bool) -> tuple[float, float]:
    """Cut the same share of all values off: of the magnitudes, or half of it at each end."""
    if symmetric:
        clip = float(np.percentile(np.abs(sample), PERCENTILE))
        return -clip, clip
    first, last = np.percentile(sample, [(100 - PERCENTILE) / 2, (100 + PERCENTILE) / 2])
    return min(float(first), 0.0), max(float(last), 0.0)


def _least_squares(sample: Array, low: float, high: float) -> tuple[float, float]:
    """Choose the clip with the smallest mean squared error of rounding and clipping together."""
    if high <= low:
        return low, high
    counts, edges = np.histogram(sample, _BINS, (low, high))
    centers = ((edges[:-1] + edges[1:]) / 2)[counts > 0]
    counts = counts[counts > 0]

    def error(share: float) -> float:
        step = share * (high - low) / (2 * _LEVELS - 1)
        back = np.clip(np.rint(centers / step), np.rint(share * low / step), np.rint(share * high / step)) * step
        return float(((back - centers) ** 2 * counts).sum())

    best = min(_SHARES, key=error)
    return float(best * low), float(best * high)


def entropy_clip(magnitudes: Array) -> float:
    """Return the clip whose 128 levels lose the least information (Kullback-Leibler divergence).

    Source: S. Migacz, 8-bit Inference with TensorRT, GPU Technology Conference 2017.
    """
    largest = float(magnitudes.max(initial=0.0))
    if largest == 0.0:
        return 0.0
    counts, _ = np.histogram(magnitudes, _BINS, (0.0, largest))
    best = min(range(_LEVELS, _BINS + 1, _STRIDE), key=lambda bins: (_divergence(counts, bins), -bins))
    return largest * best / _BINS


def _divergence(counts: npt.NDArray[np.int64], bins: int) -> float:
    """Return how much of a distribution is lost when it is cut at ``bins`` and put into 128 levels."""
    kept = counts[:bins].astype(np.float64)
    if not kept.any():
        return float("inf")
    wanted = kept.copy()
    wanted[-1] += counts[bins:].sum()
    level = np.arange(bins) * _LEVELS // bins
    totals, occupied = np.bincount(level, kept), np.bincount(level, kept > 0)
    found = np.where(kept > 0, (totals / np.maximum(occupied, 1))[level], 0.0)
    seen = wanted > 0
    wanted, found = wanted / wanted.sum(), np.maximum(found / found.sum(), 1e-9)
    return float((wanted[seen] * np.log(wanted[seen] / found[seen])).sum())
