"""What faulty servers do to sound vectors, (rows, dimension)."""

from __future__ import annotations

import numpy as np

from tests.support.fault_proxy import Matrix

__all__ = [
    "float16",
    "int8_codes",
    "normalized",
    "rounded_to_8_bits",
    "swap_two",
    "with_nan",
    "without_normalization",
    "without_the_last",
]


def swap_two(vectors: Matrix) -> Matrix:
    return np.concatenate([vectors[1::-1], vectors[2:]])


def without_normalization(vectors: Matrix) -> Matrix:
    changed: Matrix = vectors * (3 + 20 * np.abs(vectors[:, :1]))
    return changed


def normalized(vectors: Matrix) -> Matrix:
    changed: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return changed


def rounded_to_8_bits(vectors: Matrix) -> Matrix:
    step = np.abs(vectors).max(axis=1, keepdims=True) / 127
    changed: Matrix = np.round(vectors / step) * step
    return changed


def int8_codes(vectors: Matrix) -> Matrix:
    changed: Matrix = np.round(vectors / np.abs(vectors).max(axis=1, keepdims=True) * 127)
    return changed


def float16(vectors: Matrix) -> Matrix:
    return vectors.astype(np.float16).astype(np.float64)


def without_the_last(vectors: Matrix) -> Matrix:
    return vectors[:-1] if len(vectors) > 1 else vectors


def with_nan(vectors: Matrix) -> Matrix:
    changed = vectors.copy()
    changed[-1, 0] = np.nan
    return changed
