"""How far a bias may be from the checkpoint's: the root of the sum of squares of what rounding does, times 6."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.validator.provenance.bias import Correction, judge_correction
from exporter.validator.provenance.quantized import Integers, QuantizedMatMul
from exporter.validator.provenance.stored import Node, Value
from exporter.validator.provenance.tensors import MatMulTensor

INPUTS, OUTPUTS, SCALE = 400, 8, 0.01
STEP, LARGEST = 0.03, 4.5


def judged(correction: float, *, step: float | None, largest: float | None) -> tuple[Correction, float]:
    """Judge one number that is off by ``correction`` times the root of the sum of squares; return that root too."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(-1.27, 1.27, (INPUTS, OUTPUTS)).astype(np.float32)
    rounded = np.rint(weight / SCALE).astype(np.int8)
    values = Value("w", "int8", rounded.shape, load=lambda: rounded)
    integers = Integers(values, np.array(SCALE), np.array(0.0), (values,))
    output, activation = Value("y", "float32"), Value("x", "float32")
    matmul = QuantizedMatMul(Node("layer/MatMul", "MatMul", ()), output, activation, None, integers, step, largest)
    errors, restored = rounded * SCALE - weight.astype(np.float64), rounded * SCALE
    squares = ((largest or 1.0) * errors[:, 3]) ** 2 + ((step or 0.0) / 2 * restored[:, 3]) ** 2
    root = float(np.sqrt(squares.sum()))
    bias = np.zeros(OUTPUTS, np.float32)
    bias[3] = correction * root
    return judge_correction("b", bias, np.zeros(OUTPUTS, np.float32), matmul, MatMulTensor(matmul), weight, "p"), root


@pytest.mark.parametrize(("step", "largest"), [(STEP, LARGEST), (None, None)], ids=["static", "dynamic"])
def test_a_correction_may_be_six_times_the_root_of_the_sum_of_squares(
    step: float | None, largest: float | None
) -> None:
    within, _ = judged(5.9, step=step, largest=largest)
    beyond, root = judged(6.1, step=step, largest=largest)
    assert within.problem is None
    assert within.share == pytest.approx(5.9 / 6)
    assert (
        beyond.problem
        == f"b differs from p by {6.1 * root:.3g} at 3, and the rounding of its MatMul explains {6 * root:.3g}"
    )


def test_a_bias_that_is_no_number_is_found() -> None:
    found, _ = judged(np.nan, step=STEP, largest=LARGEST)
    assert found.problem is not None
