"""The published graph is the proven one: differences are named, recorded ones are allowed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from exporter.graph.surgery import add_constant, input_of, make_node
from exporter.precisions.retype import retype
from exporter.validator.check import Check
from exporter.validator.provenance import check_graph, read_onnx
from tests.support.small_encoder import small_graph, small_parameters
from tests.support.surgery import stored_array

TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def checked(edit: Callable[[ir.Model], None] = lambda _: None, precision: str = "fp32") -> Check:
    """Compare the small encoder, typed as ``precision`` and then edited, with the small encoder."""
    graph = small_graph(small_parameters())
    model = graph.editable()
    if precision in TYPES:
        retype(model, TYPES[precision], {node for node in model.graph if str(node.name).startswith("layer.1.Layer")})
    edit(model)
    return check_graph(read_onnx(graph.model), read_onnx(ir.to_proto(model).SerializeToString()), precision)


def node_of(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.name == name)


def append(model: ir.Model, operator: str, *others: ir.Value) -> None:
    (output,) = model.graph.outputs
    node = make_node(operator, [output, *others], f"module.9/{operator}", ir.DataType.FLOAT, output.shape)
    model.graph.append(node)
    output.name, node.outputs[0].name = "before", "sentence_embedding"
    model.graph.outputs[0] = node.outputs[0]


def scaled(model: ir.Model) -> None:
    append(model, "Mul", add_constant(model, "factor", np.array(1.01, np.float32)))


def larger_epsilon(model: ir.Model) -> None:
    node_of(model, "layer.1.LayerNorm/LayerNormalization").attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def another_scalar(model: ir.Model) -> None:
    value = next(value for name, value in model.graph.initializers.items() if name.startswith("half"))
    value.const_value = ir.tensor(np.array(0.25, stored_array(value).dtype), name=value.name)


def another_axis(model: ir.Model) -> None:
    model.graph.initializers["axes"].const_value = ir.tensor(np.array([0], np.int64), name="axes")


def operands_swapped(model: ir.Model) -> None:
    node = node_of(model, "layer.1.ffn/MatMul")
    first, second = node.inputs
    node.replace_input_with(0, second)
    node.replace_input_with(1, first)


def layer_skipped(model: ir.Model) -> None:
    node_of(model, "layer.1.ffn/Add").outputs[0].replace_all_uses_with(node_of(model, "layer.0.ffn/Add").outputs[0])


def mask_for_ids(model: ir.Model) -> None:
    node_of(model, "embeddings.word_embeddings/Gather").replace_input_with(1, model.graph.inputs[1])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_sound_graph_is_the_proven_one(precision: str) -> None:
    check = checked(precision=precision)
    assert check.passed, check.failures
    assert check.name == "graph"
    assert check.coverage.startswith("12 operators and 11 stored tensors are those of the proven graph")
    assert ("casts" in check.coverage) == (precision != "fp32")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (scaled, "Mul module.9/Mul stands where the proven graph has ReduceMean module.1/ReduceMean"),
        (larger_epsilon, "layer.1.LayerNorm/LayerNormalization: epsilon is 0.001"),
        (another_scalar, "0.25 instead of 0.5"),
        (another_axis, "holds other numbers than axes (int64 [1]) of the proven graph"),
        (operands_swapped, "is read where the proven graph has"),
        (layer_skipped, "of the proven graph: 20 of 20 numbers differ, first at (0,)"),
        (mask_for_ids, "the input attention_mask is read where the proven graph has the input input_ids"),
        (lambda model: append(model, "Neg"), "Neg module.9/Neg stands where"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_difference_is_named(precision: str, edit: Callable[[ir.Model], None], said: str) -> None:
    check = checked(edit, precision)
    assert not check.passed
    assert any(said in failure for failure in check.failures), check.failures


def test_a_model_in_memory_equals_its_file_where_an_attribute_has_more_digits_than_float32() -> None:
    graph = small_graph(small_parameters())
    norm = node_of(graph.model, "layer.1.LayerNorm/LayerNormalization")
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-12)
    file = read_onnx(graph.to_bytes())
    assert check_graph(read_onnx(graph.model), file, "fp32").passed
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-5)
    (failure,) = check_graph(read_onnx(graph.model), file, "fp32").failures
    assert failure.endswith("LayerNormalization: epsilon is 1e-12, and the proven graph has 1e-05")


def test_the_difference_nearest_to_the_inputs_is_named_first() -> None:
    def edit(model: ir.Model) -> None:
        another_axis(model)
        mask_for_ids(model)
        larger_epsilon(model)

    failures = checked(edit).failures
    assert "the input attention_mask" in failures[0]
    assert "epsilon" in failures[1]
    assert "axes" in failures[2]


def test_a_scalar_below_the_lowest_number_of_a_type_becomes_that_number() -> None:
    lowest = np.array(np.finfo(np.float32).min, np.float32)
    graph = small_graph(small_parameters())
    graph.model.graph.initializers["half"].const_value = ir.tensor(lowest, name="half")
    proven = read_onnx(ir.to_proto(graph.model).SerializeToString())
    model = graph.editable()
    with np.errstate(over="ignore"):
        retype(model, ir.DataType.FLOAT16, set())
    value = next(value for name, value in model.graph.initializers.items() if name.startswith("half"))
    for number, passed in ((-65504, True), (-10, False), (-6, False)):
        value.const_value = ir.tensor(np.array(number, np.float16), name=value.name)
        assert check_graph(proven, read_onnx(model), "fp16").passed == passed


@pytest.mark.parametrize(("precision", "passed"), [("fp16", True), ("bf16", False), ("fp32", False)])
def test_only_casts_to_the_type_of_the_precision_are_allowed(precision: str, passed: bool) -> None:
    def edit(model: ir.Model) -> None:
        node = node_of(model, "module.1/Mul")
        value = input_of(node)
        for dtype in (ir.DataType.FLOAT16, ir.DataType.FLOAT):
            cast = make_node("Cast", [value], f"cast/{dtype}", dtype, value.shape, {"to": dtype})
            model.graph.insert_before(node, cast)
            value = cast.outputs[0]
        node.replace_input_with(0, value)

    graph = small_graph(small_parameters())
    model = graph.editable()
    edit(model)
    check = check_graph(read_onnx(graph.model), read_onnx(model), precision)
    assert check.passed == passed
    assert passed or "is cast to float16" in check.failures[0]


def test_the_contract_is_part_of_the_graph() -> None:
    def edit(model: ir.Model) -> None:
        model.metadata_props["max_sequence"] = "512"
        model.metadata_props["padding"] = "right"

    assert checked(edit).failures == (
        "metadata max_sequence: 512, and the proven graph has 64",
        "metadata padding: right, and the proven graph has None",
    )
