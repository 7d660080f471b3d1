"""What the soak concludes from answers, kills and samples of memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest

from benchmarks.soak import Soaked
from benchmarks.soak_clients import SOUND, Outcome, Result, Texts, ragged_texts
from benchmarks.soak_server import Event, Sample


class FakeEncoder:
    """Gives every text a vector of its own, but the same to ``"twin 1"`` and ``"twin 2"``."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        angles = [0.5 if text.startswith("twin") else 1 + number / 10 for number, text in enumerate(texts)]
        return np.array([[np.cos(angle), np.sin(angle)] for angle in angles], np.float32)


@pytest.fixture
def texts() -> Texts:
    encoder: Any = FakeEncoder()
    return Texts(["", "a", "twin 1", "b", "twin 2"], encoder, bound=1e-4)


def test_texts_that_an_answer_could_not_tell_apart_are_left_out(texts: Texts) -> None:
    assert texts.texts == ["", "a", "twin 1", "b"]
    np.testing.assert_allclose(texts.vectors, FakeEncoder().encode(["", "a", "twin 1", "b"]))


def test_an_answer_is_right_wrong_or_swapped(texts: Texts) -> None:
    own = texts.vectors.astype(np.float32)
    assert texts.judge([1, 3], own[[1, 3]])[0] == "right"
    assert texts.judge([1, 3], own[[3, 1]])[0] == "swapped"
    assert texts.judge([1], own[[1]] * np.float32(1.001))[0] == "wrong"
    assert texts.judge([1], own[[1]] * np.float32(1.00005))[0] == "right"
    assert texts.judge([0], np.full((1, 2), np.nan, np.float32))[0] != "right"


def test_no_text_is_in_two_requests_at_once(texts: Texts) -> None:
    class One(random.Random):
        def randint(self, _low: int, _high: int) -> int:
            return 1

    draw = One(3)
    with texts.dealt(draw) as first, texts.dealt(draw) as second, texts.dealt(draw) as third:
        dealt = [row for row in (*first, *second, *third) if row]
        assert len(dealt) == len(set(dealt)) > 1


def test_ragged_texts_are_empty_short_long_and_as_long_as_allowed() -> None:
    texts = ragged_texts(["정말 좋은 날씨다", "국밥을 주문했다"], 512, 16384, seed=1)
    sizes = [len(text.encode()) for text in texts]
    assert texts[0] == ""
    assert len(set(texts)) == len(texts) == 512
    assert 0 < sizes.count(16384) < 30
    assert any(" " not in text for text in texts[1:])
    assert any(len(text.split()) > 100 and size < 16384 for text, size in zip(texts, sizes, strict=True))


def outcome(sent: float, ended: float, result: Result = "lost") -> Outcome:
    return Outcome(SOUND, "http", sent, ended, 1, result)


def sample(at: float, stubs: int, mib: float) -> Sample:
    return Sample(at, stubs, 1.0, mib, 1.0, 1)


def soaked(
    outcomes: Sequence[Outcome] = (),
    samples: Sequence[Sample] = (),
    kill: Literal["process killed", "reload"] = "reload",
) -> Soaked:
    return Soaked(0, 100, outcomes, (Event("reload", "", 5, 8), Event(kill, "", 40, 60)), samples, 0, 1e-4)


def test_only_a_kill_explains_a_lost_request() -> None:
    in_flight, while_down = outcome(39, 43), outcome(59, 64)
    ended_before, sent_after, in_reload = outcome(38, 39.9), outcome(60.1, 61), outcome(6, 7)
    requests = [in_flight, while_down, ended_before, sent_after, in_reload]
    result = soaked(requests, kill="process killed")
    assert result.unexplained(result.lost) == [ended_before, sent_after, in_reload]
    assert result.most_in_flight() == 1
    assert soaked(requests).unexplained(requests) == requests


def test_memory_is_compared_after_the_warm_up_among_samples_of_as_many_processes() -> None:
    samples = [sample(at, 4, 100 + at) for at in range(10, 100)]
    others = [sample(5, 4, 1000), sample(9.9, 4, 1000), *(sample(at, 6, 5000) for at in range(10, 99, 3))]
    growth = soaked(samples=sorted([*samples, *others], key=lambda one: one.at)).growth("total_mib")
    assert growth is not None
    assert (growth.first, growth.last) == (118.5, 190.5)
    assert growth.share == pytest.approx(190.5 / 118.5 - 1)
    killed = soaked(samples=samples, kill="process killed").growth("total_mib")
    assert killed is not None
    assert (killed.first, killed.last) == (112.5, 136.5)
    assert soaked(samples=samples[:4]).growth("total_mib") is None
    assert soaked().growth("total_mib") is None
