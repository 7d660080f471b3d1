"""The numbers of parity: reference vectors and candidate vectors in, statistics out. Pure numpy, float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

NEAREST = 10
"""How many nearest neighbors ``Parity.neighbor_overlap`` compares: the first page of a search."""

_PAIRS_AT_ONCE = 2**20
"""Cosines of so many pairs are in memory at once, 8 MiB for each of some ten arrays."""

DRIFT_EDGES = 10.0 ** (np.arange(-36, 2) / 4)
"""The edges of the bins of ``Parity.drift_counts``, four in every power of ten: 1e-9 to 1.8. A change of a cosine is
at most 2; what is outside is counted in the first and in the last bin."""

Matrix = npt.NDArray[np.float64]


class RowErrors(Protocol):
    """How far each row of some vectors is from its reference; see ``Parity``."""

    @property
    def cosine(self) -> Matrix:
        """(rows,) cosine of the two."""
        ...

    @property
    def centered_cosine(self) -> Matrix:
        """(rows,) the same after the mean reference vector is taken from both."""
        ...

    @property
    def relative_error(self) -> Matrix:
        """(rows,) length of their difference, relative to the reference's."""
        ...


@dataclass(frozen=True)
class Figures:
    """``RowErrors`` of rows that were compared elsewhere: (rows,) each, NaN where a row is not known."""

    cosine: Matrix
    centered_cosine: Matrix
    relative_error: Matrix

    @classmethod
    def only(cls, errors: RowErrors, rows: Sequence[int]) -> Figures:
        """Return the figures of some rows, in their order."""
        return cls(*(column[list(rows)] for column in _columns(errors)))

    @classmethod
    def known(cls, errors: RowErrors, rows: Sequence[int]) -> Figures:
        """Return as many figures, of which those of other rows are not known."""
        known = np.zeros(len(errors.cosine), bool)
        known[list(rows)] = True
        return cls(*(np.where(known, column, np.nan) for column in _columns(errors)))


def _columns(errors: RowErrors) -> tuple[Matrix, Matrix, Matrix]:
    return errors.cosine, errors.centered_cosine, errors.relative_error


@dataclass(frozen=True)
class Parity:
    """How far a candidate is from its reference. Rows are probes, in order.

    Attributes:
        cosine: (rows,) cosine of candidate and reference. NaN where the candidate has NaN or Inf.
        centered_cosine: (rows,) the same after the mean reference vector is taken from both.
        relative_error: (rows,) ``|candidate - reference| / |reference|``.
        norm_ratio: (rows,) ``|candidate| / |reference|``.
        neighbor: (rows,) index of the reference vector closest to the candidate.
        own_neighbor: (rows,) whether that is the row's own reference vector; rows of equal tokens tie.
        margin: (rows,) distance between a row's reference vector and the nearest reference vector of another text, both
            scaled to length 1; infinite where there is no other text. A candidate vector that is off by less than half
            of it, as a distance between vectors of length 1, cannot be closest to another text.
        neighbor_overlap: (different texts,) share of the ten nearest texts, by reference vectors, that are also the ten
            nearest by candidate vectors.
        similarity_drift: Largest change of any pairwise cosine.
        drift_counts: (bins,) how many pairs of rows have cosines that change so much; see ``DRIFT_EDGES``. Pairs with a
            row that is not finite are left out.
        non_finite: How many rows have a NaN or Inf.
    """

    cosine: Matrix
    centered_cosine: Matrix
    relative_error: Matrix
    norm_ratio: Matrix
    neighbor: npt.NDArray[np.int64]
    own_neighbor: npt.NDArray[np.bool_]
    margin: Matrix
    neighbor_overlap: Matrix
    similarity_drift: float
    drift_counts: npt.NDArray[np.int64]
    non_finite: int

    @property
    def row_statistics(self) -> dict[str, float]:
        """The smallest, largest and mean figures of the rows, by name."""
        return {
            "min_cosine": float(np.min(self.cosine)),
            "p01_cosine": float(np.percentile(self.cosine, 1)),
            "mean_cosine": float(np.mean(self.cosine)),
            "min_centered_cosine": float(np.min(self.centered_cosine)),
            "max_relative_error": float(np.max(self.relative_error)),
            "mean_relative_error": float(np.mean(self.relative_error)),
            "min_norm_ratio": float(np.min(self.norm_ratio)),
            "max_norm_ratio": float(np.max(self.norm_ratio)),
        }

    @property
    def neighbor_identity(self) -> float:
        """Share of rows whose nearest reference vector is their own, whatever their margin."""
        return float(self.own_neighbor.mean())

    def identity_beyond(self, margin: float) -> tuple[float, int]:
        """Return the share of rows whose nearest reference vector is their own, and how many rows were looked at.

        Looked at are the rows whose own ``margin`` is larger than ``margin``. Two texts that differ by less than what
        a precision's rounding moves a vector are in an order that is a matter of luck: a sound export may swap them,
        and a bad one may not. The share of no rows is 1.
        """
        judged = self.margin > margin
        count = int(judged.sum())
        return (float(self.own_neighbor[judged].mean()) if count else 1.0), count


def compare(reference: npt.ArrayLike, candidate: npt.ArrayLike, token_ids: Sequence[Sequence[int]]) -> Parity:
    """Compare two (rows, dimension) matrices.

    Args:
        reference: The FP32 PyTorch vectors.
        candidate: The vectors to judge.
        token_ids: Token ids of each row; rows with equal ids are one sentence to the model, and tie as neighbors.
    """
    wanted, found = np.asarray(reference, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    finite = np.logical_and.reduce(np.isfinite(found), axis=1)
    safe = np.where(finite[:, None], found, 0.0)
    center = wanted.mean(axis=0)
    cosine = row_cosine(wanted, safe)
    centered = row_cosine(wanted - center, safe - center)
    norms, found_norms = np.linalg.norm(wanted, axis=1), np.linalg.norm(safe, axis=1)
    scale = np.where(norms > 0, norms, 1.0)
    error = np.linalg.norm(safe - wanted, axis=1) / scale
    ratio = np.where(norms > 0, found_norms / scale, np.where(found_norms > 0, np.inf, 1.0))
    for column in (cosine, centered, error, ratio):
        column[~finite] = np.nan
    text = text_numbers(token_ids)
    pairs = _compare_pairs(_unit(wanted), _unit(safe), text, finite)
    return Parity(
        cosine=cosine,
        centered_cosine=centered,
        relative_error=error,
        norm_ratio=ratio,
        neighbor=pairs.neighbor,
        own_neighbor=(text[pairs.neighbor] == text) & finite,
        margin=pairs.margin,
        neighbor_overlap=np.where(finite[pairs.first], pairs.overlap, 0.0),
        similarity_drift=pairs.drift if finite.all() else float("nan"),
        drift_counts=pairs.drift_counts,
        non_finite=int((~finite).sum()),
    )


def text_numbers(token_ids: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Return (rows,) a number for each row, the same for rows of equal tokens."""
    numbers: dict[tuple[int, ...], int] = {}
    return np.array([numbers.setdefault(tuple(row), len(numbers)) for row in token_ids], dtype=np.int64)


@dataclass(frozen=True)
class _Pairs:
    """What the cosines of all pairs come to; see ``Parity``.

    Attributes:
        neighbor: (rows,) see there.
        margin: (rows,) see there.
        drift: Largest change of a cosine.
        drift_counts: (bins,) see there.
        first: (different texts,) the first row of each text.
        overlap: (different texts,) share of the nearest texts that both sides agree on.
    """

    neighbor: npt.NDArray[np.int64]
    margin: Matrix
    drift: float
    drift_counts: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    overlap: Matrix


def _compare_pairs(wanted: Matrix, found: Matrix, text: npt.NDArray[np.int64], finite: npt.NDArray[np.bool_]) -> _Pairs:
    """Compare (rows, dimension) vectors of length 1 in pairs. Memory does not grow with the number of pairs."""
    rows, counts = len(wanted), np.zeros(len(DRIFT_EDGES) - 1, np.int64)
    neighbor, margin, drift = np.zeros(rows, np.int64), np.zeros(rows), 0.0
    numbers, first = np.unique(text, return_index=True)
    overlap = np.ones(len(first))
    count = min(NEAREST, len(first) - 1)
    step = max(_PAIRS_AT_ONCE // max(rows, 1), 1)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        similarity, other = wanted[block] @ wanted.T, found[block] @ found.T
        changes = np.abs(other - similarity)
        drift = max(drift, float(changes.max(initial=0.0)))
        once = np.arange(rows) > np.arange(rows)[block, None]  # of (a, b) and (b, a), one is counted
        counts += _drift_counts(changes[once & finite & finite[block, None]])
        neighbor[block] = (found[block] @ wanted.T).argmax(axis=1)
        margin[block] = _margin(similarity, text[block, None] != text)
        mine = first[(first >= start) & (first < start + step)]
        if count < 1 or not len(mine):
            continue
        own = text[mine, None] == numbers
        near, nearer = (_nearest(each[mine - start][:, first], own, count) for each in (similarity, other))
        overlap[text[mine]] = (near & nearer).sum(axis=1) / count
    return _Pairs(neighbor, margin, drift, counts, first, overlap)


def _drift_counts(changes: Matrix) -> npt.NDArray[np.int64]:
    """Count changes of cosines in the bins of ``DRIFT_EDGES``."""
    bins = len(DRIFT_EDGES) - 1
    places = np.searchsorted(DRIFT_EDGES, changes, side="right") - 1
    return np.bincount(np.clip(places, 0, bins - 1), minlength=bins)


def _margin(similarity: Matrix, others: npt.NDArray[np.bool_]) -> Matrix:
    """Return (rows,) the distance between each unit vector and the nearest one of another text."""
    nearest = np.where(others, similarity, -np.inf).max(axis=1, initial=-np.inf)
    margin: Matrix = np.sqrt(np.maximum(2 - 2 * nearest, 0.0))
    return margin


def _nearest(similarity: Matrix, own: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.bool_]:
    """Return which texts are the nearest ``count`` of each row, itself left out. Of equal ones, the first count."""
    others = np.where(own, -np.inf, similarity)
    last = -np.partition(-others, count - 1, axis=1)[:, count - 1, None]
    above, tied = others > last, others == last
    room = count - above.sum(axis=1, keepdims=True)
    nearest: npt.NDArray[np.bool_] = above | (tied & (np.cumsum(tied, axis=1) <= room))
    return nearest


def row_cosine(first: Matrix, second: Matrix) -> Matrix:
    """Return the cosine of each pair of rows, (rows,); 1 where both are zero, 0 where one is."""
    norms = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    product = norms[0] * norms[1]
    dot = np.einsum("ij,ij->i", first, second)
    both_zero = (norms[0] == 0) & (norms[1] == 0)
    return np.where(both_zero, 1.0, np.divide(dot, product, out=np.zeros_like(dot), where=product > 0))


def relative_deviation(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Return the largest ``|a - b| / |b|`` over rows; NaN where anything is NaN or Inf."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    norms = np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and said so
        value = float((np.linalg.norm(a - b, axis=1) / np.where(norms > 0, norms, 1.0)).max(initial=0.0))
    return value if np.isfinite(value) else float("nan")


def _unit(vectors: Matrix) -> Matrix:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Matrix = vectors / np.where(norms > 0, norms, 1.0)
    return unit
