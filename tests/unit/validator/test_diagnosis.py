"""The likely cause: what it says of a scale, of a precision, and of what a gate in float32 finds."""

from __future__ import annotations

import re

import numpy as np
import pytest

from exporter.recipe import Gates
from exporter.validator.diagnosis import likely_cause
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare
from exporter.validator.probes import Probe

ROWS = 40
REFERENCE = np.random.default_rng(0).standard_normal((ROWS, 64))
NOISE = np.random.default_rng(1).standard_normal((ROWS, 64))
IDS = [[row] for row in range(ROWS)]
PROBES = tuple(Probe(f"문장 {row}", "test") for row in range(ROWS))


def cause(candidate: np.ndarray, precision: str = "fp32", *, deviation: float = 0.0, lost: float | None = None) -> str:
    """Return the likely cause; ``lost`` is the relative error of PyTorch in the format."""
    own = None
    if lost is not None:
        own = FormatLoss("PyTorch in bfloat16", compare(REFERENCE, REFERENCE * (1 + lost), IDS))
    parity = compare(REFERENCE, candidate, IDS)
    return likely_cause(parity, PROBES, (5,) * ROWS, deviation, Gates().of(precision), precision, own)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_factor_is_named(precision: str) -> None:
    rounding = {"fp32": 0.0, "fp16": 1e-3, "bf16": 1e-2, "int8": 1e-2}[precision]
    assert "all vectors are 1.01" in cause(1.01 * (REFERENCE + rounding * NOISE), precision)
    assert re.match(r"all vectors are (99\.9\d*|100) times", cause(100 * (REFERENCE + rounding * NOISE), precision))


def test_a_dropped_normalize_is_no_factor() -> None:
    lengths = np.random.default_rng(2).uniform(3, 8, (ROWS, 1))
    assert cause(REFERENCE * lengths) == "directions agree and lengths do not: a Normalize was dropped or added"


def test_a_small_loss_of_a_typed_graph_is_the_precision_s() -> None:
    little = REFERENCE + 0.1 * NOISE
    said = cause(little, "bf16")
    assert said.startswith("the fp32 graph is sound, so this is what bf16 loses: 0.1 of a vector's length")
    assert "epsilon" not in said
    assert "epsilon" not in cause(REFERENCE + 0.03 * NOISE, "bf16")  # no row is below the smallest cosine
    assert "epsilon" in cause(little)


def test_a_loss_that_makes_vectors_longer_is_no_normalize() -> None:
    said = cause(REFERENCE + 0.06 * NOISE, "int8")
    assert said.startswith("the fp32 graph is sound, so this is what int8 loses: 0.06")


def test_a_larger_loss_within_the_bounds_of_the_cosine_is_the_precision_s_too() -> None:
    candidate = REFERENCE + 0.17 * NOISE
    candidate *= np.linalg.norm(REFERENCE, axis=1, keepdims=True) / np.linalg.norm(candidate, axis=1, keepdims=True)
    assert cause(candidate, "int8").startswith("the fp32 graph is sound, so this is what int8 loses: 0.17")


def test_the_loss_of_a_precision_is_compared_with_what_pytorch_loses() -> None:
    said = cause(REFERENCE + 0.1 * NOISE, "bf16", lost=0.08)
    assert said.endswith("1.26 times what PyTorch in bfloat16 loses")
    assert "times" not in cause(REFERENCE + 0.1 * NOISE, "bf16", lost=float("nan"))


def test_a_large_loss_is_not_the_precision_s() -> None:
    assert "the fp32 graph" not in cause(REFERENCE + 0.5 * NOISE, "bf16")


def test_a_deviation_that_the_gate_allows_is_no_mask() -> None:
    """Dynamic int8 takes its scales from the batch: its vectors differ by what shares it."""
    assert "padding is not masked" not in cause(REFERENCE + 0.1 * NOISE, "int8_dynamic", deviation=0.06)
    assert "padding is not masked" in cause(REFERENCE + 0.1 * NOISE, "fp16", deviation=0.06)
