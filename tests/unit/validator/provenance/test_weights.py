"""Every stored weight is a parameter, and every parameter is stored: near misses fail, and say where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from exporter.graph.surgery import add_constant, input_of, make_node
from exporter.precisions.retype import retype
from exporter.validator.check import Check
from exporter.validator.provenance import Parameter, check_weights, read_onnx
from tests.support.small_encoder import INNER, ROWS, WIDTH, small_graph, small_parameters
from tests.support.surgery import stored_array

TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def checked(
    edit: Callable[[ir.Model], None] = lambda _: None,
    precision: str = "fp32",
    changes: Mapping[str, Parameter] = MappingProxyType({}),
) -> Check:
    """Check the small encoder, typed as ``precision`` and then edited."""
    parameters = small_parameters()
    model = small_graph(parameters).editable()
    if precision in TYPES:
        norm = {node for node in model.graph if str(node.name).startswith("layer.1.LayerNorm")}
        retype(model, TYPES[precision], norm)
    edit(model)
    return check_weights({**parameters, **changes}, read_onnx(ir.to_proto(model).SerializeToString()), precision)


def set_numbers(name: str, change: Callable[[np.ndarray], None]) -> Callable[[ir.Model], None]:
    def edit(model: ir.Model) -> None:
        value = next(value for key, value in model.graph.initializers.items() if key.startswith(name))
        array = stored_array(value).copy()
        change(array)
        value.const_value = ir.tensor(array, name=value.name)

    return edit


def swap(first: int, second: int) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[[first, second]] = array[[second, first]]

    return change


def last_bit(array: np.ndarray) -> None:
    bits: npt.NDArray[np.unsignedinteger] = array.reshape(-1)[7:8].view(np.uint32 if array.itemsize == 4 else np.uint16)
    bits ^= 1


def test_the_sound_graph_is_accounted_for_bit_for_bit() -> None:
    check = checked()
    # The second row of the token types is no part of a sentence vector.
    total = (ROWS + 1) * WIDTH + INNER * WIDTH + INNER * INNER + 4 * INNER
    assert check.passed, check.failures
    assert check.name == "weights"
    assert check.coverage == f"{total:,} of {total:,} weights accounted for, bit for bit"
    assert check.figures["found"] == total
    assert check.figures["scalars"] == 1
    assert check.figures["tensors_read_by_their_module"] == 8


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_rounded_weights_are_accounted_for_and_float32_where_it_is_kept(precision: str, dtype: str) -> None:
    check = checked(precision=precision)
    assert check.passed, check.failures
    assert f"exactly rounded to {dtype}, {2 * INNER} bit for bit" in check.coverage


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("tensor", "change"),
    [
        ("layer.0.ffn.w", last_bit),
        ("layer.1.ffn.b", last_bit),
        ("words", swap(4, 270)),
        ("words", lambda array: array[-1].fill(0)),
        ("row", lambda array: np.negative(array[:1], out=array[:1])),
        ("layer.1.ffn.w", lambda array: array[:, 3].fill(0)),
    ],
    ids=["last bit of a weight", "last bit of a bias", "rows swapped", "last row zero", "sign flipped", "column zero"],
)
def test_a_changed_number_is_found(precision: str, tensor: str, change: Callable[[np.ndarray], None]) -> None:
    check = checked(set_numbers(tensor, change), precision)
    assert not check.passed
    assert check.failures[0].startswith(tensor)
    assert "differs in" in check.failures[0]


def test_a_failure_says_which_number_of_which_parameter() -> None:
    (failure, missing) = checked(set_numbers("words", swap(4, 270))).failures
    assert failure == (
        f"words (float32 [{ROWS}, {WIDTH}]) is derived from no parameter: the closest, "
        f"0.model.embeddings.word_embeddings.weight (identity), differs in {2 * WIDTH} of {ROWS * WIDTH:,} numbers, "
        "first at (4, 0)"
    )
    assert missing.startswith("0.model.embeddings.word_embeddings.weight")


def test_weights_rounded_through_another_type_are_found() -> None:
    def round_twice(model: ir.Model) -> None:
        for value in model.graph.initializers.values():
            if value.dtype == ir.DataType.FLOAT16:
                array = stored_array(value).astype(np.float32)
                array = (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
                value.const_value = ir.tensor(array.astype(np.float16), name=value.name)

    assert not checked(round_twice, "fp16").passed


def test_two_layers_swapped_are_found_by_the_modules_that_read_them() -> None:
    def edit(model: ir.Model) -> None:
        nodes = {node.name: node for node in model.graph}
        first, second = nodes["layer.0.ffn/Add"], nodes["layer.1.ffn/Add"]
        ours, theirs = first.inputs[1], second.inputs[1]
        first.replace_input_with(1, theirs)
        second.replace_input_with(1, ours)

    failures = checked(edit).failures
    assert f"layer.0.ffn.b (float32 [{INNER}]) is read by layer.1.ffn, and it is 0.model.encoder.layer.0.ffn.bias" in (
        failures
    )


def test_equal_parameters_may_be_stored_once() -> None:
    ones = {
        name: Parameter(name, np.ones(INNER, np.float32))
        for name in ("0.model.encoder.layer.0.ffn.bias", "0.model.encoder.layer.1.LayerNorm.weight")
    }
    parameters = {**small_parameters(), **ones}
    model = small_graph(parameters).editable()
    nodes = {node.name: node for node in model.graph}
    nodes["layer.1.LayerNorm/LayerNormalization"].replace_input_with(1, nodes["layer.0.ffn/Add"].inputs[1])
    model.graph.initializers.pop("weight")
    check = check_weights(parameters, read_onnx(model), "fp32")
    assert check.passed, check.failures


def test_a_tensor_that_is_no_parameter_is_found() -> None:
    def edit(model: ir.Model) -> None:
        (output,) = model.graph.outputs
        scale = add_constant(model, "scale", np.full(INNER, 1.01, np.float32))
        node = make_node("Mul", [output, scale], "module.1/Mul.scale", ir.DataType.FLOAT, output.shape)
        model.graph.append(node)
        output.name, node.outputs[0].name = "before", "sentence_embedding"
        model.graph.outputs[0] = node.outputs[0]

    (failure,) = checked(edit).failures
    assert failure.startswith(f"scale (float32 [{INNER}]) is derived from no parameter: the closest, ")


@pytest.mark.parametrize("reader", [None, "a node whose output is not used"])
def test_a_parameter_that_takes_no_part_is_found(reader: str | None) -> None:
    """The graph computes with the rows in another order, and the file holds the genuine table too."""

    def edit(model: ir.Model) -> None:
        words = next(node for node in model.graph if node.name == "embeddings.word_embeddings/Gather")
        spare, ids = input_of(words), input_of(words, 1)
        order = add_constant(model, "order", np.roll(np.arange(ROWS), 1))
        other = make_node("Gather", [order, ids], "order/Gather", ir.DataType.INT64, ["batch", "sequence"])
        model.graph.insert_before(words, other)
        table = add_constant(model, "table", stored_array(spare))
        words.replace_input_with(0, table)
        words.replace_input_with(1, other.outputs[0])
        if reader is not None:
            model.graph.append(
                make_node("Neg", [spare], "embeddings.word_embeddings/Neg", ir.DataType.FLOAT, [ROWS, WIDTH])
            )

    (failure,) = checked(edit).failures
    assert failure == (
        f"words (float32 [{ROWS}, {WIDTH}]) is stored, and the sentence vectors are not computed from it"
    )


def test_a_parameter_that_is_not_stored_is_found() -> None:
    unread = Parameter("0.model.encoder.layer.2.ffn.weight", np.zeros((3, 5), np.float32))
    (failure,) = checked(changes={unread.name: unread}).failures
    assert failure == f"{unread.name} [3, 5], which sentence vectors depend on, is not stored"


def test_a_whole_table_is_needed_unless_its_rows_are_fixed() -> None:
    types = small_parameters()["0.model.embeddings.token_type_embeddings.weight"]
    check = checked(changes={types.name: Parameter(types.name, types.values)})
    assert f"{types.name} [2, {WIDTH}], which sentence vectors depend on, is not stored" in check.failures


@pytest.mark.parametrize("precision", ["fp32", "int8_dynamic"])
def test_a_type_that_the_precision_does_not_store_is_refused(precision: str) -> None:
    parameters = small_parameters()
    model = small_graph(parameters).editable()
    retype(model, ir.DataType.FLOAT16, set())
    check = check_weights(parameters, read_onnx(model), precision)
    assert f"has a type that {precision} does not store" in check.failures[0]


def test_many_failures_are_counted() -> None:
    def edit(model: ir.Model) -> None:
        for value in model.graph.initializers.values():
            if value.dtype == ir.DataType.FLOAT:
                value.const_value = ir.tensor(stored_array(value) * np.float32(1.5), name=value.name)

    failures = checked(edit).failures
    assert len(failures) == 6
    assert failures[-1] == "and 11 more"
