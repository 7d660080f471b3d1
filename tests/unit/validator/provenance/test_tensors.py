"""How far the numbers of a file may be from a parameter: not at all, or half a step and the rounding of the step."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from exporter.validator.provenance.quantized import QuantizedTable
from exporter.validator.provenance.stored import Node, Value
from exporter.validator.provenance.tensors import LARGEST, FloatTensor, MatMulTensor, TableTensor, round_to, rounding_of
from tests.support.stored_graphs import Numbers, quantized_matmul, tensor

ALL = slice(None)
HALF = 0.5 * (1 + 1e-4)  # of a step, and what a division in float32 adds
TYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)


def float32(numbers: Numbers) -> npt.NDArray[np.float32]:
    return np.asarray(numbers, np.float32)


def test_the_largest_number_of_each_type() -> None:
    expected = {
        "float16": 65504.0,
        "bfloat16": 2.0**127 * (2 - 2**-7),
        "float32": float(np.finfo(np.float32).max),
        "float64": float(np.finfo(np.float64).max),
    }
    assert expected == LARGEST


class TestFloats:
    @pytest.mark.parametrize("dtype", TYPES)
    def test_numbers_are_those_of_the_parameter_rounded_to_nearest(self, dtype: npt.DTypeLike) -> None:
        values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
        stored = values.astype(dtype)
        stored[2, 1] = np.nextafter(stored[2, 1], np.asarray(9, dtype))
        wrong, step = FloatTensor(tensor("w", stored, dtype)).compare(values, ALL)
        assert np.argwhere(wrong).tolist() == [[2, 1]]
        assert step == 0.0

    def test_bits_are_compared(self) -> None:
        values = float32([0.0, 0.0, np.nan, np.inf, 1.0])
        stored = float32([0.0, -0.0, np.nan, np.inf, np.nan])
        wrong, _ = FloatTensor(tensor("w", stored)).compare(values, ALL)
        assert wrong.tolist() == [False, True, False, False, True]

    def test_a_number_beyond_the_type_is_infinite(self) -> None:
        wrong, _ = FloatTensor(tensor("w", [np.inf, 65504], np.float16)).compare(float32([1e6, 1e6]), ALL)
        assert wrong.tolist() == [False, True]

    def test_some_rows_are_compared(self) -> None:
        stored = FloatTensor(tensor("w", [[1, 2], [3, 4], [5, 6]], np.float16))
        wrong, _ = stored.compare(float32([[9, 9], [3, 4], [9, 6]]), slice(1, 3))
        assert wrong.tolist() == [[False, False], [True, False]]
        np.testing.assert_array_equal(stored.restored(slice(1, 3)), np.array([[3.0, 4], [5, 6]]), strict=True)

    def test_one_number_is_a_tensor_too(self) -> None:
        stored = FloatTensor(tensor("half", 0.5))
        assert stored.compare(np.asarray(0.25, np.float32), ALL)[0].tolist() == [True]
        assert stored.compare(np.asarray(0.5, np.float32), ALL)[0].tolist() == [False]
        assert stored.restored(ALL).tolist() == [0.5]

    def test_it_is_described_by_its_type_and_has_no_steps(self) -> None:
        stored = FloatTensor(tensor("w", [1, 2], np.float16))
        assert (stored.name, stored.kind, stored.shape) == ("w", "float16", (2,))
        assert not stored.too_coarse(float32([1, 2]))

    def test_numbers_of_the_stored_type_are_not_copied(self) -> None:
        values = float32([1, 2])
        assert round_to(values, np.dtype(np.float32)) is values

    @pytest.mark.parametrize(
        ("dtype", "number", "expected"),
        [
            (np.float16, 1.0, 2.0**-11),
            (np.float16, -1.5, 2.0**-11),
            (np.float16, 4.0, 2.0**-9),
            (ml_dtypes.bfloat16, 1.0, 2.0**-8),
            (np.float64, 1.0, 2.0**-53),
            (np.float32, 1.0, 0.0),
        ],
    )
    def test_rounding_moves_a_number_by_half_of_what_is_to_the_next(
        self, dtype: npt.DTypeLike, number: float, expected: float
    ) -> None:
        found = rounding_of(np.array([[number]], dtype))
        np.testing.assert_array_equal(found, np.array([[expected]]), strict=True)


class TestMatMul:
    def test_it_is_described_as_int8(self) -> None:
        weight = MatMulTensor(quantized_matmul([[1, 2, 3], [4, 5, 6]]))
        assert (weight.name, weight.kind, weight.shape) == ("w", "int8", (2, 3))

    def test_a_number_may_be_half_a_step_away(self) -> None:
        weight = MatMulTensor(quantized_matmul([[0, 0, 0, 3, -3]], 2.0))
        off = np.array([0.3, HALF - 1e-5, HALF + 1e-5, -0.4, 0.6])
        wrong, largest = weight.compare(float32([[0, 0, 0, 6, -6]] + 2 * off), ALL)
        assert wrong.tolist() == [[False, False, True, False, True]]
        assert largest == pytest.approx(HALF - 1e-5, abs=1e-7)

    def test_what_the_integers_stand_for(self) -> None:
        """``inverse * (W' - z) * scale``, with one scale and one zero point per column."""
        matmul = quantized_matmul(
            [[130, 4], [128, 250], [0, 10]],
            [[0.5, 2.0]],
            [[128, 10]],
            dtype=np.uint8,
            inverse=tensor("smooth", [1, 4, 0.25]),
        )
        weight = MatMulTensor(matmul)
        smoothed, restored = np.array([[0.0, 480], [-64, 0]]), np.array([[0.0, 1920], [-16, 0]])
        np.testing.assert_array_equal(weight.smoothed(slice(1, 3)), smoothed, strict=True)
        np.testing.assert_array_equal(weight.restored(slice(1, 3)), restored, strict=True)
        values = float32([[0, 0], [4, 1900], [-15, 1]])
        errors = np.array([[-1.0, 5], [-4, -4]])
        np.testing.assert_array_equal(weight.errors(values, slice(1, 3)), errors, strict=True)

    def test_the_step_of_a_row_grows_with_its_inverse(self) -> None:
        matmul = quantized_matmul(np.zeros((2, 2), np.int8), [[1.0, 2.0]], inverse=tensor("smooth", [1, -4]))
        values = float32([[0.4, 1.2], [1.9, 3]])
        weight = MatMulTensor(matmul)
        wrong, largest = weight.compare(values, ALL)
        assert wrong.tolist() == [[False, True], [False, False]]
        assert largest == pytest.approx(0.475)
        assert weight.compare(values, slice(1, 2))[1] == pytest.approx(0.475)
        assert weight.compare(values, slice(0, 1))[1] == pytest.approx(0.4)

    @pytest.mark.parametrize(
        ("dtype", "rounding"),
        [(np.float16, 2.0**-11), (ml_dtypes.bfloat16, 2.0**-8), (np.float32, 2.0**-24), (np.float64, 2.0**-53)],
    )
    def test_the_rounding_of_the_inverse_is_allowed_on_top(self, dtype: npt.DTypeLike, rounding: float) -> None:
        inverse = tensor("smooth", [1], dtype)
        for share, wrong in ((-9, False), (0.9, False), (1.1, True), (9, True)):
            if share in {-9, 9} or dtype is not np.float64:  # nine of its roundings are seen in float64, one is not
                weight = MatMulTensor(quantized_matmul([[0]], (1 - share * rounding) / HALF, inverse=inverse))
                assert weight.compare(float32([[1]]), ALL)[0].tolist() == [[wrong]]

    @pytest.mark.parametrize("scale", [np.nan, np.inf, 0.0])
    def test_a_scale_that_is_no_step_is_found(self, scale: float) -> None:
        weight = MatMulTensor(quantized_matmul([[1, 0]], [[scale, 1.0]]))
        wrong, largest = weight.compare(float32([[1, 0.25]]), ALL)
        assert wrong.tolist() == [[True, False]]
        assert largest == 0.25

    def test_a_zero_may_have_no_step(self) -> None:
        wrong, largest = MatMulTensor(quantized_matmul([[1]], 0.0)).compare(float32([[0]]), ALL)
        assert wrong.tolist() == [[False]]
        assert largest == 0.0

    @pytest.mark.parametrize(
        ("scale", "largest", "too_coarse"),
        [
            (0.01, 1.27, False),
            (-0.01, 1.27, False),
            (0.01009, 1.27, False),
            (0.01011, 1.27, True),
            (-0.01011, 1.27, True),
            (2.0**-24, 0.0, False),
            (2.0**-24 * 1.01, 0.0, True),
            (np.nan, 1.27, True),
            (np.inf, 1.27, True),
        ],
    )
    def test_a_scale_may_be_no_larger_than_the_column_calls_for(
        self, scale: float, largest: float, too_coarse: bool
    ) -> None:
        """The other column has larger numbers, which ask for nothing of this one."""
        values = float32([[largest, 100], [largest / 2, 127]])
        weight = MatMulTensor(quantized_matmul([[127, 100], [63, 127]], [[scale, 1.0]]))
        assert weight.too_coarse(values) == too_coarse

    def test_the_column_that_a_scale_is_compared_with_is_the_smoothed_one(self) -> None:
        for scale, too_coarse in ((1.0, False), (1.02, True)):
            matmul = quantized_matmul([[127], [2]], scale, inverse=tensor("smooth", [0.01, 1]))
            assert MatMulTensor(matmul).too_coarse(float32([[1.27], [2]])) == too_coarse

    @pytest.mark.parametrize(
        ("integer", "without", "too_coarse"),
        [(1, 64, False), (-1, 64, False), (1, 65, True), (2, 127, False), (0, 1, True), (0, 0, False), (1, 10, False)],
    )
    def test_a_row_keeps_a_64th_of_the_integers_that_it_has_without_smoothing(
        self, integer: int, without: int, too_coarse: bool
    ) -> None:
        inverse = without / abs(integer or 1)
        integers = np.array([[127, 127], [0, integer]])
        matmul = quantized_matmul(integers, 0.01, inverse=tensor("smooth", [1, inverse or 1]))
        values = float32([[1.27, 1.27], [0, without / 100]])
        assert MatMulTensor(matmul).too_coarse(values) == too_coarse
        shifted = quantized_matmul(integers + 128, 0.01, 128, dtype=np.uint8, inverse=matmul.inverse)
        assert MatMulTensor(shifted).too_coarse(values) == too_coarse

    @pytest.mark.parametrize("row", [5, 39_000])
    def test_every_block_of_a_large_weight_is_looked_at(self, row: int) -> None:
        integers, inverse = np.ones((40_000, 2), np.int8), np.ones(40_000, np.float32)
        integers[row] = 127
        values = integers.astype(np.float32)
        assert not MatMulTensor(quantized_matmul(integers, 1.0)).too_coarse(values)
        assert MatMulTensor(quantized_matmul(integers, 1.02)).too_coarse(values)
        other = 39_000 + 5 - row
        inverse[other], values[other] = 100, 100
        smoothed = quantized_matmul(integers, 1.0, inverse=tensor("smooth", inverse))
        assert MatMulTensor(smoothed).too_coarse(values)


def table(
    integers: Numbers,
    scales: Numbers,
    mean: Numbers,
    dtype: npt.DTypeLike = np.float32,
    mean_dtype: npt.DTypeLike = np.float32,
) -> TableTensor:
    rows, parts = tensor("words", integers, np.int8), (tensor("s", scales, dtype), tensor("m", mean, mean_dtype))
    output, ids = Value("y", "float32"), Value("ids", "int64")
    return TableTensor(QuantizedTable(Node("words/Add", "Add", ()), output, ids, rows, *parts))


class TestTable:
    def test_it_is_described_as_int8(self) -> None:
        words = table([[1, 2, 3], [4, 5, 6]], [[1], [2]], [0, 0, 0])
        assert (words.name, words.kind, words.shape) == ("words", "int8", (2, 3))

    def test_a_number_may_be_half_a_step_of_its_row_away(self) -> None:
        words = table([[9, 9], [0, 0], [3, -3]], [[1], [2], [4]], [10, 20])
        expected = np.array([[10.0, 20], [22, 8]])
        np.testing.assert_array_equal(words.restored(slice(1, 3)), expected, strict=True)
        off = np.array([[0.3 * 2, (HALF - 1e-5) * 2], [(HALF + 1e-5) * 4, -0.6 * 4]])
        wrong, largest = words.compare(float32(np.vstack([np.zeros(2), expected + off])), slice(1, 3))
        assert wrong.tolist() == [[False, False], [True, True]]
        assert largest == pytest.approx(HALF - 1e-5, abs=1e-6)

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize(
        ("dtype", "mean_dtype", "rounding"),
        [
            (np.float32, np.float32, 0.0),
            (np.float16, np.float32, 100 * 2.0**-18),
            (np.float32, np.float16, 2.0**-11),
            (np.float16, np.float16, 100 * 2.0**-18 + 2.0**-11),
        ],
        ids=["neither", "scale", "mean", "both"],
    )
    def test_the_rounding_of_scale_and_mean_is_allowed_on_top(
        self, dtype: npt.DTypeLike, mean_dtype: npt.DTypeLike, rounding: float, sign: int
    ) -> None:
        scale = 2.0**-7  # the next float16 is 2**-17 away
        words = table([[-100, 100]], [[scale]], [1, 1], dtype, mean_dtype)
        for share, wrong in ((0.99, False), (1.01, True)):
            off = sign * share * (HALF * scale + rounding)
            values = float32(words.restored(ALL) + off)
            assert words.compare(values, ALL)[0].tolist() == [[wrong, wrong]]

    @pytest.mark.parametrize("number", [np.nan, np.inf, 0.0])
    def test_a_scale_that_is_no_step_is_found(self, number: float) -> None:
        wrong, largest = table([[1, 0], [1, 0]], [[number], [1]], [0, 0]).compare(float32([[2, 2], [1, 0.25]]), ALL)
        assert wrong.tolist() == [[True, True], [False, False]]
        assert largest == 0.25

    @pytest.mark.parametrize(
        ("scale", "too_coarse"), [(1.0, False), (1.009, False), (1.011, True), (np.nan, True), (np.inf, True)]
    )
    def test_a_scale_may_be_no_larger_than_the_distance_from_the_mean_row_calls_for(
        self, scale: float, too_coarse: bool
    ) -> None:
        values = float32([[1127, 0], [1000, 300], [873, 0]])  # the mean row is [1000, 100]
        words = table(np.zeros((3, 2)), [[scale], [200 / 127], [1]], [1000, 100])
        assert words.too_coarse(values) == too_coarse

    def test_rows_that_are_equal_may_have_the_smallest_scale(self) -> None:
        values = np.ones((2, 3), np.float32)
        for scale, too_coarse in ((2.0**-24, False), (2.0**-23, True)):
            assert table(np.zeros((2, 3)), [[scale], [2.0**-24]], [1, 1, 1]).too_coarse(values) == too_coarse

    @pytest.mark.parametrize("row", [5, 39_000])
    def test_every_block_of_a_large_table_is_looked_at(self, row: int) -> None:
        values = np.tile(float32([[1, 0], [-1, 0]]), (20_000, 1))
        scales = np.full((40_000, 1), 1 / 127)
        integers = np.zeros((40_000, 2), np.int8)
        assert not table(integers, scales, [0, 0]).too_coarse(values)
        scales[row] *= 1.02
        assert table(integers, scales, [0, 0]).too_coarse(values)
