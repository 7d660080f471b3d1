"""Vectors as they are stored: truncated, normalized, and in float16, int8, uint8 or single bits.

Each step gives what sentence-transformers gives, bit for bit: ``truncate_embeddings``, ``normalize_embeddings`` of
``encode`` and ``quantize_embeddings``, in this order. float16, which ``quantize_embeddings`` does not know, is the
nearest number. Only numpy is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.errors import BundleError, EngineError, InputError
from exporter.runtime.contract import VECTOR_TYPES, VectorType

RANGES = "ranges.json"
"""The file of a bundle that holds its ranges."""

MOST_NUMBERS = 65_536
"""Numbers of one vector in a stranger's file or answer, at most. The longest in use have some 12,000."""

Vectors = npt.NDArray[np.float32]
Stored = npt.NDArray[Any]

_LEVELS = 255  # steps from the smallest to the largest of 256 codes


@dataclass(frozen=True)
class Ranges:
    """The values that int8 and uint8 codes span, per dimension: what calibration text came to in float32.

    ``raw[:, :n]`` is also the range of vectors that are truncated to n dimensions. Vectors that are truncated and then
    normalized have other values, so these ranges are kept for each dimension that was declared at export.

    Attributes:
        raw: (2, dimension) float32, the smallest and the largest value of every dimension.
        normalized: The same of truncated and then normalized vectors, (2, n) float32 by the n they are truncated to.
    """

    raw: Vectors
    normalized: Mapping[int, Vectors]

    @classmethod
    def of(cls, vectors: Vectors, truncate_dims: tuple[int, ...] = ()) -> Ranges:
        """Return the ranges of vectors.

        Args:
            vectors: (texts, dimension) float32.
            truncate_dims: The dimensions to which vectors will be truncated, besides their own.
        """
        return cls(
            raw=_extent(vectors),
            normalized={
                dimension: _extent(normalized(truncated(vectors, dimension)))
                for dimension in sorted({*truncate_dims, vectors.shape[1]})
            },
        )

    def at(self, dimension: int, *, normalize: bool) -> Vectors:
        """Return the (2, dimension) float32 ranges of vectors that are truncated to a dimension.

        Args:
            dimension: Up to the full one.
            normalize: Whether the vectors are normalized after they are truncated.

        Raises:
            InputError: The vectors are to be normalized, and this dimension was not declared at export.
        """
        if not normalize:
            return truncated(self.raw, dimension)
        if dimension not in self.normalized:
            raise InputError(
                f"the bundle has no ranges of normalized vectors of {dimension} dimensions, only of "
                f"{', '.join(map(str, self.normalized))}",
                next_step="name it in truncate_dims of the recipe and export again, or pass ranges of your own",
            )
        return self.normalized[dimension]

    def to_json(self) -> bytes:
        """Return the content of ``ranges.json``. A float32 is written with the digits that give it back."""
        content = {
            "raw": self.raw.tolist(),
            "normalized": {str(dimension): ranges.tolist() for dimension, ranges in self.normalized.items()},
        }
        return f"{json.dumps(content, allow_nan=False)}\n".encode()

    @classmethod
    def from_json(cls, content: bytes, dimension: int) -> Ranges:
        """Read ``ranges.json``.

        Args:
            content: Of the file.
            dimension: Length of the model's vectors.

        Raises:
            BundleError: It holds no ranges of vectors of this length.
        """
        try:
            stated = json.loads(content)
            raw = _ranges_of(stated["raw"], dimension)
            by_dimension = {int(key): _ranges_of(value, int(key)) for key, value in stated["normalized"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise BundleError(
                f"{RANGES}: no ranges of {dimension} dimensions", next_step="export the bundle again"
            ) from error
        return cls(raw, by_dimension)


def truncated(vectors: Vectors, truncate_dim: int | None) -> Vectors:
    """Return the first ``truncate_dim`` values of every vector, all of them for None."""
    return vectors[..., :truncate_dim]


def normalized(vectors: Vectors) -> Vectors:
    """Return (rows, dimension) vectors scaled to length 1; a vector of zeros stays as it is."""
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
    return unit


def quantize_embeddings(
    embeddings: npt.NDArray[np.floating[Any]], precision: VectorType | None, ranges: npt.ArrayLike | None = None
) -> Stored:
    """Return vectors in another type, as ``sentence_transformers.quantize_embeddings`` does.

    Args:
        embeddings: (..., dimension), of floats.
        precision: The type. ``"binary"`` and ``"ubinary"`` pack eight signs into an int8 or a uint8, most significant
            bit first and padded with zeros; a sign is 1 above 0. None means ``"float32"``.
        ranges: For int8 and uint8: (2, dimension), the values that the first and the last code stand for. Values beyond
            them get the nearest code. They are never taken from ``embeddings`` themselves: the codes of a vector would
            then depend on what stands beside it.

    Returns:
        (..., dimension), or (..., dimension / 8 rounded up) of binary and ubinary.

    Raises:
        ValueError: There is no such type, or ``ranges`` are missing or of another shape.
        EngineError: A number is NaN, infinite, or beyond float16.
    """
    if precision is None or precision == "float32":
        return np.ascontiguousarray(embeddings, dtype=np.float32)  # a copy of truncated ones: it takes less memory
    if precision not in VECTOR_TYPES:
        raise ValueError(f"precision is {precision!r}, and must be one of {', '.join(VECTOR_TYPES)}")
    if not np.isfinite(embeddings).all():
        raise EngineError(f"a vector has NaN or Inf, which {precision} cannot store", next_step="use float32 to see it")
    match precision:
        case "float16":
            return _half(embeddings)
        case "ubinary":
            return np.packbits(embeddings > 0, axis=-1)
        case "binary":
            return (np.packbits(embeddings > 0, axis=-1) ^ np.uint8(128)).view(np.int8)
    codes = _codes(embeddings, ranges)
    return codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)


def _codes(embeddings: npt.NDArray[np.floating[Any]], ranges: npt.ArrayLike | None) -> npt.NDArray[np.floating[Any]]:
    """Return the codes from 0 to 255, as floats."""
    if ranges is None:
        raise ValueError("int8 and uint8 need ranges: pass ranges, the smallest and largest value of each dimension")
    first, last = _ranges_of(ranges, embeddings.shape[-1])
    steps = (last - first) / _LEVELS
    steps[steps == 0] = 1
    with np.errstate(over="ignore"):  # far beyond the ranges: the nearest code is the first or the last
        codes: npt.NDArray[np.floating[Any]] = np.clip(np.floor((embeddings - first) / steps), 0, _LEVELS)
    return codes


def _half(embeddings: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # said below
        found = embeddings.astype(np.float16)
    if not np.isfinite(found).all():
        raise EngineError("a vector has a number beyond 65504, the largest of float16", next_step="use float32")
    return found


def _extent(vectors: Vectors) -> Vectors:
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def _ranges_of(stated: npt.ArrayLike, dimension: int) -> Vectors:
    """Return (2, dimension) float32 ranges.

    Raises:
        ValueError: They have another shape, a number is not finite, or a smallest value is above the largest.
    """
    ranges = np.asarray(stated, dtype=np.float32)
    if ranges.shape != (2, dimension):
        raise ValueError(f"ranges have the shape {ranges.shape}, and must have {(2, dimension)}")
    if not np.isfinite(ranges).all() or (ranges[0] > ranges[1]).any():
        raise ValueError("ranges must be finite, and the smallest value of a dimension not above its largest")
    return ranges
