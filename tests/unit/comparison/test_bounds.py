"""What two gates allow together: derived by hand, and never missed by a pair within both gates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exporter.comparison.bounds import pair_gate
from exporter.recipe import Gate, Gates
from exporter.validator.parity import compare

GATES = Gates()


def test_figures_by_hand() -> None:
    first = Gate(
        min_cosine=math.cos(math.radians(10)),
        mean_cosine=0.99,
        max_relative_error=0.2,
        max_mean_error=0.1,
        max_norm_error=0.1,
        mean_neighbor_overlap=0.9,
        max_similarity_drift=0.02,
        mean_stored_overlap=0.8,
        max_sign_flips=0.7,
        max_spearman_drop=0.1,
    )
    second = Gate(
        min_cosine=math.cos(math.radians(20)),
        mean_cosine=0.98,
        max_relative_error=0.1,
        max_mean_error=0.05,
        max_norm_error=0.05,
        mean_neighbor_overlap=0.7,
        max_similarity_drift=0.03,
        mean_stored_overlap=0.1,
        max_sign_flips=0.6,
        max_spearman_drop=0.3,
    )
    found = pair_gate(first, second)
    assert found.min_cosine == pytest.approx(math.cos(math.radians(30)))
    assert found.mean_cosine == pytest.approx(1 - 2 * 0.03)
    assert found.max_relative_error == pytest.approx(0.3 / 0.8)
    assert found.max_mean_error == pytest.approx(0.15 / 0.8)
    assert found.max_norm_error == pytest.approx(0.15 / 0.9)
    assert found.mean_neighbor_overlap == pytest.approx(0.6)
    assert found.max_similarity_drift == pytest.approx(0.05)
    assert found.mean_stored_overlap == 0
    assert found.max_sign_flips == 1
    assert found.max_spearman_drop == pytest.approx(0.4)
    assert (found.min_centered_cosine, found.mean_binary_overlap, found.max_code_changes) == (None, None, None)


def test_the_widest_bound_of_a_text_counts() -> None:
    found = pair_gate(GATES.fp32, GATES.fp32)
    assert 1 - found.min_cosine == pytest.approx(4 * 2 * 1e-6, rel=1e-4), "twice the angle, and a widening of 2"
    assert found.max_relative_error == pytest.approx(8e-5, rel=1e-4)
    assert found.max_mean_error == pytest.approx(4e-5, rel=1e-4)
    assert found.mean_neighbor_overlap == pytest.approx(0.998)


def test_a_gate_that_allows_everything_bounds_nothing() -> None:
    found = pair_gate(Gate(min_cosine=-1, max_relative_error=1.5, max_mean_error=0.1, max_norm_error=2), GATES.fp32)
    assert found.min_cosine == -1
    assert (found.max_relative_error, found.max_mean_error, found.max_norm_error) == (None, None, None)


@pytest.mark.parametrize("first", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("second", ["fp32", "fp16", "bf16", "int8"])
def test_a_pair_within_both_gates_is_within_the_bounds(first: str, second: str) -> None:
    """Each side is as far from the checkpoint as its gate allows, and the two in opposite directions."""
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((80, 32))
    away = rng.standard_normal((80, 32))
    away -= reference * (np.sum(away * reference, axis=1) / np.sum(reference**2, axis=1))[:, None]
    away *= (np.linalg.norm(reference, axis=1) / np.linalg.norm(away, axis=1))[:, None]
    found = pair_gate(GATES.of(first), GATES.of(second))
    sides = []
    for name, sign in ((first, 1), (second, -1)):
        gate = GATES.of(name)
        angle = min(math.acos(1 - gate.max_widening * (1 - gate.min_cosine)), math.atan(gate.max_relative_error or 9))
        sides.append(reference + sign * math.tan(angle) * away)
    parity = compare(sides[0], sides[1], [[row] for row in range(80)])
    assert parity.cosine.min() >= found.min_cosine - 1e-12
    assert parity.relative_error.max() <= (found.max_relative_error or 0) + 1e-12
    tight = 1 - parity.cosine.min() if parity.cosine.min() - found.min_cosine < 1e-6 else parity.relative_error.max()
    assert tight > 0.3 * min(1 - found.min_cosine, found.max_relative_error or 1), "the bounds are not idle"
