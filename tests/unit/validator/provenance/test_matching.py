"""A tensor is found by its numbers; where it is no parameter, the closest one and the first difference are named."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from exporter.validator.provenance.matching import Difference, Match, coarse, described, difference, find
from exporter.validator.provenance.parameter import Parameter
from exporter.validator.provenance.stored import blocks
from exporter.validator.provenance.tensors import FloatTensor, MatMulTensor
from tests.support.stored_graphs import Numbers, quantized_matmul, tensor

RNG = np.random.default_rng(0)


def float32(numbers: Numbers) -> npt.NDArray[np.float32]:
    return np.asarray(numbers, np.float32)


def parameter(name: str, values: Numbers) -> Parameter:
    return Parameter(name, float32(values))


def found(match: Match) -> list[tuple[str, str]]:
    return [(view.parameter.name, view.step) for view in match.views]


def test_blocks_cover_every_row_once() -> None:
    rows = np.concatenate([np.arange(1000)[block] for block in blocks((1000, 500))])
    np.testing.assert_array_equal(rows, np.arange(1000))


class TestDifference:
    def test_equal_tensors_differ_nowhere(self) -> None:
        values = [[1, 2], [3, 4]]
        assert difference(FloatTensor(tensor("w", values)), float32(values)) == Difference(0, (0,), 0.0)

    def test_the_first_difference_is_named_by_its_place_in_the_whole_tensor(self) -> None:
        """Whichever block it is in."""
        wanted = RNG.normal(size=(1000, 500)).astype(np.float32)
        stored = wanted.copy()
        stored[777, 31:33] = 0
        stored[900, 2] = 0
        assert difference(FloatTensor(tensor("words", stored)), wanted) == Difference(3, (777, 31), 0.0)

    def test_one_number(self) -> None:
        assert difference(FloatTensor(tensor("half", 0.5)), float32(0.25)) == Difference(1, (0,), 0.0)

    @pytest.mark.parametrize("row", [3, 39_000])
    def test_the_largest_step_is_that_of_all_blocks(self, row: int) -> None:
        wanted = np.full((40_000, 2), 0.125, np.float32)
        wanted[row] = 0.25
        weight = MatMulTensor(quantized_matmul(np.zeros((40_000, 2), np.int8), 1.0))
        assert difference(weight, wanted) == Difference(0, (0,), 0.25)


class TestFind:
    def test_a_tensor_is_described_by_name_type_and_shape(self) -> None:
        assert described(FloatTensor(tensor("w", [[1, 2]], np.float16))) == "w (float16 [1, 2])"

    def test_every_parameter_that_a_tensor_holds_is_found(self) -> None:
        values = [[1, 2, 3], [4, 5, 6]]
        parameters = [
            parameter("other", np.zeros((2, 3))),
            parameter("same", values),
            parameter("turned", np.transpose(values)),
            parameter("flat", np.ravel(values)),
            parameter("longer", np.zeros((2, 4))),
        ]
        match = find(FloatTensor(tensor("w", values)), parameters)
        assert found(match) == [("same", "identity"), ("turned", "transpose"), ("flat", "reshape")]
        assert (match.problem, match.largest_step) == (None, 0.0)

    def test_where_no_parameter_has_the_size(self) -> None:
        problem = "w (float32 [2]) is derived from no parameter: none has its size"
        assert find(FloatTensor(tensor("w", [1, 2])), [parameter("p", [1, 2, 3])]) == Match(problem, (), 0.0)

    def test_int8_says_how_near_the_nearest_parameter_is(self) -> None:
        weight = MatMulTensor(quantized_matmul([[127], [3]], 1.0))
        match = find(weight, [parameter("far", [[127], [3.25]]), parameter("near", [[127], [3.125]])])
        assert found(match) == [("far", "identity"), ("near", "identity")]
        assert (match.problem, match.largest_step) == (None, 0.125)

    def test_int8_with_large_steps_proves_nothing(self) -> None:
        match = find(MatMulTensor(quantized_matmul([[0], [0]], 1.0)), [parameter("p", [[0.25], [0]])])
        assert found(match) == [("p", "identity")]
        assert (match.problem, match.largest_step) == (
            "w (int8 [2, 1]) has larger steps than int8 needs for p: half a step of it proves nothing",
            0.25,
        )

    def test_small_steps_are_no_problem(self) -> None:
        assert coarse(MatMulTensor(quantized_matmul([[127]], 1.0)), float32([[127]]), "p") is None


class Recorded(FloatTensor):
    """Notes which rows are asked for."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(tensor("w", np.zeros((rows, width))))
        self.compared: list[slice] = []
        self.read: list[slice] = []

    def compare(self, values: npt.NDArray[np.float32], rows: slice) -> tuple[npt.NDArray[np.bool_], float]:
        self.compared.append(rows)
        return super().compare(values, rows)

    def restored(self, rows: slice) -> npt.NDArray[np.float64]:
        self.read.append(rows)
        return super().restored(rows)


class TestMemory:
    def test_a_large_tensor_is_compared_block_by_block(self) -> None:
        stored = Recorded(1000, 500)
        difference(stored, np.zeros((1000, 500), np.float32))
        assert stored.compared == list(blocks((1000, 500)))
        assert len(stored.compared) > 1

    def test_some_sixteen_rows_tell_which_parameter_is_the_closest(self) -> None:
        stored, sample = Recorded(64, 2), slice(None, None, 4)
        assert find(stored, [parameter("p", np.ones((64, 2))), parameter("q", np.full((64, 2), 2))]).problem is not None
        assert stored.compared == [sample, sample, slice(0, 2**15)]
        assert stored.read == [sample, sample]


class TestClosest:
    """What a tensor that is no parameter is compared with in the message."""

    STORED = RNG.normal(size=(20, 100)).astype(np.float32)

    def off(self, name: str, rows: slice, by: float) -> Parameter:
        values = self.STORED.copy()
        values[rows] += np.float32(by)
        return Parameter(name, values)

    def problem(self, *parameters: Parameter) -> str:
        match = find(FloatTensor(tensor("w", self.STORED)), parameters)
        assert not match.views
        assert match.problem is not None
        return match.problem

    def test_it_is_the_parameter_with_the_fewest_differences(self) -> None:
        small, few = self.off("small", slice(3, 9), 0.1), self.off("few", slice(3, 5), 9.0)
        for parameters in ((small, few), (few, small)):
            assert self.problem(*parameters) == (
                "w (float32 [20, 100]) is derived from no parameter: the closest, few (identity), "
                "differs in 200 of 2,000 numbers, first at (3, 0)"
            )

    def test_among_those_with_as_many_it_is_the_one_with_the_smallest_differences(self) -> None:
        far, near = Parameter("far", -self.STORED), self.off("near", slice(None), 0.1)
        for parameters in ((far, near), (near, far)):
            assert "the closest, near (identity), differs in 2,000 of 2,000 numbers" in self.problem(*parameters)

    def test_half_of_a_hundredth_more_is_as_many(self) -> None:
        near = self.off("near", slice(None), 0.1)
        fewer = self.off("fewer", slice(None), 9.0)
        fewer.values[0, :8] = self.STORED[0, :8]
        assert "the closest, near (identity), " in self.problem(fewer, near)

    def test_every_row_of_a_small_tensor_counts(self) -> None:
        odd, first = self.off("odd", slice(1, None, 2), 0.1), self.off("first", slice(0, 1), 9.0)
        assert "the closest, first (identity), differs in 100 of 2,000 numbers" in self.problem(odd, first)

    def test_a_difference_in_a_row_that_is_not_sampled_is_found(self) -> None:
        """Every second row of 32 tells the closest; all of them are compared."""
        stored = RNG.normal(size=(32, 4)).astype(np.float32)
        values = stored.copy()
        values[31, 2] += 1
        match = find(FloatTensor(tensor("w", stored)), [parameter("other", np.zeros((32, 4))), parameter("p", values)])
        assert match.problem == (
            "w (float32 [32, 4]) is derived from no parameter: the closest, p (identity), "
            "differs in 1 of 128 numbers, first at (31, 2)"
        )
