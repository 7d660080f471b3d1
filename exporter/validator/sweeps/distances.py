"""How far rows are from PyTorch's, and which of them miss a bound.

Words in no order and single positions may amplify rounding as no sentence does. So a row that misses a bound is
compared with what the number format itself loses on it, as a probe of the gate is: see ``Gate.max_widening``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from exporter.recipe import Gate
from exporter.validator.format_loss import MOST_EXACT
from exporter.validator.parity import row_cosine
from exporter.validator.sweeps.running import Matrix, Vectors

OwnVectors = Callable[[Sequence[int]], Vectors | None]
"""Rows to PyTorch's vectors of them, in the candidate's number format; of float32, in float64. None where unknown."""


@dataclass(frozen=True)
class Distances:
    """How far vectors are from PyTorch's, per row. Of a row with NaN or Inf every figure is NaN.

    Attributes:
        error: ``|candidate - reference| / |reference|``.
        cosine: Cosine of both.
        centered: The same after the mean reference vector is taken from both. None where rows are too few for a mean.
    """

    error: Matrix
    cosine: Matrix
    centered: Matrix | None

    @classmethod
    def between(cls, wanted: Vectors, found: Vectors, center: Matrix | None) -> Distances:
        """Compare (rows, dimension) vectors of the candidate with PyTorch's."""
        reference, vectors = wanted.astype(np.float64), found.astype(np.float64)
        finite = np.logical_and.reduce(np.isfinite(vectors), axis=1)
        vectors = np.where(finite[:, None], vectors, 0.0)
        columns = [
            np.linalg.norm(vectors - reference, axis=1) / np.maximum(np.linalg.norm(reference, axis=1), 1e-30),
            row_cosine(reference, vectors),
        ]
        if center is not None:
            columns.append(row_cosine(reference - center, vectors - center))
        for column in columns:
            column[~finite] = np.nan
        return cls(columns[0], columns[1], columns[2] if center is not None else None)

    def complaint(self, row: int, gate: Gate) -> str | None:
        """Return what is wrong with a row, in words, or None."""
        if np.isnan(self.error[row]):
            return "NaN or Inf"
        if gate.max_relative_error is not None and self.error[row] > gate.max_relative_error:
            return f"relative error {self.error[row]:.2g}, allowed {gate.max_relative_error:.2g}"
        if self.cosine[row] < gate.min_cosine:
            return f"cosine {self.cosine[row]:.6g}, at least {gate.min_cosine:.6g} is wanted"
        centered = gate.min_centered_cosine
        if self.centered is not None and centered is not None and self.centered[row] < centered:
            return f"centered cosine {self.centered[row]:.6g}, at least {centered:.6g} is wanted"
        return None

    def failed(self, gate: Gate) -> list[int]:
        """Return the rows that miss a bound, worst first."""
        order = np.argsort(-np.nan_to_num(self.error, nan=np.inf), kind="stable")
        return [int(row) for row in order if self.complaint(int(row), gate) is not None]

    def widened(self, row: int, gate: Gate) -> Gate:
        """Return ``gate`` with the bounds of a row on which a number format is so far from PyTorch's float32."""
        ratio, error = gate.max_format_ratio or 0.0, np.nan_to_num(self.error[row])
        losses = {"min_cosine": self.cosine}
        if self.centered is not None:
            losses["min_centered_cosine"] = self.centered
        wider: dict[str, float] = {}
        if gate.max_relative_error is not None:
            wider["max_relative_error"] = _wider(gate.max_relative_error, ratio * error, gate.max_widening)
        for name, cosines in losses.items():
            bound: float | None = getattr(gate, name)
            if bound is not None:  # a cosine falls with the square of the distance
                wider[name] = 1 - _wider(1 - bound, ratio**2 * np.nan_to_num(1 - cosines[row]), gate.max_widening)
        return gate.model_copy(update=wider)


def failed_rows(
    wanted: Vectors, distances: Distances, center: Matrix | None, gate: Gate, own_vectors: OwnVectors
) -> list[tuple[int, str]]:
    """Return the rows that miss a bound and what is wrong with each, worst first.

    Args:
        wanted: (rows, dimension) float32, PyTorch's.
        distances: Of the candidate's vectors from these.
        center: The mean of PyTorch's, where centered cosines are judged.
        gate: The bounds.
        own_vectors: Asked for the rows that miss a bound, unless very many do.
    """
    failed = distances.failed(gate)
    own = own_vectors(failed) if gate.max_widening > 1 and 0 < len(failed) <= MOST_EXACT else None
    gates = dict.fromkeys(failed, gate)
    if own is not None:
        lost = Distances.between(wanted[failed], own, center)
        gates = {row: lost.widened(place, gate) for place, row in enumerate(failed)}
    told = [(row, distances.complaint(row, gates[row])) for row in failed]
    return [(row, complaint) for row, complaint in told if complaint is not None]


def _wider(bound: float, loss: float, most: float) -> float:
    return max(bound, min(float(loss), most * bound))
