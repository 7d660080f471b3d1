"""Similarity of vectors as sentence-transformers computes it, in numpy: cosine, dot, euclidean and manhattan.

sentence-transformers returns a torch tensor whatever it is given. Here the result has the type of what is given: an
array for arrays, a tensor for tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from exporter.runtime.tensors import array_of, like
from exporter.runtime.vector_types import normalized

SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]
SIMILARITIES: tuple[SimilarityName, ...] = get_args(SimilarityName)

Floats = npt.NDArray[np.floating[Any]]


def similarity(name: SimilarityName, first: Any, second: Any) -> Any:
    """Return the similarity of each vector of one collection and each of another.

    Distances are negative: larger is more similar. Integers and float16 are computed in float32.

    Args:
        name: One of ``SIMILARITIES``.
        first: (n, dimension) or (dimension,), an array, a tensor, or a list of either.
        second: (m, dimension) or (dimension,), likewise.

    Returns:
        (n, m), a tensor on the device of ``first`` if that is one or holds some, else an array.
    """
    a, b = (np.atleast_2d(_floats(vectors)) for vectors in (first, second))
    return like(first, _MATRIX[name](a, b))


def similarity_pairwise(name: SimilarityName, first: Any, second: Any) -> Any:
    """Return the similarity of the vectors in the same row of two collections: (n,). See ``similarity``."""
    return like(first, _PAIRS[name](_floats(first), _floats(second)))


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray((a * b).sum(axis=-1))


def _euclidean(a: Floats, b: Floats) -> Floats:
    return np.asarray(-np.linalg.norm(a - b, axis=-1))


def _manhattan(a: Floats, b: Floats) -> Floats:
    return np.asarray(-np.abs(a - b).sum(axis=-1))


def _row_by_row(pairwise: Callable[[Floats, Floats], Floats]) -> Callable[[Floats, Floats], Floats]:
    """Return a function of all pairs that needs memory for the differences of one row only."""

    def all_pairs(a: Floats, b: Floats) -> Floats:
        found = np.empty((len(a), len(b)), dtype=np.result_type(a, b))
        for number, row in enumerate(a):
            found[number] = pairwise(row, b)
        return found

    return all_pairs


_PAIRS: dict[SimilarityName, Callable[[Floats, Floats], Floats]] = {
    "cosine": lambda a, b: _dot(normalized(a), normalized(b)),
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
_MATRIX: dict[SimilarityName, Callable[[Floats, Floats], Floats]] = {
    "cosine": lambda a, b: normalized(a) @ normalized(b).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": _row_by_row(_euclidean),
    "manhattan": _row_by_row(_manhattan),
}


def _floats(vectors: Any) -> Floats:
    """Return vectors as an array of float32, or of float64 where they are."""
    array = np.stack([array_of(vector) for vector in vectors]) if isinstance(vectors, Sequence) else array_of(vectors)
    return array if array.dtype == np.float64 else array.astype(np.float32)
