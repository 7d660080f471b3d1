"""The verdict on a server under load can fail, each way it may."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from exporter.serving.concurrency import compare_answers
from exporter.serving.triton.load import Load

SOUND = Load(clients=8, requests=100, lost=(), swapped=0, max_deviation=1e-6, bound=1e-5, inferences=100, executions=20)


def test_a_sound_server_passes() -> None:
    assert SOUND.passed
    assert SOUND.batching == 5.0


@pytest.mark.parametrize(
    "change",
    [
        {"lost": ("timed out",)},
        {"swapped": 1},
        {"max_deviation": 1e-4},
        {"max_deviation": float("nan")},
    ],
)
def test_what_is_not_sound_does_not(change: dict[str, Any]) -> None:
    assert not dataclasses.replace(SOUND, **change).passed


def test_batching_is_reported_and_does_not_decide() -> None:
    """It depends on the load of the machine."""
    assert SOUND.note is None
    alone = dataclasses.replace(SOUND, executions=100)
    assert alone.passed
    assert alone.note is not None
    assert "no two of 100 requests by 8 clients shared a batch" in alone.note
    assert alone.to_dict()["note"] == alone.note
    assert dataclasses.replace(alone, clients=1).note is None


def test_a_response_cache_that_answers_everything_needs_no_batch() -> None:
    cached = dataclasses.replace(SOUND, inferences=0, executions=0)
    assert cached.passed
    assert cached.note is None
    assert cached.batching == 0.0


def test_swapped_answers_are_seen() -> None:
    expected = np.random.default_rng(0).normal(size=(6, 4))
    assert compare_answers(expected, expected, range(6)) == (0.0, 0)
    deviation, swapped = compare_answers(expected[[1, 0, 2, 3, 4, 5]], expected, range(6))
    assert swapped == 2
    assert deviation > 0.1


def test_equal_sentences_tie() -> None:
    expected = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert compare_answers(expected, expected, range(3)) == (0.0, 0)


def test_what_is_no_number_belongs_to_nobody() -> None:
    expected = np.array([[1.0, 0.0], [0.0, 1.0]])
    _, swapped = compare_answers(np.array([[1.0, 0.0], [np.nan, 1.0]]), expected, range(2))
    assert swapped == 0


@pytest.mark.parametrize("value", [0.0, np.inf, -np.inf, np.nan])
def test_answers_that_are_no_numbers_pass_no_bound(value: float) -> None:
    vectors = np.full((3, 4), value)
    deviation, _ = compare_answers(vectors, vectors, range(3))
    assert not dataclasses.replace(SOUND, max_deviation=deviation).passed
