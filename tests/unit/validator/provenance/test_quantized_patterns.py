"""Which nodes are a MatMul or a table in integers: all of a pattern, or it is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from exporter.validator.provenance.quantized import (
    QuantizedMatMul,
    gathers_rows,
    quantized_matmuls,
    quantized_tables,
)
from exporter.validator.provenance.stored import Node, Value
from tests.support.stored_graphs import computed, stored_graph, tensor

X, IDS, OTHER = Value("x", "float32"), Value("ids", "int64"), Value("other", "float32")
WEIGHT = tensor("w", [[1, 2, 3], [4, 5, 6]], np.int8)
SCALES = tensor("scales", [0.5, 0.25, 2])
ZEROS = tensor("zeros", [0, 1, -1], np.int8)
STEP, ZERO = tensor("step", 0.5), tensor("zero", 100, np.uint8)
INVERSE = tensor("smooth", [1, 2])
COMPUTED = computed("Neg", OTHER)


def matmul_of(output: Value) -> QuantizedMatMul | None:
    found = quantized_matmuls(stored_graph(output))
    if not found:
        return None
    ((key, matmul),) = found.items()
    assert key is matmul.output
    return matmul


def numbers(matmul: QuantizedMatMul) -> tuple[object, object]:
    """Return scales and zero points."""
    return matmul.weight.scales.tolist(), matmul.weight.zero_points.tolist()


class TestStatic:
    @staticmethod
    def output(
        x: Value | None = X,
        *,
        quantize: tuple[Value | None, ...] = (STEP, ZERO),
        restore: tuple[Value | None, ...] | None = None,
        weight: tuple[Value | None, ...] = (WEIGHT, SCALES, ZEROS),
        operator: str = "MatMul",
        axis: int = 1,
        more: tuple[Value, ...] = (),
        **attributes: Any,
    ) -> Value:
        integers = computed("QuantizeLinear", x, *quantize, dtype="uint8")
        activation = computed("DequantizeLinear", integers, *(quantize if restore is None else restore))
        restored = computed("DequantizeLinear", *weight, name="w", axis=axis)
        return computed(operator, activation, restored, *more, name="layer.0/MatMul", **attributes)

    def test_everything_about_it_is_read(self) -> None:
        output = self.output()
        matmul = matmul_of(output)
        assert matmul is not None
        assert (matmul.node, matmul.output, matmul.activation, matmul.inverse) == (output.producer, output, X, None)
        assert (matmul.step, matmul.largest) == (0.5, 77.5)
        assert matmul.weight.values is WEIGHT
        assert matmul.weight.parts == (WEIGHT, SCALES, ZEROS)
        assert numbers(matmul) == ([[0.5, 0.25, 2]], [[0, 1, -1]])
        assert matmul.weight.scales.dtype == matmul.weight.zero_points.dtype == np.float64

    @pytest.mark.parametrize(
        ("zero", "dtype", "largest"),
        [(0, np.uint8, 127.5), (200, np.uint8, 100), (0, np.int8, 64), (-28, np.int8, 77.5), (28, np.int8, 78)],
    )
    def test_the_largest_activation_is_where_the_integers_end(
        self, zero: int, dtype: npt.DTypeLike, largest: float
    ) -> None:
        matmul = matmul_of(self.output(quantize=(STEP, tensor("zero", [zero], dtype))))
        assert matmul is not None
        assert (matmul.step, matmul.largest) == (0.5, largest)

    @pytest.mark.parametrize("axis", [1, -1])
    @pytest.mark.parametrize("shape", [(3,), (1, 3)])
    def test_scales_are_by_column(self, axis: int, shape: tuple[int, ...]) -> None:
        scales = tensor("scales", SCALES.array().reshape(shape))
        matmul = matmul_of(self.output(weight=(WEIGHT, scales, ZEROS), axis=axis))
        assert matmul is not None
        assert numbers(matmul) == ([[0.5, 0.25, 2]], [[0, 1, -1]])

    @pytest.mark.parametrize("none", [(), (None,)])
    def test_a_weight_may_have_one_scale_and_no_zero_points(self, none: tuple[None, ...]) -> None:
        """And one scale has no axis."""
        scale = tensor("scale", [0.5])
        matmul = matmul_of(self.output(weight=(WEIGHT, scale, *none), axis=0))
        assert matmul is not None
        assert numbers(matmul) == (0.5, 0)
        assert matmul.weight.parts == (WEIGHT, scale)

    def test_integers_may_have_no_sign(self) -> None:
        values = tensor("w", [[1, 2, 3]], np.uint8)
        matmul = matmul_of(self.output(weight=(values, SCALES, ZEROS)))
        assert matmul is not None
        assert matmul.weight.values is values

    def test_columns_are_the_axis_where_none_is_said(self) -> None:
        activation = computed("DequantizeLinear", computed("QuantizeLinear", X, STEP, ZERO, dtype="uint8"), STEP, ZERO)
        output = computed("MatMul", activation, computed("DequantizeLinear", WEIGHT, SCALES, ZEROS, name="w"))
        assert matmul_of(output) is not None

    @pytest.mark.parametrize(
        "smoothed",
        [
            computed("Mul", X, INVERSE),
            computed("Mul", INVERSE, X),
            computed("Cast", computed("Mul", X, INVERSE, dtype="float16")),
        ],
    )
    def test_a_smoothed_activation_is_read_before_smoothing(self, smoothed: Value) -> None:
        matmul = matmul_of(self.output(smoothed))
        assert matmul is not None
        assert (matmul.activation, matmul.inverse) == (X, INVERSE)

    @pytest.mark.parametrize(
        "activation",
        [
            computed("Mul", X, tensor("half", 0.5)),
            computed("Mul", X, tensor("half", [0.5])),
            computed("Mul", X, tensor("longer", [1, 2, 3])),
            computed("Mul", X, tensor("table", [[1, 2]])),
            computed("Mul", X, OTHER),
            computed("Add", X, INVERSE),
        ],
        ids=["a number", "a vector of one", "another length", "a table", "computed", "a sum"],
    )
    def test_any_other_operation_is_no_smoothing(self, activation: Value) -> None:
        matmul = matmul_of(self.output(activation))
        assert matmul is not None
        assert (matmul.activation, matmul.inverse) == (activation, None)

    @pytest.mark.parametrize(
        "fault",
        [
            {"operator": "Gemm"},
            {"more": (OTHER,)},
            {"transpose_b": True},
            {"x": None},
            {"quantize": (COMPUTED, ZERO)},
            {"quantize": (STEP, COMPUTED)},
            {"quantize": (None, ZERO)},
            {"quantize": (STEP, None)},
            {"quantize": (STEP,)},
            {"quantize": (SCALES, ZERO)},
            {"quantize": (STEP, ZEROS)},
            {"quantize": (STEP, tensor("zero", 0, np.int32))},
            {"restore": (tensor("other", 0.5), ZERO)},
            {"restore": (STEP, tensor("other", 100, np.uint8))},
            {"restore": (STEP,)},
            {"weight": (COMPUTED, SCALES, ZEROS)},
            {"weight": (None, SCALES, ZEROS)},
            {"weight": (WEIGHT, COMPUTED, ZEROS)},
            {"weight": (WEIGHT, None, ZEROS)},
            {"weight": (WEIGHT, SCALES, COMPUTED)},
            {"weight": (WEIGHT, tensor("scales", [0.5, 0.25]), ZEROS)},
            {"weight": (WEIGHT, tensor("scales", [[0.5], [0.25], [2]]), ZEROS)},
            {"weight": (WEIGHT, SCALES, tensor("zeros", [0, 1], np.int8))},
            {"weight": (tensor("w", [[1, 2, 3]], np.int32), SCALES, ZEROS)},
            {"weight": (tensor("w", [1, 2, 3], np.int8), SCALES, ZEROS)},
            {"weight": (tensor("w", [[[1, 2, 3]]], np.int8), SCALES, ZEROS)},
            {"axis": 0},
            {"axis": 2},
        ],
        ids=" ".join,
    )
    def test_anything_else_is_none(self, fault: dict[str, Any]) -> None:
        assert matmul_of(self.output(**fault)) is None

    @pytest.mark.parametrize("place", [0, 1])
    @pytest.mark.parametrize("other", [OTHER, tensor("float", [[1, 2, 3]]), COMPUTED])
    def test_a_product_with_one_operand_in_floating_point_is_none(self, place: int, other: Value) -> None:
        producer = self.output().producer
        assert producer is not None
        inputs = list(producer.inputs)
        inputs[place] = other
        assert matmul_of(computed("MatMul", *inputs)) is None

    def test_what_is_restored_must_have_been_quantized(self) -> None:
        producer = self.output().producer
        assert producer is not None
        for integers in (Value("q", "uint8"), computed("Cast", X, dtype="uint8")):
            activation = computed("DequantizeLinear", integers, STEP, ZERO)
            assert matmul_of(computed("MatMul", activation, producer.inputs[1])) is None


class TestDynamic:
    @staticmethod
    def output(
        x: Value | None = X,
        *,
        quantizer: str = "DynamicQuantizeLinear",
        product: dict[int, Value | None] | None = None,
        inputs: int = 4,
        factors: dict[int, Value | None] | None = None,
        scaling: str = "Mul",
        operator: str = "Mul",
        cast: str = "Cast",
        more: tuple[Value, ...] = (),
    ) -> Value:
        node = Node("quantize", quantizer, (x,))
        kinds = enumerate(("uint8", "float32", "uint8"))
        q, step, zero = node.outputs = tuple(Value(f"q:{i}", kind, producer=node, index=i) for i, kind in kinds)
        read = dict(enumerate((q, WEIGHT, zero, ZEROS))) | (product or {})
        scales = dict(enumerate((step, SCALES))) | (factors or {})
        integers = computed("MatMulInteger", *list(read.values())[:inputs], name="layer.0/MatMul_quant", dtype="int32")
        scaled = computed(scaling, *scales.values(), name="scales")
        return computed(operator, computed(cast, integers), scaled, *more, name="layer.0/Mul")

    def test_everything_about_it_is_read(self) -> None:
        output = self.output()
        matmul = matmul_of(output)
        assert matmul is not None
        assert str(matmul.node) == "MatMulInteger layer.0/MatMul_quant"
        assert (matmul.output, matmul.activation, matmul.inverse) == (output, X, None)
        assert (matmul.step, matmul.largest) == (None, None)
        assert matmul.weight.values is WEIGHT
        assert matmul.weight.parts == (WEIGHT, SCALES, ZEROS)
        assert numbers(matmul) == ([[0.5, 0.25, 2]], [[0, 1, -1]])

    def test_a_smoothed_activation_is_read_before_smoothing(self) -> None:
        matmul = matmul_of(self.output(computed("Mul", X, INVERSE)))
        assert matmul is not None
        assert (matmul.activation, matmul.inverse) == (X, INVERSE)

    @pytest.mark.parametrize(
        "fault",
        [
            {"x": None},
            {"quantizer": "QuantizeLinear"},
            {"operator": "Add"},
            {"more": (OTHER,)},
            {"cast": "Floor"},
            {"scaling": "Add"},
            {"inputs": 3},
            {"product": {0: None}},
            {"product": {0: Value("q", "uint8")}},
            {"product": {1: None}},
            {"product": {1: Value("w", "int8")}},
            {"product": {1: tensor("w", [[1, 2, 3]], np.int32)}},
            {"product": {2: ZERO}},
            {"product": {2: None}},
            {"product": {3: None}},
            {"product": {3: Value("zeros", "int8")}},
            {"factors": {0: STEP}},
            {"factors": {1: None}},
            {"factors": {1: OTHER}},
            {"factors": {1: INVERSE}},
        ],
        ids=" ".join,
    )
    def test_anything_else_is_none(self, fault: dict[str, Any]) -> None:
        assert matmul_of(self.output(**fault)) is None


NO_ZERO = tensor("zero", 0)
LIMITS = (-64, 63.5, -128, 127)  # of int8 in steps of a half around 0, and of its integers


class TestOpenVino:
    @staticmethod
    def restored(
        integers: Value | None, zero: Value | None, scale: Value | None, operators: tuple[str, str, str]
    ) -> Value:
        cast, difference, product = operators
        return computed(product, computed(difference, computed(cast, integers), zero), scale)

    @classmethod
    def output(
        cls,
        x: Value | None = X,
        *,
        limits: Mapping[int, Value | float] | None = None,
        levels: int | None = 256,
        fake: str = "opset1.FakeQuantize",
        rounding: str = "Cast",
        integers: str = "int8",
        zero: Value | None = NO_ZERO,
        step: Value | None = STEP,
        weight: Value | None = WEIGHT,
        zeros: Value | None = ZEROS,
        scales: Value | None = SCALES,
        operators: tuple[str, str, str] = ("Cast", "Sub", "Mul"),
        number: int = 4,
    ) -> Value:
        chosen: dict[int, Value | float] = {**dict(enumerate(LIMITS)), **(limits or {})}
        stored = [limit if isinstance(limit, Value) else tensor("limit", limit) for limit in chosen.values()][:number]
        attributes: dict[str, Any] = {} if levels is None else {"levels": levels}
        quantized = computed(rounding, computed(fake, x, *stored, **attributes), dtype=integers)
        return computed(
            "MatMul",
            cls.restored(quantized, zero, step, operators),
            cls.restored(weight, zeros, scales, ("Cast", "Sub", "Mul")),
            name="layer.0/MatMul",
        )

    def test_everything_about_it_is_read(self) -> None:
        output = self.output()
        matmul = matmul_of(output)
        assert matmul is not None
        assert (matmul.node, matmul.output, matmul.activation, matmul.inverse) == (output.producer, output, X, None)
        assert (matmul.step, matmul.largest) == (0.5, 64)
        assert matmul.weight.values is WEIGHT
        assert matmul.weight.parts == (WEIGHT, SCALES, ZEROS)
        assert numbers(matmul) == ([[0.5, 0.25, 2]], [[0, 1, -1]])

    def test_integers_may_have_no_sign(self) -> None:
        limits = {0: -50.0, 1: 77.5, 2: 0, 3: 255}
        matmul = matmul_of(self.output(limits=limits, integers="uint8", zero=tensor("zero", [[100.0]])))
        assert matmul is not None
        assert (matmul.step, matmul.largest) == (0.5, 77.5)

    @pytest.mark.parametrize(
        ("scales", "zeros"),
        [
            (computed("Cast", tensor("scales", SCALES.array(), np.float16)), computed("Cast", ZEROS)),
            (
                computed("Reshape", SCALES, tensor("shape", [1, 3], np.int64)),
                computed("Reshape", computed("Cast", ZEROS), computed("Cast", tensor("shape", [3], np.int32))),
            ),
        ],
        ids=["cast", "reshaped"],
    )
    def test_numbers_may_be_cast_and_reshaped(self, scales: Value, zeros: Value) -> None:
        matmul = matmul_of(self.output(scales=scales, zeros=zeros))
        assert matmul is not None
        assert numbers(matmul) == ([[0.5, 0.25, 2]], [[0, 1, -1]])
        assert {part.name for part in matmul.weight.parts} == {"w", "scales", "zeros"}

    @pytest.mark.parametrize("place", range(4))
    def test_limits_agree_with_the_step_to_one_in_a_hundred_thousand(self, place: int) -> None:
        for off, known in ((5e-6, True), (-5e-6, True), (2e-5, False), (-2e-5, False)):
            output = self.output(limits={place: tensor("limit", LIMITS[place] * (1 + off), np.float64)})
            assert (matmul_of(output) is not None) == known

    def test_limits_of_small_steps_agree_as_closely(self) -> None:
        small = tensor("step", 1e-12)
        for factor, known in ((1, True), (2, False)):
            limits: dict[int, Value | float] = {0: -128e-12 * factor, 1: 127e-12 * factor}
            assert (matmul_of(self.output(step=small, limits=limits)) is not None) == known

    @pytest.mark.parametrize(
        "fault",
        [
            {"x": None},
            {"levels": 255},
            {"levels": None},
            {"fake": "opset1.Round"},
            {"rounding": "Round"},
            {"integers": "int16"},
            {"number": 3},
            *({"limits": {place: OTHER}} for place in range(4)),
            *({"limits": {place: tensor("limit", [LIMITS[place]] * 2)}} for place in range(4)),
            {"zero": None},
            {"zero": OTHER},
            {"zero": tensor("zero", [0.0, 0.0])},
            {"zero": tensor("zero", 1.0)},
            {"step": None},
            {"step": OTHER},
            {"step": tensor("step", [0.5, 0.5])},
            {"weight": None},
            {"weight": Value("w", "int8")},
            {"weight": tensor("w", [[1, 2, 3]], np.int16)},
            {"zeros": OTHER},
            {"zeros": None},
            {"scales": OTHER},
            {"scales": None},
            {"scales": INVERSE},
            {"scales": computed("Neg", SCALES)},
            {"scales": computed("Cast", OTHER)},
            {"scales": computed("Cast", None)},
            {"scales": computed("Reshape", OTHER, tensor("shape", [1, 3], np.int64))},
            {"scales": computed("Reshape", SCALES, IDS)},
            {"scales": computed("Reshape", SCALES, None)},
            {"scales": computed("Reshape", SCALES, tensor("shape", [1, -1], np.int64))},
            {"operators": ("Floor", "Sub", "Mul")},
            {"operators": ("Cast", "Add", "Mul")},
            {"operators": ("Cast", "Sub", "Add")},
        ],
        ids=" ".join,
    )
    def test_anything_else_is_none(self, fault: dict[str, Any]) -> None:
        assert matmul_of(self.output(**fault)) is None

    @pytest.mark.parametrize("quantized", [Value("q", "int8"), computed("Cast", None, dtype="int8")])
    def test_what_is_restored_must_have_been_quantized(self, quantized: Value) -> None:
        operators = ("Cast", "Sub", "Mul")
        activation = self.restored(quantized, NO_ZERO, STEP, operators)
        assert matmul_of(computed("MatMul", activation, self.restored(WEIGHT, ZEROS, SCALES, operators))) is None


ROWS = tensor("rows", [[1, 2, 3], [4, 5, 6]], np.int8)
FACTORS, MEAN = tensor("factors", [[1], [2]]), tensor("mean", [1, 2, 3])


class TestTable:
    @staticmethod
    def output(
        *,
        rows: Value | None = ROWS,
        factors: Value | None = FACTORS,
        mean: Value = MEAN,
        ids: Value | None = IDS,
        other_ids: Value | None = IDS,
        gather: str = "Gather",
        cast: str = "Cast",
        product: str = "Mul",
        operator: str = "Add",
        axis: int = 0,
        more: tuple[Value, ...] = (),
    ) -> Value:
        gathered = computed(gather, rows, ids, name="rows", dtype="int8", axis=axis)
        scales = computed("Gather", factors, other_ids, name="scales")
        scaled = computed(product, computed(cast, gathered), scales, *more)
        return computed(operator, scaled, mean, name="words/Add")

    def test_everything_about_it_is_read(self) -> None:
        output = self.output()
        ((key, table),) = quantized_tables(stored_graph(output)).items()
        assert key is table.output is output
        assert table.node is output.producer
        assert (table.indices, table.rows, table.scales, table.mean) == (IDS, ROWS, FACTORS, MEAN)
        assert table.parts == (ROWS, FACTORS, MEAN)

    @pytest.mark.parametrize(
        "fault",
        [
            {"rows": None},
            {"rows": Value("rows", "int8")},
            {"rows": tensor("rows", [[1, 2, 3], [4, 5, 6]], np.uint8)},
            {"rows": tensor("rows", [1, 2, 3], np.int8)},
            {"rows": tensor("rows", [[[1, 2, 3]], [[4, 5, 6]]], np.int8)},
            {"factors": None},
            {"factors": OTHER},
            {"factors": tensor("factors", [[1], [2]], np.int8)},
            {"factors": tensor("factors", [1, 2])},
            {"factors": tensor("factors", [[1], [2], [3]])},
            {"factors": tensor("factors", [[1, 1, 1], [2, 2, 2]])},
            {"mean": OTHER},
            {"mean": tensor("mean", [1, 2, 3], np.int8)},
            {"mean": tensor("mean", [1])},
            {"mean": tensor("mean", [[1, 2, 3]])},
            {"ids": None, "other_ids": None},
            {"other_ids": Value("ids", "int64")},
            {"gather": "GatherND"},
            {"cast": "Floor"},
            {"product": "Div"},
            {"operator": "Sub"},
            {"axis": 1},
            {"more": (OTHER,)},
        ],
        ids=" ".join,
    )
    def test_anything_else_is_none(self, fault: dict[str, Any]) -> None:
        assert quantized_tables(stored_graph(self.output(**fault))) == {}

    @pytest.mark.parametrize(
        ("axis", "attributes", "whole"),
        [
            ((), {}, True),
            ((), {"axis": 0}, True),
            ((), {"axis": 1}, False),
            ((), {"axis": -1}, False),
            ((tensor("axis", 0, np.int64),), {}, True),
            ((tensor("axis", [0], np.int64),), {"batch_dims": 0}, True),
            ((tensor("axis", 1, np.int64),), {}, False),
            ((tensor("axis", 0, np.int64),), {"batch_dims": 1}, False),
            ((Value("axis", "int64"),), {}, False),
            ((None,), {}, False),
        ],
    )
    def test_rows_are_gathered_along_the_first_axis(
        self, axis: tuple[Value | None, ...], attributes: dict[str, int], whole: bool
    ) -> None:
        assert gathers_rows(Node("words/Gather", "Gather", (ROWS, IDS, *axis), attributes)) is whole
