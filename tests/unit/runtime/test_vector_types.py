"""Stored vectors equal those of sentence-transformers, bit for bit; ranges survive their file."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sentence_transformers.util import quantize_embeddings as theirs
from sentence_transformers.util import truncate_embeddings

from exporter.errors import BundleError, EngineError, InputError
from exporter.runtime.contract import VECTOR_TYPES, VectorType
from exporter.runtime.vector_types import (
    Ranges,
    normalized,
    quantize_embeddings,
    truncated,
)

THEIR_TYPES: tuple[VectorType, ...] = ("float32", "int8", "uint8", "binary", "ubinary")
RANDOM = np.random.default_rng(0).normal(size=(300, 70)).astype(np.float32)


def same(found: np.ndarray, wanted: Any) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()


@pytest.mark.parametrize("precision", THEIR_TYPES)
@pytest.mark.parametrize("dimension", [1, 7, 8, 9, 64, 70])
def test_random_vectors_and_values_beyond_the_ranges(precision: VectorType, dimension: int) -> None:
    vectors = RANDOM[:, :dimension]
    ranges = Ranges.of(vectors[:100]).raw  # of a third of them: others lie beyond
    same(quantize_embeddings(vectors, precision, ranges), theirs(vectors, precision, ranges=ranges))


@pytest.mark.parametrize("precision", THEIR_TYPES)
def test_edge_values(precision: VectorType) -> None:
    """Zeros of both signs, a constant dimension, the ends of the ranges, and very large and small numbers."""
    largest = np.float32(1e30)
    vectors = np.array(
        [[-0.0, 3, -1, 0, 1e-45], [0.0, 3, 1, 1e-30, -1e-45], [1, 3, 2, -largest, 0], [-1, 4, -2, largest, 0]],
        dtype=np.float32,
    )
    ranges = np.array([[-1, 3, -1, 0, 0], [1, 3, 1, 1, 1]], dtype=np.float32)
    same(quantize_embeddings(vectors, precision, ranges), theirs(vectors, precision, ranges=ranges))


@given(
    hnp.arrays(np.float32, (3, 11), elements=st.floats(-8, 8, width=32)),
    hnp.arrays(np.float32, (2, 11), elements=st.floats(-4, 4, width=32)),
)
def test_any_vectors_and_ranges(vectors: np.ndarray, ends: np.ndarray) -> None:
    ranges = np.sort(ends, axis=0)
    for precision in THEIR_TYPES:
        with np.errstate(over="ignore"):  # theirs warns where ranges are very narrow
            wanted = theirs(vectors, precision, ranges=ranges)
        same(quantize_embeddings(vectors, precision, ranges), wanted)


def test_one_vector_is_stored_as_in_a_matrix() -> None:
    ranges = Ranges.of(RANDOM).raw
    for precision in VECTOR_TYPES:
        whole = quantize_embeddings(RANDOM, precision, ranges)
        same(quantize_embeddings(RANDOM[5], precision, ranges), whole[5])


def test_float16_is_the_nearest_number_and_refuses_what_it_has_no_number_for() -> None:
    same(quantize_embeddings(RANDOM, "float16"), RANDOM.astype(np.float16))
    with pytest.raises(EngineError, match="beyond 65504"):
        quantize_embeddings(np.array([1e5], np.float32), "float16")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", VECTOR_TYPES[1:])
def test_what_is_no_number_is_not_hidden_in_a_code(precision: VectorType, value: float) -> None:
    with pytest.raises(EngineError, match=f"NaN or Inf, which {precision} cannot store"):
        quantize_embeddings(np.array([[1, value]], np.float32), precision, [[0, 0], [1, 1]])


@pytest.mark.parametrize(
    ("ranges", "told"),
    [
        (None, "need ranges"),
        (np.zeros((2, 3)), r"shape \(2, 3\), and must have \(2, 2\)"),
        (np.zeros(2), r"shape \(2,\)"),
        ([[0, 0], [1, np.inf]], "must be finite"),
        ([[0, 1], [1, 0]], "not above its largest"),
    ],
)
def test_ranges_that_do_not_fit(ranges: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        quantize_embeddings(np.ones((1, 2), np.float32), "int8", ranges)


def test_a_type_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="precision is 'int4', and must be one of float32, float16, int8"):
        quantize_embeddings(RANDOM, "int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("dimension", [None, 1, 69, 70, 1000])
def test_truncation(dimension: int | None) -> None:
    same(truncated(RANDOM, dimension), truncate_embeddings(RANDOM, dimension))


def test_a_vector_of_zeros_is_normalized_to_zeros() -> None:
    np.testing.assert_array_equal(normalized(np.zeros((2, 3), np.float32)), 0)


class TestRanges:
    RANGES = Ranges.of(RANDOM, (8, 32))

    def test_they_are_those_of_the_calibration_text(self) -> None:
        """Those that ``quantize_embeddings`` of sentence-transformers takes from ``calibration_embeddings``."""
        for dimension in (8, 32, 70):
            for normalize in (False, True):
                calibration = RANDOM[:, :dimension]
                calibration = normalized(calibration) if normalize else calibration
                found = quantize_embeddings(calibration, "int8", self.RANGES.at(dimension, normalize=normalize))
                same(found, theirs(calibration, "int8", calibration_embeddings=calibration))

    def test_a_file_gives_every_bit_back(self) -> None:
        read = Ranges.from_json(self.RANGES.to_json(), 70)
        same(read.raw, self.RANGES.raw)
        assert read.normalized.keys() == {8, 32, 70}
        for dimension, ranges in read.normalized.items():
            same(ranges, self.RANGES.normalized[dimension])

    def test_any_dimension_of_vectors_that_are_not_normalized(self) -> None:
        same(self.RANGES.at(13, normalize=False), self.RANGES.raw[:, :13])

    def test_a_dimension_of_normalized_vectors_that_was_not_declared(self) -> None:
        with pytest.raises(InputError, match="no ranges of normalized vectors of 13 dimensions, only of 8, 32, 70"):
            self.RANGES.at(13, normalize=True)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"[]",
            b"{}",
            b"[" * 100_000,
            b'{"raw": [[0], [1]]}',
            b'{"raw": [[0], [1]], "normalized": [1]}',
            b'{"raw": [[0], [1]], "normalized": {"one": [[0], [1]]}}',
            b'{"raw": [[0], [1]], "normalized": {"2": [[0], [1]]}}',
            b'{"raw": [[0, 1], [1]], "normalized": {}}',
            b'{"raw": [["a"], ["b"]], "normalized": {}}',
            b'{"raw": [[NaN], [1]], "normalized": {}}',
            b'{"raw": [[1], [0]], "normalized": {}}',
            b'{"raw": [[0], [1e999]], "normalized": {}}',
            json.dumps({"raw": [[0], [10**400]], "normalized": {}}).encode(),
            b"\xff",
        ],
        ids=lambda content: content[:50].decode("latin-1"),
    )
    def test_a_file_of_something_else(self, content: bytes) -> None:
        with pytest.raises(BundleError, match=r"ranges.json: no ranges of 1 dimensions"):
            Ranges.from_json(content, 1)
