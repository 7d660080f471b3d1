from __future__ import annotations

import numpy as np
import pytest

from exporter.validator.parity import compare, relative_deviation, row_cosine

RNG = np.random.default_rng(0)
REFERENCE = RNG.standard_normal((20, 8))
IDS = [[row] for row in range(20)]


def test_equal_vectors_are_at_parity() -> None:
    parity = compare(REFERENCE, REFERENCE, IDS)
    np.testing.assert_allclose(parity.cosine, 1)
    assert parity.neighbor_identity == 1
    assert parity.similarity_drift == pytest.approx(0, abs=1e-12)
    assert parity.relative_error.max() == 0


def test_scaling_shows_in_norms_and_not_in_cosines() -> None:
    parity = compare(REFERENCE, 2 * REFERENCE, IDS)
    np.testing.assert_allclose(parity.cosine, 1)
    np.testing.assert_allclose(parity.norm_ratio, 2)
    np.testing.assert_allclose(parity.relative_error, 1)


def test_a_narrow_cone_hides_a_fault_from_the_cosine_and_not_from_the_centred_one() -> None:
    cone = 100 + RNG.standard_normal((20, 8))
    shuffled = np.roll(cone, 1, axis=0)
    parity = compare(cone, shuffled, IDS)
    assert parity.cosine.min() > 0.999
    assert parity.centered_cosine.min() < 0.5
    assert parity.neighbor_identity < 0.2


def test_equal_sentences_tie_as_neighbours() -> None:
    doubled = np.concatenate([REFERENCE, REFERENCE])
    assert compare(doubled, doubled, IDS + IDS).neighbor_identity == 1
    unlike = compare(doubled, doubled, [[row] for row in range(40)])
    assert unlike.neighbor_identity == 0.5  # the same vectors, said to be of other sentences


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_number_is_one_bad_row(value: float) -> None:
    candidate = REFERENCE.copy()
    candidate[7, 3] = value
    parity = compare(REFERENCE, candidate, IDS)
    assert parity.non_finite == 1
    assert np.flatnonzero(np.isnan(parity.cosine)).tolist() == [7]
    assert np.isnan(parity.similarity_drift)
    assert parity.neighbor_identity == 19 / 20


def test_cosine_of_zero_vectors() -> None:
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert row_cosine(zero, zero)[0] == 1
    assert row_cosine(zero, one)[0] == 0


def test_relative_deviation() -> None:
    assert relative_deviation([[1.0, 0.0]], [[2.0, 0.0]]) == 0.5
    assert np.isnan(relative_deviation([[np.nan, 0.0]], [[2.0, 0.0]]))
