"""Which engine is the best, by goal; which are on the Pareto front; what is said of int8."""

from __future__ import annotations

import pytest

from exporter.benchmark import Subject
from exporter.options import Goal
from exporter.targets import Precision
from exporter.tuning.choosing import best, enough, on_front, sentence
from exporter.tuning.measuring import Measured


def measured(
    precision: str,
    backend: str,
    seconds: float,
    cosine: float,
    *,
    p50: float = 1,
    size: int = 100,
    peak: int | None = 1,
) -> Measured:
    speed = Subject(f"{precision} on {backend}", 100 / seconds, p50, 2 * p50, 1.0, (seconds, seconds))
    return Measured(Precision(precision), size, speed, peak, cosine, 1.0)


FP32 = measured("fp32", "onnxruntime", 4, 1.0, p50=4, size=400, peak=4)
BF16 = measured("bf16", "openvino", 2, 0.9995, p50=3, size=200, peak=3)
FP16 = measured("fp16", "onnxruntime", 8, 0.99999, p50=9, size=200, peak=3)
INT8 = measured("int8", "openvino", 1, 0.99, p50=1, size=110, peak=2)
ALL = (FP32, BF16, FP16, INT8)


@pytest.mark.parametrize(("goal", "winner"), [(Goal.THROUGHPUT, INT8), (Goal.LATENCY, INT8), (Goal.SIZE, INT8)])
def test_the_best_of_each_goal(goal: Goal, winner: Measured) -> None:
    assert best(ALL, goal) is winner


def test_without_int8_the_fastest_is_bf16_and_the_smallest_is_the_faster_of_two() -> None:
    others = ALL[:3]
    assert best(others, Goal.THROUGHPUT) is BF16
    assert best(others, Goal.SIZE) is BF16
    assert best((FP32, FP16), Goal.LATENCY) is FP32


def test_latency_is_not_throughput() -> None:
    alone = measured("fp16", "openvino", 9, 0.9999, p50=0.5)
    assert best((*ALL, alone), Goal.LATENCY) is alone
    assert best((*ALL, alone), Goal.THROUGHPUT) is INT8
    assert sentence(alone, (*ALL, alone), (*ALL, alone), Goal.LATENCY) == (
        "fp16 on openvino has 0.5 times the latency of int8 on openvino: int8 is not worth it here"
    )


def test_of_engines_of_a_size_the_fastest() -> None:
    small, fast = (
        measured("fp16", "openvino", 3, 0.9999, size=200),
        measured("bf16", "openvino", 2, 0.999, size=210),
    )
    assert best((FP32, small, fast), Goal.SIZE) is fast


def test_int8_that_is_not_near_enough_is_told() -> None:
    assert sentence(BF16, (FP32, BF16), ALL, Goal.THROUGHPUT) == (
        "bf16 on openvino is the best here; no int8 has the min cosine that was asked for"
    )


def test_ten_percent_are_not_worth_any_accuracy() -> None:
    slightly_faster = measured("int8", "onnxruntime", 2 / 1.09, 0.99)
    assert best((BF16, slightly_faster), Goal.THROUGHPUT) is BF16
    faster = measured("int8", "onnxruntime", 2 / 1.11, 0.99)
    assert best((BF16, faster), Goal.THROUGHPUT) is faster


def test_min_cosine() -> None:
    assert enough(ALL, 0.9995) == [FP32, BF16, FP16]
    assert enough(ALL, None) == [*ALL]
    assert enough(ALL, 1.0) == [FP32]
    assert enough((INT8,), 0.999) == []


def test_the_front() -> None:
    assert [on_front(one, ALL) for one in ALL] == [True, True, True, True]
    worse = measured("fp16", "openvino", 9, 0.9999, p50=9, size=200, peak=3)
    assert not on_front(worse, (*ALL, worse))
    equal = measured("fp32", "openvino", 4, 1.0, p50=4, size=400, peak=4)
    assert on_front(equal, (*ALL, equal))  # nothing is better than it in anything that is not worse in something
    unmeasured = measured("fp32", "openvino", 4, 1.0, p50=4, size=400, peak=None)
    assert not on_front(unmeasured, (*ALL, unmeasured))


def test_the_sentence_says_whether_int8_is_worth_it() -> None:
    assert sentence(INT8, ALL, ALL, Goal.THROUGHPUT) == (
        "int8 on openvino has 2 times the throughput of bf16 on openvino: int8 is worth it here"
    )
    assert sentence(INT8, ALL, ALL, Goal.SIZE) == (
        "int8 on openvino has 0.55 times the size of bf16 on openvino: int8 is worth it here"
    )
    slow = measured("int8", "onnxruntime", 5, 0.99)
    assert sentence(BF16, (FP32, BF16, slow), (FP32, BF16, slow), Goal.THROUGHPUT) == (
        "bf16 on openvino has 2.5 times the throughput of int8 on onnxruntime: int8 is not worth it here"
    )
    assert sentence(BF16, (FP32, BF16), (FP32, BF16), Goal.THROUGHPUT) == (
        "bf16 on openvino is the best here; no int8 was measured beside it"
    )


def test_a_ratio_of_throughputs_is_the_median_of_those_within_rounds() -> None:
    """A machine that was busy in one round slows all down in it."""
    own = Measured(Precision.INT8, 1, Subject("int8 on openvino", 1, 1, 1, 1.0, (1.0, 10.0, 1.0)), 1, 0.99, 1.0)
    rival = Measured(Precision.BF16, 1, Subject("bf16 on openvino", 1, 1, 1, 1.0, (3.0, 30.0, 2.0)), 1, 0.999, 1.0)
    assert "has 3 times the throughput" in sentence(own, (own, rival), (own, rival), Goal.THROUGHPUT)
