from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from exporter.validator.parity import DRIFT_EDGES, compare, relative_deviation, row_cosine

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


def test_a_narrow_cone_hides_a_fault_from_the_cosine_and_not_from_the_centered_one() -> None:
    cone = 100 + RNG.standard_normal((20, 8))
    shuffled = np.roll(cone, 1, axis=0)
    parity = compare(cone, shuffled, IDS)
    assert parity.cosine.min() > 0.999
    assert parity.centered_cosine.min() < 0.5
    assert parity.neighbor_identity < 0.2


def test_equal_sentences_tie_as_neighbors() -> None:
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


def test_similarity_drift_is_the_largest_change_of_any_pair() -> None:
    reference = np.eye(40)
    candidate = reference.copy()
    candidate[3] = [0, 0, 0, 0.8, 0.6, *[0] * 35]  # its cosine with row 4 was 0
    assert compare(reference, candidate, [[row] for row in range(40)]).similarity_drift == pytest.approx(0.6)


def test_the_center_is_the_reference_s() -> None:
    """A vector that is added to every row would vanish if the candidate's own mean were taken from it."""
    shifted = REFERENCE + 0.5
    assert compare(REFERENCE, shifted, IDS).centered_cosine.min() < 0.9


def test_a_margin_is_the_distance_to_the_nearest_other_text() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 2.0], [0.6, 0.8], [3.0, 0.0]])
    margin = compare(reference, reference, [[0], [1], [2], [0]]).margin  # the last row is the first text again
    np.testing.assert_allclose(margin, np.sqrt([2 - 1.2, 2 - 1.6, 2 - 1.6, 2 - 1.2]))
    assert compare(reference[:1], reference[:1], [[0]]).margin.tolist() == [np.inf]


def test_identity_is_judged_only_where_texts_are_far_enough_apart() -> None:
    near, far = np.array([[1.0, 0.0], [1.0, 0.001]]), np.array([[0.0, 1.0], [0.0, -1.0]])
    reference = np.concatenate([near, far])
    swapped_near, swapped_far = reference[[1, 0, 2, 3]], reference[[0, 1, 3, 2]]
    ids = [[row] for row in range(4)]
    assert compare(reference, swapped_near, ids).identity_beyond(0.01) == (1.0, 2)
    assert compare(reference, swapped_near, ids).identity_beyond(0.0001) == (0.5, 4)
    assert compare(reference, swapped_far, ids).identity_beyond(0.01) == (0.0, 2)
    assert compare(reference, swapped_far, ids).identity_beyond(2) == (1.0, 0)


def test_overlap_is_the_share_of_the_ten_nearest_that_stay() -> None:
    around = np.linspace(0, 1, 30)
    reference = np.stack([np.cos(around), np.sin(around)], axis=1)
    ids = [[row] for row in range(30)]
    assert compare(reference, reference, ids).neighbor_overlap.tolist() == [1.0] * 30
    moved = reference.copy()
    moved[0] = reference[29]  # its ten nearest are those of the other end
    overlap = compare(reference, moved, ids).neighbor_overlap
    assert overlap[0] == 0
    assert overlap[15] == 1
    assert 0 < overlap[1] < 1
    broken = reference.copy()
    broken[5] = np.nan
    assert compare(reference, broken, ids).neighbor_overlap[5] == 0


def test_overlap_counts_equal_texts_once() -> None:
    doubled = np.concatenate([REFERENCE, REFERENCE])
    assert compare(doubled, doubled, IDS + IDS).neighbor_overlap.tolist() == [1.0] * 20
    assert compare(REFERENCE[:1], REFERENCE[:1], [[0]]).neighbor_overlap.tolist() == [1.0]


def test_a_search_sees_a_randomised_candidate_that_identity_does_not_see() -> None:
    """95% of each vector is noise: its own reference is the nearest all the same, as noise is far from everything."""
    rng = np.random.default_rng(3)
    topics = np.repeat(rng.standard_normal((30, 384)), 20, axis=0)
    reference = _unit(topics + 0.8 * rng.standard_normal((600, 384)))
    noise = _unit(rng.standard_normal((600, 384)))
    randomised = np.sqrt(0.05) * reference + np.sqrt(0.95) * noise
    parity = compare(reference, randomised, [[row] for row in range(600)])
    assert parity.neighbor_identity > 0.5
    assert parity.neighbor_overlap.mean() < 0.5
    sound = compare(reference, reference + 0.05 * noise, [[row] for row in range(600)])
    assert sound.neighbor_overlap.mean() > 0.9


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def test_cosine_of_zero_vectors() -> None:
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert row_cosine(zero, zero)[0] == 1
    assert row_cosine(zero, one)[0] == 0


def test_relative_deviation() -> None:
    assert relative_deviation([[1.0, 0.0]], [[2.0, 0.0]]) == 0.5
    assert np.isnan(relative_deviation([[np.nan, 0.0]], [[2.0, 0.0]]))
    assert np.isnan(relative_deviation([[np.inf, 0.0]], [[np.inf, 0.0]]))


def test_pairs_are_compared_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = RNG.standard_normal((90, 6))
    candidate = reference + 0.2 * RNG.standard_normal((90, 6))
    candidate[11, 2] = np.nan
    ids = [[row % 80] for row in range(90)]
    whole = compare(reference, candidate, ids)
    monkeypatch.setattr("exporter.validator.parity._PAIRS_AT_ONCE", 7 * 90)
    in_blocks = compare(reference, candidate, ids)
    for name in ("neighbor", "own_neighbor", "neighbor_overlap", "drift_counts"):
        np.testing.assert_array_equal(getattr(in_blocks, name), getattr(whole, name), err_msg=name)
    np.testing.assert_allclose(in_blocks.margin, whole.margin, atol=1e-14)
    candidate[11, 2] = 0
    drift = compare(reference, candidate, ids).similarity_drift
    cosines = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (reference, candidate)]
    assert drift == pytest.approx(np.abs(cosines[0] @ cosines[0].T - cosines[1] @ cosines[1].T).max(), abs=1e-14)


def test_memory_does_not_grow_with_the_number_of_pairs() -> None:
    reference = RNG.standard_normal((4000, 4)).astype(np.float32)
    tracemalloc.start()
    compare(reference, reference, [[row] for row in range(4000)])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 120 * 2**20, "a matrix of all pairs has 122 MiB"


def test_of_equally_near_texts_the_first_ones_count() -> None:
    corners = np.concatenate([np.eye(12), np.eye(12)])
    assert compare(corners, corners, [[row] for row in range(24)]).neighbor_overlap.min() == 1


def test_changes_of_pairs_are_counted_by_their_size() -> None:
    reference = np.eye(4)
    candidate = np.eye(4)
    candidate[0, 1] = 0.01  # its cosine with row 1 changes by 0.01, with the others by nothing
    counts = compare(reference, candidate, [[row] for row in range(4)]).drift_counts
    assert counts.sum() == 6
    assert counts[0] == 5
    assert [(DRIFT_EDGES[place], number) for place, number in enumerate(counts) if number][1:] == [
        (pytest.approx(10**-2.25), 1)  # 0.0099995 lies below 0.01
    ]


def test_pairs_with_a_row_that_is_not_finite_are_not_counted() -> None:
    candidate = REFERENCE.copy()
    candidate[3] = np.nan
    assert compare(REFERENCE, candidate, IDS).drift_counts.sum() == 19 * 18 // 2
    assert compare(REFERENCE[:1], REFERENCE[:1], IDS[:1]).drift_counts.sum() == 0


def test_the_largest_change_there_can_be_is_counted() -> None:
    reference, candidate = np.array([[1.0, 0.0], [1.0, 1e-9]]), np.array([[1.0, 0.0], [-1.0, 1e-9]])
    counts = compare(reference, candidate, IDS[:2]).drift_counts
    assert (counts[-1], counts.sum()) == (1, 1)
