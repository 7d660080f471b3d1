"""What the check of weights says: how many were found and how, which are missing, and what is wrong, in order."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from exporter.validator.check import Check
from exporter.validator.provenance.parameter import Parameter
from exporter.validator.provenance.stored import Value
from exporter.validator.provenance.weights import check_weights
from tests.support.stored_graphs import Numbers, computed, int8_product, int8_rows, stored_graph, tensor

EMBEDDINGS, FFN = "0.model.embeddings", "0.model.encoder.layer.0.ffn"
IDS = Value("input_ids", "int64")
VALUES: dict[str, Numbers] = {
    f"{EMBEDDINGS}.word_embeddings.weight": [[137, 20], [10, 147], [-117, -107]],  # the mean row is [10, 20]
    f"{EMBEDDINGS}.token_type_embeddings.weight": [[3, 5], [7, 9]],
    f"{FFN}.weight": [[127, 64.25], [-127, 1]],
    f"{FFN}.bias": [1, 2],
}
WORDS, TYPES, WEIGHT, BIAS = VALUES
PARAMETERS = {
    name: Parameter(name, np.asarray(values, np.float32), (0,) if name == TYPES else None)
    for name, values in VALUES.items()
}
NOTHING: dict[str, Any] = {
    "weights": 14,
    "found": 14,
    "by_kind": {},
    "by_step": {"identity": 8, "row 0": 2, "transpose": 4},
    "tensors_read_by_their_module": 4,
    "scalars": 0,
    "largest_step": 0.0,
    "bias_corrections": 0,
    "largest_bias_correction": 0.0,
    "largest_bias_correction_of_allowed": 0.0,
}


def words(dtype: npt.DTypeLike = np.float32) -> Value:
    return tensor("words", VALUES[WORDS], dtype)


def row(dtype: npt.DTypeLike = np.float32) -> Value:
    return tensor("row", VALUES[TYPES][0], dtype)


def weight(dtype: npt.DTypeLike = np.float32) -> Value:
    return tensor("w", np.transpose(VALUES[WEIGHT]), dtype)


def bias(numbers: Numbers = (1, 2), dtype: npt.DTypeLike = np.float32) -> Value:
    return tensor("b", numbers, dtype)


def encoder(
    table: Value | None = None, types: Value | None = None, w: Value | None = None, b: Value | None = None
) -> Value:
    """Return the output of an embedding, a sum and a linear layer; each part is float32 unless it is given."""
    gathered = computed("Gather", table or words(), IDS, name="embeddings.word_embeddings/Gather")
    x = computed("Add", gathered, types or row(), name="embeddings/Add")
    product = computed("MatMul", x, w or weight(), name="layer.0.ffn/MatMul")
    return computed("Add", product, b or bias(), name="layer.0.ffn/Add")


WHOLE_STEPS = tensor("scales", [[1], [1], [1]])


def int8_embeddings(words: Value | None = None) -> Value:
    return computed("Add", words or int8_rows(IDS, WHOLE_STEPS), row(), name="embeddings/Add")


def int8_ffn(x: Value, *, module: str = "layer.0.ffn", inverse: Value | None = None) -> Value:
    return int8_product(x, name=f"{module}/MatMul", inverse=inverse)


def int8_encoder(b: Value, words: Value | None = None, **options: Any) -> Value:
    """Return the same in int8: every number of the table is exact, one of the weight is a quarter of a step away."""
    return computed("Add", int8_ffn(int8_embeddings(words), **options), b, name="layer.0.ffn/Add")


def checked(output: Value, precision: str = "fp32", *unread: Value) -> Check:
    return check_weights(PARAMETERS, stored_graph(output, IDS, unread=unread), precision)


class TestFigures:
    def test_float32(self) -> None:
        assert checked(encoder()) == Check(
            "weights",
            "14 of 14 weights accounted for, bit for bit",
            (),
            {**NOTHING, "by_kind": {"float32": 14}},
        )

    @pytest.mark.parametrize(
        ("precision", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)], ids=["fp16", "bf16"]
    )
    def test_a_rounded_type_and_float32_where_it_is_kept(self, precision: str, dtype: npt.DTypeLike) -> None:
        name = np.dtype(dtype).name
        assert checked(encoder(words(dtype), row(dtype), weight(dtype)), precision) == Check(
            "weights",
            f"14 of 14 weights accounted for: 12 exactly rounded to {name}, 2 bit for bit",
            (),
            {**NOTHING, "by_kind": {name: 12, "float32": 2}},
        )
        assert checked(encoder(words(dtype), row(dtype), weight(dtype), bias(dtype=dtype)), precision).coverage == (
            f"14 of 14 weights accounted for, exactly rounded to {name}"
        )

    @pytest.mark.parametrize("inverse", [None, tensor("smooth", [1, 1])], ids=["plain", "smoothed"])
    def test_int8_and_a_corrected_bias(self, inverse: Value | None) -> None:
        check = checked(int8_encoder(bias([1.5, 2]), inverse=inverse), "int8")
        figures = dict(check.figures)
        explained = 6 * np.sqrt((77.5 * 0.25) ** 2 + 0.25**2 * (127**2 + 64**2))
        assert figures.pop("largest_bias_correction_of_allowed") == pytest.approx(0.5 / explained)
        assert figures == {
            "weights": 14,
            "found": 14,
            "by_kind": {"int8": 10, "float32": 2, "corrected": 2},
            "by_step": {"identity": 6, "row 0": 2, "transpose": 4},
            "tensors_read_by_their_module": 3,
            "scalars": 1,
            "largest_step": 0.25,
            "bias_corrections": 1,
            "largest_bias_correction": 0.5,
        }
        assert check.failures == ()
        assert check.coverage == (
            "14 of 14 weights accounted for: 10 within half a step of int8 (largest 0.25 step), 2 bit for bit, "
            "2 in corrected biases (by 0.5 at most)"
        )

    def test_steps_that_are_rounded_may_be_more_than_half_away(self) -> None:
        """127 steps of 1.004 are half a step too much, and the rounding of a scale to float16 allows a bit more."""
        words = int8_rows(IDS, tensor("scales", [[1 + 2**-8], [1], [1]], np.float16), [10.04, 20])
        check = checked(int8_encoder(bias(), words), "int8")
        assert check.failures == ()
        assert check.figures["largest_step"] == pytest.approx(0.534, abs=0.001)
        assert check.coverage == (
            "14 of 14 weights accounted for: 10 within half a step of int8 and the rounding of its scales "
            "(largest 0.53 step), 4 bit for bit"
        )

    def test_the_largest_correction_is_that_of_all(self) -> None:
        x = int8_embeddings()
        first = computed("Add", int8_ffn(x), bias([1.5, 2]), name="layer.0.ffn/Add")
        second = computed("Add", int8_ffn(x), tensor("b.2", [1, 1.875]), name="layer.0.ffn/Add.2")
        check = checked(computed("Add", first, second, name="Add_9"), "int8")
        assert check.failures == ()
        assert check.figures["bias_corrections"] == 2
        assert check.figures["largest_bias_correction"] == 0.5
        assert check.figures["by_kind"]["corrected"] == 2
        assert check.coverage.endswith("2 in corrected biases (by 0.5 at most)")

    def test_where_nothing_is_found(self) -> None:
        parameter = Parameter("0.model.pooler.weight", np.zeros((3, 5), np.float32))
        graph = stored_graph(computed("Neg", IDS), IDS)
        missing = "0.model.pooler.weight [3, 5], which sentence vectors depend on, is not stored"
        assert check_weights({parameter.name: parameter}, graph, "fp32") == Check(
            "weights",
            "0 of 15 weights accounted for",
            (missing,),
            {**NOTHING, "weights": 15, "found": 0, "by_step": {}, "tensors_read_by_their_module": 0},
        )

    def test_numbers_alone_and_integers_are_left_to_the_graph(self) -> None:
        scaled = computed("Mul", encoder(), tensor("half", 0.5), name="Mul_1")
        output = computed("Reshape", scaled, tensor("shape", [2, 2], np.int64), name="Reshape_1")
        check = checked(output, "fp32", tensor("spare", 0.5), tensor("spare.2", [0, 1], np.int64))
        assert check.failures == ()
        assert check.figures == {**NOTHING, "by_kind": {"float32": 14}, "scalars": 2}


class TestFailures:
    @pytest.mark.parametrize(
        "dtype", ["float32", "float16", "int8", "uint8", "int16", "uint16", ml_dtypes.int4, ml_dtypes.uint4]
    )
    def test_a_weight_that_takes_no_part(self, dtype: npt.DTypeLike) -> None:
        spare = tensor("spare", [[1, 2, 3]], dtype)
        assert checked(encoder(), "fp16", spare).failures[0] == (
            f"spare ({np.dtype(dtype).name} [1, 3]) is stored, and the sentence vectors are not computed from it"
        )

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_integers_that_are_part_of_no_quantization(self, precision: str) -> None:
        output = computed("Mul", encoder(), tensor("levels", [1, 2], np.uint8), name="Mul_1")
        assert checked(output, precision).failures == ("levels (uint8 [2]) is no part of a known quantization",)

    @pytest.mark.parametrize(
        ("precision", "allowed"),
        [
            ("fp32", {"float32"}),
            ("fp16", {"float16", "float32"}),
            ("bf16", {"bfloat16", "float32"}),
            ("int8", {"float32", "float16"}),
            ("int8_dynamic", {"float32"}),
        ],
    )
    def test_a_type_that_the_precision_does_not_store(self, precision: str, allowed: set[str]) -> None:
        for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
            name = np.dtype(dtype).name
            missing = f"{BIAS} [2], which sentence vectors depend on, is not stored"
            refused = (f"b ({name} [2]) has a type that {precision} does not store", missing)
            assert checked(encoder(b=bias(dtype=dtype)), precision).failures == (() if name in allowed else refused)

    def test_what_is_missing_is_named_first_where_nothing_else_is_wrong(self) -> None:
        gathered = computed("Gather", words(), IDS, name="embeddings.word_embeddings/Gather")
        check = checked(computed("Add", gathered, bias(), name="Add_1"))
        assert check.failures == (
            f"{TYPES} [2, 2], which sentence vectors depend on, is not stored",
            f"{WEIGHT} [2, 2], which sentence vectors depend on, is not stored",
        )
        assert check.coverage == "8 of 14 weights accounted for, bit for bit"
        assert check.figures["found"] == 8

    def test_what_is_missing_is_named_last_where_something_is_wrong(self) -> None:
        assert checked(encoder(b=bias([1, 3]))).failures == (
            f"b (float32 [2]) is derived from no parameter: the closest, {BIAS} (identity), "
            "differs in 1 of 2 numbers, first at (1,)",
            f"{BIAS} [2], which sentence vectors depend on, is not stored",
        )

    @pytest.mark.parametrize(("missing", "more"), [(5, []), (6, ["and 1 more"]), (7, ["and 2 more"])])
    def test_five_are_named_in_full(self, missing: int, more: list[str]) -> None:
        parameters = {f"{i}.weight": Parameter(f"{i}.weight", np.zeros(3, np.float32)) for i in range(missing)}
        named = [f"{i}.weight [3], which sentence vectors depend on, is not stored" for i in range(5)]
        assert list(check_weights(parameters, stored_graph(computed("Neg", IDS)), "fp32").failures) == named + more

    def test_fixed_rows_must_all_be_there(self) -> None:
        types = Parameter(TYPES, PARAMETERS[TYPES].values, (0, 1))
        check = check_weights({**PARAMETERS, TYPES: types}, stored_graph(encoder(), IDS), "fp32")
        assert check.failures == (f"{TYPES} [2, 2], which sentence vectors depend on, is not stored",)
        assert check.figures == {**NOTHING, "weights": 16, "by_kind": {"float32": 14}}
        both = computed("Add", encoder(), tensor("row.2", VALUES[TYPES][1]), name="Add_9")
        check = check_weights({**PARAMETERS, TYPES: types}, stored_graph(both, IDS), "fp32")
        assert check.failures == ()
        steps = {**NOTHING["by_step"], "row 1": 2}
        assert check.figures == {**NOTHING, "weights": 16, "found": 16, "by_kind": {"float32": 16}, "by_step": steps}


class TestModules:
    def test_a_module_that_reads_a_parameter_of_another(self) -> None:
        parameters = {
            name: Parameter(name, np.asarray([5, 6], np.float32))
            for name in (f"{FFN}.bias", f"{EMBEDDINGS}.LayerNorm.bias", f"{EMBEDDINGS}.LayerNorm.weight")
        }
        b = bias([5, 6])
        output = computed("Add", computed("Cast", IDS), b, name="layer.1.ffn/Add")
        check = check_weights(parameters, stored_graph(output, IDS), "fp32")
        missing = [f"{name} [2], which sentence vectors depend on, is not stored" for name in parameters]
        names = f"{FFN}.bias or {EMBEDDINGS}.LayerNorm.bias"
        assert check.failures == (f"b (float32 [2]) is read by layer.1.ffn, and it is {names}", *missing)
        assert check.figures["tensors_read_by_their_module"] == 0

    def test_each_module_that_reads_a_tensor_must_have_it(self) -> None:
        b = bias()
        output = computed("Add", encoder(b=b), b, name="layer.1.ffn/Add")
        assert checked(output).failures[0] == f"b (float32 [2]) is read by layer.1.ffn, and it is {BIAS}"

    def test_a_node_that_is_called_after_no_module_may_read_anything(self) -> None:
        b = bias()
        check = checked(computed("Add", encoder(b=b), b, name="Add_9"))
        assert check.failures == ()
        assert check.figures["tensors_read_by_their_module"] == 4
        gathered = computed("Gather", words(), IDS, name="Gather_1")
        output = computed("Add", gathered, row(), name="Add_1")
        assert checked(output).figures["tensors_read_by_their_module"] == 0

    def test_integers_belong_to_a_module_too(self) -> None:
        check = checked(int8_encoder(bias(), module="layer.1.ffn"), "int8")
        assert check.failures[0] == f"w.int8 (int8 [2, 2]) is read by layer.1.ffn, and it is {WEIGHT}"
        check = checked(int8_encoder(bias(), int8_rows(IDS, WHOLE_STEPS, name="layer.0.ffn/Gather/Add")), "int8")
        assert check.failures[0] == f"words.int8 (int8 [3, 2]) is read by layer.0.ffn, and it is {WORDS}"


class TestCorrectedBiases:
    def test_beyond_what_rounding_explains(self) -> None:
        check = checked(int8_encoder(bias([1, 1000])), "int8")
        assert check.failures == (
            f"b differs from {BIAS} by 998 at 1, and the rounding of its MatMul explains 191",
            f"{BIAS} [2], which sentence vectors depend on, is not stored",
        )
        assert check.figures["bias_corrections"] == 1
        assert "corrected" not in check.figures["by_kind"]

    def test_in_front_of_the_product(self) -> None:
        x = int8_embeddings()
        check = checked(computed("Add", bias([1.5, 2]), int8_ffn(x), name="layer.0.ffn/Add"), "int8")
        assert check.failures == ()
        assert check.figures["by_kind"]["corrected"] == 2

    def test_one_that_was_added_where_the_checkpoint_has_none(self) -> None:
        parameters = {name: parameter for name, parameter in PARAMETERS.items() if name != BIAS}
        check = check_weights(parameters, stored_graph(int8_encoder(bias([1.5, 2])), IDS), "int8")
        assert check.failures == ()
        assert check.figures["largest_bias_correction"] == 2
        assert check.figures["by_kind"] == {"int8": 10, "float32": 2}

    def test_one_that_another_node_reads_too_must_be_the_parameter(self) -> None:
        b = bias([1.5, 2])
        check = checked(computed("Add", int8_encoder(b), b, name="Add_9"), "int8")
        assert check.failures[0].startswith("b (float32 [2]) is derived from no parameter: the closest, ")
        assert check.figures["bias_corrections"] == 0

    @pytest.mark.parametrize("operator", ["Sub", "Mul"])
    def test_one_that_is_not_added_must_be_the_parameter(self, operator: str) -> None:
        x = int8_embeddings()
        check = checked(computed(operator, int8_ffn(x), bias([1.5, 2]), name="layer.0.ffn/Add"), "int8")
        assert check.failures[0].startswith("b (float32 [2]) is derived from no parameter: the closest, ")

    def test_one_behind_a_product_of_no_parameter_must_be_the_parameter(self) -> None:
        changed = {**PARAMETERS, WEIGHT: Parameter(WEIGHT, PARAMETERS[WEIGHT].values + np.float32(9))}
        check = check_weights(changed, stored_graph(int8_encoder(bias([1.5, 2])), IDS), "int8")
        assert check.failures[0].startswith("w.int8 (int8 [2, 2]) is derived from no parameter: the closest, ")
        assert check.failures[1].startswith("b (float32 [2]) is derived from no parameter: the closest, ")

    def test_an_exact_one_is_no_correction(self) -> None:
        check = checked(int8_encoder(bias()), "int8")
        assert check.failures == ()
        assert check.figures["bias_corrections"] == 0
        assert check.coverage == (
            "14 of 14 weights accounted for: 10 within half a step of int8 (largest 0.25 step), 4 bit for bit"
        )
