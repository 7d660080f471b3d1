"""Parity at its edges: single precision, vectors of length zero, one row."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from exporter.validator.parity import compare, relative_deviation, row_cosine

RNG = np.random.default_rng(7)


def test_single_precision_is_compared_in_double_precision() -> None:
    """Rounding of the comparison itself would drown what it looks for."""
    reference = RNG.standard_normal((30, 384)).astype(np.float32)
    candidate = (reference + RNG.standard_normal((30, 384)).astype(np.float32) * 1e-6).astype(np.float32)
    ids = [[row] for row in range(30)]
    single = compare(reference, candidate, ids)
    double = compare(reference.astype(np.float64), candidate.astype(np.float64), ids)
    for field in dataclasses.fields(single):
        np.testing.assert_array_equal(getattr(single, field.name), getattr(double, field.name), err_msg=field.name)
    assert relative_deviation(candidate, reference) == relative_deviation(
        candidate.astype(np.float64), reference.astype(np.float64)
    )


def test_numbers_are_what_they_are_defined_as() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 0.2], [1.0, 0.0]])
    candidate = np.array([[4.0, 3.0], [0.0, 0.1], [1.0, 1.0]])
    parity = compare(reference, candidate, [[0], [1], [2]])
    np.testing.assert_allclose(parity.cosine, [24 / 25, 1, np.sqrt(0.5)])
    np.testing.assert_allclose(parity.relative_error, [np.sqrt(2) / 5, 0.5, 1])
    np.testing.assert_allclose(parity.norm_ratio, [1, 0.5, np.sqrt(2)])
    center = reference.mean(axis=0)
    np.testing.assert_allclose(parity.centered_cosine, row_cosine(reference - center, candidate - center))
    np.testing.assert_array_equal(parity.neighbor, [0, 1, 0])
    assert parity.neighbor.dtype == np.int64
    assert parity.neighbor_identity == pytest.approx(2 / 3)
    # Of the first and the second vector the cosine goes from 0.8 to 0.6, of the last two from 0 to 0.71.
    assert parity.similarity_drift == pytest.approx(np.sqrt(0.5))
    assert parity.non_finite == 0


def test_a_zero_vector_of_the_reference_is_compared_absolutely() -> None:
    reference = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    candidate = np.array([[0.0, 0.0], [0.0, 0.5], [1.0, 0.0]])
    parity = compare(reference, candidate, [[0], [1], [2]])
    np.testing.assert_array_equal(parity.relative_error, [0, 0.5, 0])
    np.testing.assert_array_equal(parity.norm_ratio, [1, np.inf, 1])
    np.testing.assert_array_equal(parity.cosine, [1, 0, 1])


def test_a_row_without_a_number_has_no_figure_and_keeps_the_others_theirs() -> None:
    reference = RNG.standard_normal((4, 3))
    candidate = reference.copy()
    candidate[1] = np.nan
    parity = compare(reference, candidate, [[row] for row in range(4)])
    for column in (parity.cosine, parity.centered_cosine, parity.relative_error, parity.norm_ratio):
        assert np.isnan(column).tolist() == [False, True, False, False]
    assert parity.neighbor_identity == 3 / 4
    assert parity.neighbor[[0, 2, 3]].tolist() == [0, 2, 3]
    assert np.isnan(parity.similarity_drift)


def test_a_row_without_a_number_is_nobodys_neighbor_even_among_equal_tokens() -> None:
    reference = RNG.standard_normal((2, 3))
    candidate = np.full((2, 3), np.nan)
    assert compare(reference, candidate, [[5], [5]]).neighbor_identity == 0


@pytest.mark.parametrize(
    ("first", "second", "cosine"),
    [
        ([0.0, 0.0], [0.0, 0.0], 1),
        ([0.0, 0.0], [1.0, 0.0], 0),
        ([1.0, 0.0], [0.0, 0.0], 0),
        ([2.0, 0.0], [3.0, 0.0], 1),
        ([1.0, 0.0], [-1.0, 0.0], -1),
        ([1.0, 0.0], [0.0, 1.0], 0),
        ([1.0, 1.0], [1.0, 0.0], np.sqrt(0.5)),
    ],
)
def test_cosine(first: list[float], second: list[float], cosine: float) -> None:
    np.testing.assert_allclose(row_cosine(np.array([first]), np.array([second])), [cosine])


@pytest.mark.parametrize(
    ("first", "second", "deviation"),
    [
        ([[3.0, 4.0]], [[3.0, 0.0]], 4 / 3),
        ([[3.0, 4.0], [1.0, 0.0]], [[3.0, 4.0], [2.0, 0.0]], 0.5),
        ([[0.5, 0.0]], [[0.0, 0.0]], 0.5),
        ([[0.3, 0.0]], [[0.1, 0.0]], 2.0),
        (np.empty((0, 2)), np.empty((0, 2)), 0.0),
    ],
)
def test_the_largest_relative_deviation(first: list[list[float]], second: list[list[float]], deviation: float) -> None:
    assert relative_deviation(first, second) == pytest.approx(deviation)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_deviation_of_what_is_no_number_is_none(value: float) -> None:
    assert np.isnan(relative_deviation([[value, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]))
