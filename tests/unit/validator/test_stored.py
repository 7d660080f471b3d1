"""Stored vectors are judged: each bound catches a mistake that no bound of whole vectors sees."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.recipe import Gate, Gates
from exporter.runtime.vector_types import Ranges
from exporter.validator.gates import judge, judge_stored
from exporter.validator.parity import compare
from exporter.validator.stored import Storage, compare_stored, neighbors_kept

ROWS, DIMENSION = 60, 32
REFERENCE = np.random.default_rng(0).normal(size=(ROWS, DIMENSION)).astype(np.float32)
REFERENCE[:, 5] *= 1e-7  # a dimension that says next to nothing
IDS = [[row] for row in range(ROWS)]
RANGES = Ranges.of(REFERENCE, (16,))
GATE = Gates().fp32


def storage(candidate: np.ndarray, ranges: Ranges = RANGES, dims: tuple[int, ...] = (16,)) -> Storage:
    return compare_stored(REFERENCE, candidate, IDS, ranges, dims)


def failed(found: Storage, gate: Gate = GATE) -> set[str]:
    return {verdict.name for verdict in judge_stored(found, gate) if not verdict.passed}


def test_equal_vectors_pass_every_bound_at_every_dimension() -> None:
    verdicts = judge_stored(storage(REFERENCE), GATE)
    assert all(verdict.passed for verdict in verdicts)
    names = {verdict.name for verdict in verdicts}
    for at in ("", " at 16 dimensions"):
        assert {
            f"neighbors kept as float16{at}",
            f"neighbors kept as int8{at}",
            f"neighbors kept as normalized int8{at}",
            f"neighbors kept by the ranges of int8{at}",
            f"code changes as int8{at}",
            f"neighbors kept as binary{at}",
            f"sign flips as binary{at}",
        } <= names
    assert {"min cosine at 16 dimensions", "mean neighbor overlap at 16 dimensions"} <= names


def test_signs_that_flip_are_seen_where_whole_vectors_agree() -> None:
    """All the signs of one small dimension: 1e-7 of a vector, and one bit of each."""
    flipped = REFERENCE.copy()
    flipped[:, 5] *= -1
    whole = judge(compare(REFERENCE, flipped, IDS), 0.0, (), GATE)
    assert all(verdict.passed for verdict in whole)
    assert "sign flips as binary" in failed(storage(flipped, dims=()))
    assert "code changes as int8" in failed(storage(flipped, dims=()))


def test_what_is_wrong_in_the_first_dimensions_is_seen_there() -> None:
    """The last dimensions are large, so whole vectors hide what the first ones have lost."""
    large = REFERENCE * np.where(np.arange(DIMENSION) < 16, 1e-4, 1).astype(np.float32)
    wrong = large.copy()
    wrong[:, :16] = np.roll(large[:, :16], 1, axis=0)
    gate = Gate(min_cosine=0.9999)
    assert all(verdict.passed for verdict in judge(compare(large, wrong, IDS), 0.0, (), gate))
    found = compare_stored(large, wrong, IDS, Ranges.of(large, (16,)), (16,))
    assert failed(found, gate) == {"min cosine at 16 dimensions"}


@pytest.mark.parametrize(
    "ranges",
    [
        Ranges(RANGES.raw * 100, {key: value * 100 for key, value in RANGES.normalized.items()}),
        Ranges(RANGES.raw * 0.01, {key: value * 0.01 for key, value in RANGES.normalized.items()}),
        Ranges(np.sort(RANGES.raw + 9, axis=0), {key: value + 9 for key, value in RANGES.normalized.items()}),
    ],
    ids=["too wide", "too narrow", "of other vectors"],
)
def test_ranges_that_do_not_fit_fail_although_both_sides_agree(ranges: Ranges) -> None:
    assert failed(storage(REFERENCE, ranges)) >= {
        "neighbors kept by the ranges of int8",
        "neighbors kept by the ranges of normalized int8",
        "neighbors kept by the ranges of int8 at 16 dimensions",
    }


def test_figures() -> None:
    moved = REFERENCE.copy()
    moved[:6, 0] *= -1  # 6 of 60 * 32 signs
    losses = {(loss.dimension, loss.name): loss for loss in storage(moved).losses}
    assert losses[32, "binary"].changed == pytest.approx(6 / (60 * 32))
    assert losses[16, "binary"].changed == pytest.approx(6 / (60 * 16))
    assert losses[32, "float16"].changed is None
    assert losses[32, "int8"].beyond_ranges == 0
    half = Ranges(RANGES.raw * np.float32(0.5), RANGES.normalized)
    beyond = next(loss.beyond_ranges for loss in storage(moved, half).losses if loss.name == "int8")
    assert beyond == pytest.approx(float(np.mean((half.raw[0] > REFERENCE) | (half.raw[1] < REFERENCE))))


def test_vectors_beyond_float16_are_judged_in_the_other_types() -> None:
    large = REFERENCE * 1e6
    found = compare_stored(large, large, IDS, Ranges.of(large))
    assert {loss.type for loss in found.losses} == {"int8", "binary"}


class TestNeighbors:
    def test_equal_similarity_keeps_all_whatever_ties(self) -> None:
        ties = np.random.default_rng(1).integers(0, 3, (30, 30)).astype(float)
        assert neighbors_kept(ties, ties) == 1

    def test_vectors_that_are_all_alike_find_no_more_than_by_chance(self) -> None:
        assert neighbors_kept(np.random.default_rng(1).random((30, 30)), np.zeros((30, 30))) == pytest.approx(10 / 29)

    def test_texts_that_are_equally_near_take_each_others_place(self) -> None:
        """By ``wanted``, all others are equally near: any ten of them are the nearest."""
        assert neighbors_kept(np.zeros((30, 30)), np.random.default_rng(1).random((30, 30))) == 1

    def test_neighbors_that_are_lost(self) -> None:
        wanted = np.random.default_rng(1).random((30, 30))
        assert neighbors_kept(wanted, -wanted) == 0

    def test_a_text_alone_has_none(self) -> None:
        assert neighbors_kept(np.ones((1, 1)), np.ones((1, 1))) == 1
