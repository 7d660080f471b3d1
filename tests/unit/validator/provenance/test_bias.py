"""How far a bias may be from the checkpoint's: the root of the sum of squares of what rounding does, times 6."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import pytest

from exporter.validator.provenance.bias import Correction, correction_of, judge_correction
from exporter.validator.provenance.parameter import Parameter
from exporter.validator.provenance.tensors import MatMulTensor
from tests.support.stored_graphs import quantized_matmul, tensor

INPUTS, OUTPUTS, SCALE = 400, 8, 0.01
STEP, LARGEST = 0.03, 4.5


def judged(correction: float, *, step: float | None, largest: float | None) -> tuple[Correction, float]:
    """Judge one number that is off by ``correction`` times the root of the sum of squares; return that root too."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(-1.27, 1.27, (INPUTS, OUTPUTS)).astype(np.float32)
    rounded = np.rint(weight / SCALE).astype(np.int8)
    matmul = quantized_matmul(rounded, SCALE, step=step, largest=largest)
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
    within, root = judged(5.9, step=step, largest=largest)
    beyond, _ = judged(6.1, step=step, largest=largest)
    assert astuple(within) == ("p", pytest.approx(5.9 * root), pytest.approx(5.9 / 6), None)
    assert astuple(beyond) == (
        "p",
        pytest.approx(6.1 * root),
        pytest.approx(6.1 / 6),
        f"b differs from p by {6.1 * root:.3g} at 3, and the rounding of its MatMul explains {6 * root:.3g}",
    )


def test_a_bias_that_is_no_number_is_found() -> None:
    found, _ = judged(np.nan, step=STEP, largest=LARGEST)
    assert found.problem is not None
    assert found.problem.startswith("b differs from p by nan at 3, and the rounding of its MatMul explains ")


# A MatMul of weights that int8 holds exactly: what explains a difference is the rounding of the bias itself.
EXACT = np.array([[127, 1], [3, 127]], np.int8)
MODULE = "0.model.encoder.layer.0.ffn"


def correction(stored: npt.ArrayLike, wanted: npt.ArrayLike | None, dtype: npt.DTypeLike = np.float16) -> Correction:
    """Judge the bias behind ``EXACT`` by the checkpoint's, or by the checkpoint's not having one."""
    matmul = quantized_matmul(EXACT, 0.5)
    weight = Parameter(f"{MODULE}.weight", (EXACT * np.float32(0.5)).T)
    (view,) = [view for view in weight.views((2, 2)) if view.step == "transpose"]
    biases = {} if wanted is None else {f"{MODULE}.bias": np.asarray(wanted, np.float32)}
    parameters = {name: Parameter(name, values) for name, values in biases.items()}
    return correction_of(tensor("b", stored, dtype), matmul, MatMulTensor(matmul), view, parameters)


HALF_A_STEP = 2**-11  # of float16 between 1 and 2


@pytest.mark.parametrize(
    ("stored", "wanted", "expected"),
    [
        ([1, 2], [1, 2], Correction(f"{MODULE}.bias", 0.0, 0.0)),
        ([1, 0], [1 + HALF_A_STEP, 0], Correction(f"{MODULE}.bias", HALF_A_STEP, 1.0)),
        (
            [0, 1],
            [0, 1 + 2 * HALF_A_STEP],
            Correction(
                f"{MODULE}.bias",
                2 * HALF_A_STEP,
                2.0,
                f"b differs from {MODULE}.bias by 0.000977 at 1, and the rounding of its MatMul explains 0.000488",
            ),
        ),
        ([0, 0], None, Correction(None, 0.0, 0.0)),
        (
            [1, 0],
            None,
            Correction(
                None,
                1.0,
                2048.0,
                "b differs from no bias by 1 at 0, and the rounding of its MatMul explains 0.000488",
            ),
        ),
        ([1, 2, 3], [1, 2], Correction(None, 0.0, 0.0, f"b [3] has not the shape of {MODULE}.bias")),
        ([1, 2, 3], None, Correction(None, 0.0, 0.0, f"b [3] has not the shape of {MODULE}.bias")),
    ],
)
def test_a_bias_is_compared_with_that_of_the_module_of_its_weight(
    stored: list[float], wanted: list[float] | None, expected: Correction
) -> None:
    assert correction(stored, wanted) == expected


def test_a_bias_stored_in_float32_has_no_rounding_of_its_own() -> None:
    found = correction([1, 0], [1 + HALF_A_STEP, 0], np.float32)
    assert found.problem == (
        f"b differs from {MODULE}.bias by 0.000488 at 0, and the rounding of its MatMul explains 0"
    )
