"""The target space: principal axes of the teacher's vectors, one for each hidden unit of the student."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .student import CONTENT_SIZE, HIDDEN_SIZE, MAJOR_UNITS, MINOR_UNITS


@dataclass(frozen=True)
class Target:
    """Affine map from teacher vectors to the student's hidden space: ``(vectors - mean) @ matrix``."""

    mean: np.ndarray  # float32 (teacher size,)
    matrix: np.ndarray  # float32 (teacher size, HIDDEN_SIZE)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Map teacher vectors ``(n, teacher size)`` of any float type to float32 ``(n, HIDDEN_SIZE)``."""
        return (vectors.astype(np.float32) - self.mean) @ self.matrix


def fit_target(vectors: np.ndarray, whiten: float = 0.0, centre: float = 0.0, seed: int = 0) -> Target:
    """Take the leading principal axes of the teacher's vectors and rotate them evenly over the hidden units.

    The leading half goes to ``MAJOR_UNITS``, the next to ``MINOR_UNITS``; the few units in neither get zeros. Each half
    is turned by a random rotation, so that no unit carries much more variance than another.

    Args:
        vectors: Teacher vectors ``(n, teacher size)``.
        whiten: 0 to 1, how far the axes' variances are evened out.
        centre: 0 to 1, the share of the mean vector that is taken away. With ``whiten`` and ``centre`` at 0 the
            teacher's own cosines are kept, but for the axes left out.
        seed: Of the rotations. They depend on nothing else, so two targets of one corpus share their axes.
    """
    vectors = vectors.astype(np.float32)
    variance, axes = np.linalg.eigh(np.cov(vectors.T))  # ascending
    axes = axes[:, ::-1][:, : 2 * CONTENT_SIZE]
    variance = variance[::-1][: 2 * CONTENT_SIZE]
    axes = axes * (variance / variance.mean()) ** (-whiten / 2)
    rng = np.random.default_rng(seed)
    matrix = np.zeros((vectors.shape[1], HIDDEN_SIZE), dtype=np.float32)
    for units, block in ((MAJOR_UNITS, axes[:, :CONTENT_SIZE]), (MINOR_UNITS, axes[:, CONTENT_SIZE:])):
        rotation, _ = np.linalg.qr(rng.standard_normal((CONTENT_SIZE, CONTENT_SIZE)))
        matrix[:, units] = block @ rotation
    return Target(centre * vectors.mean(0), matrix)
