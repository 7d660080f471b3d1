"""The bounds of a pair: how far two candidates may be from each other, if each is within its gate of the checkpoint.

Let R be a vector of the checkpoint in PyTorch, and A and B those of two candidates that were made from it. A gate
bounds A against R and B against R. What follows for A against B:

- **Angles add up** (the triangle inequality on a sphere). If cos(A, R) >= a and cos(B, R) >= b, then
  cos(A, B) >= cos(arccos a + arccos b). For two of the same gate, that is four times the loss of the cosine.
- **The mean of cosines.** 1 - cos x = 2 sin^2(x / 2), and the sine of a sum is at most the sum of the sines, so that
  1 - cos(A, B) <= 2 (1 - cos(A, R)) + 2 (1 - cos(B, R)) for every text, and for the means.
- **Distances add up.** |A - B| <= |A - R| + |B - R|. Relative to |A|, which is at least (1 - e_A) |R|, the error of the
  pair is at most (e_A + e_B) / (1 - e_A), where e_A is the largest error that A's gate allows. Norms likewise.
- **Changes of similarity add up**: |AA' - BB'| <= |AA' - RR'| + |RR' - BB'|. So do losses of Spearman's correlation.
- **Neighbors.** Of the k nearest by R, A keeps at least the share p and B the share q, so they share p + q - 1. The
  same bound is asked of a search with B in the vectors of A, which moves one side only and loses less.

Where a gate widens a bound (``max_widening``, ``max_mean_widening``), the widest one is taken. Centered cosines are
relative to the mean vector of A, in place of the checkpoint's.

The gates are proven on the probes. On other text, these bounds say what a pair that is sound on the probes may differ
by: a pair that misses them there is worse than what was proven.
"""

from __future__ import annotations

import math

from exporter.recipe import Gate


def pair_gate(first: Gate, second: Gate) -> Gate:
    """Return what the difference of two candidates is bounded by, given what each may differ from the checkpoint.

    Bounds of batches, of norms' bias, of the number format and of the first percentile say nothing about a pair, and
    are left out. A bound that one of the two gates lacks is lacking.
    """
    most = _times(first.max_relative_error, first.max_widening)
    relative = 1 - most if most is not None and most < 1 else None
    largest = _sum(most, _times(second.max_relative_error, second.max_widening))
    mean = _sum(*(_times(gate.max_mean_error, gate.max_mean_widening) for gate in (first, second)))
    norm = _sum(first.max_norm_error, second.max_norm_error)
    return Gate(
        min_cosine=_cosine_of_sum(first.min_cosine, second.min_cosine, first.max_widening, second.max_widening),
        mean_cosine=_share(first.mean_cosine, second.mean_cosine, times=2.0),
        min_centered_cosine=None
        if first.min_centered_cosine is None or second.min_centered_cosine is None
        else _cosine_of_sum(
            first.min_centered_cosine, second.min_centered_cosine, first.max_widening, second.max_widening
        ),
        max_relative_error=None if largest is None or relative is None else largest / relative,
        max_mean_error=None if mean is None or relative is None else mean / relative,
        max_norm_error=None
        if norm is None or first.max_norm_error is None or first.max_norm_error >= 1
        else norm / (1 - first.max_norm_error),
        neighbor_identity=_share(first.neighbor_identity, second.neighbor_identity) or 0.0,
        mean_neighbor_overlap=_share(first.mean_neighbor_overlap, second.mean_neighbor_overlap),
        max_similarity_drift=_sum(first.max_similarity_drift, second.max_similarity_drift),
        mean_stored_overlap=_share(first.mean_stored_overlap, second.mean_stored_overlap),
        mean_binary_overlap=_share(first.mean_binary_overlap, second.mean_binary_overlap),
        max_code_changes=_share_of_changes(first.max_code_changes, second.max_code_changes),
        max_sign_flips=_share_of_changes(first.max_sign_flips, second.max_sign_flips),
        max_spearman_drop=first.max_spearman_drop + second.max_spearman_drop,
    )


def _cosine_of_sum(first: float, second: float, *widening: float) -> float:
    """Return the cosine of the sum of the two largest angles."""
    losses = [times * (1 - bound) for times, bound in zip(widening, (first, second), strict=True)]
    angle = sum(2 * math.asin(math.sqrt(min(max(loss, 0.0) / 2, 1.0))) for loss in losses)  # exact near 1
    return 1 - 2 * math.sin(min(angle, math.pi) / 2) ** 2


def _times(bound: float | None, widening: float) -> float | None:
    return None if bound is None else bound * widening


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _share(first: float | None, second: float | None, times: float = 1.0) -> float | None:
    """Return 1 less both losses, so many times, at least 0."""
    return None if first is None or second is None else max(1 - times * ((1 - first) + (1 - second)), 0.0)


def _share_of_changes(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else min(first + second, 1.0)
