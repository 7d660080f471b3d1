"""The numbers of parity: reference vectors and candidate vectors in, statistics out. Pure numpy, float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Parity:
    """How far a candidate is from its reference. Rows are probes, in order.

    Attributes:
        cosine: (rows,) cosine of candidate and reference. NaN where the candidate has NaN or Inf.
        centered_cosine: (rows,) the same after the mean reference vector is taken from both.
        relative_error: (rows,) ``|candidate - reference| / |reference|``.
        norm_ratio: (rows,) ``|candidate| / |reference|``.
        neighbor: (rows,) index of the reference vector closest to the candidate.
        neighbor_identity: Share of rows whose neighbour is their own; rows of equal tokens tie.
        similarity_drift: Largest change of any pairwise cosine.
        non_finite: How many rows have a NaN or Inf.
    """

    cosine: Matrix
    centered_cosine: Matrix
    relative_error: Matrix
    norm_ratio: Matrix
    neighbor: npt.NDArray[np.int64]
    neighbor_identity: float
    similarity_drift: float
    non_finite: int


def compare(reference: npt.ArrayLike, candidate: npt.ArrayLike, token_ids: list[list[int]]) -> Parity:
    """Compare two (rows, dimension) matrices.

    Args:
        reference: The FP32 PyTorch vectors.
        candidate: The vectors to judge.
        token_ids: Token ids of each row; rows with equal ids are one sentence to the model, and tie as neighbours.
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
    unit_wanted, unit_found = _unit(wanted), _unit(safe)
    neighbor = (unit_found @ unit_wanted.T).argmax(axis=1)
    tied = [token_ids[row] == token_ids[int(other)] for row, other in enumerate(neighbor)]
    drift = np.abs(unit_found @ unit_found.T - unit_wanted @ unit_wanted.T)
    for column in (cosine, centered, error, ratio):
        column[~finite] = np.nan
    return Parity(
        cosine=cosine,
        centered_cosine=centered,
        relative_error=error,
        norm_ratio=ratio,
        neighbor=neighbor.astype(np.int64),
        neighbor_identity=float(np.mean(np.array(tied) & finite)),
        similarity_drift=float(drift.max(initial=0.0)) if finite.all() else float("nan"),
        non_finite=int((~finite).sum()),
    )


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
    value = float((np.linalg.norm(a - b, axis=1) / np.where(norms > 0, norms, 1.0)).max(initial=0.0))
    return value if np.isfinite(value) else float("nan")


def _unit(vectors: Matrix) -> Matrix:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Matrix = vectors / np.where(norms > 0, norms, 1.0)
    return unit
