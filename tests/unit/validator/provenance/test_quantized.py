"""int8 MatMuls and tables: within half a step of the parameter, smoothing and corrected biases accounted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporter.engines import backend_of
from exporter.graph import Graph
from exporter.graph.surgery import add_constant, input_of
from exporter.precisions.int8.dynamic import quantize_matmuls
from exporter.precisions.int8.embedding import quantize_tables
from exporter.precisions.int8.matmuls import matmuls_of
from exporter.precisions.int8.qdq import insert_qdq
from exporter.precisions.int8.scheme import Quantization, Scheme, Weight, scheme_of
from exporter.precisions.retype import retype
from exporter.recipe import Shapes
from exporter.validator.check import Check
from exporter.validator.provenance import Parameter, StoredGraph, check_graph, check_weights, read_onnx
from exporter.validator.provenance.quantized import quantized_matmuls
from exporter.validator.provenance.read_openvino import read_onnx_by_openvino, read_openvino
from tests.support.small_encoder import INNER, WIDTH, small_graph, small_parameters
from tests.support.surgery import stored_array

STATIC, FLOAT16, DYNAMIC, OPENVINO = "onnxruntime", "onnxruntime on cuda", "dynamic", "openvino"
TARGETS = (STATIC, FLOAT16, DYNAMIC, OPENVINO)


@dataclass
class Numbers:
    """What the small encoder is quantized with. Faults edit it."""

    quantization: Quantization

    def weight(self, layer: int) -> Weight:
        return self.quantization.weights[f"layer.{layer}.ffn.w"]

    def bias(self, layer: int) -> np.ndarray:
        return self.quantization.biases[f"layer.{layer}.ffn/MatMul"]


def scheme_for(target: str) -> Scheme:
    """Return how a target quantizes; dynamic int8 takes its weights and biases as the static one does."""
    backend = "openvino" if target == OPENVINO else "onnxruntime"
    return scheme_of("int8", backend, "cuda" if target == FLOAT16 else "cpu")


def numbers(graph: Graph, parameters: dict[str, Parameter], target: str) -> Numbers:
    """Return scales, smoothing for the first layer, and biases corrected by a little."""
    scheme = scheme_for(target)
    rng = np.random.default_rng(1)
    activations, weights, biases = {}, {}, {}
    for matmul in matmuls_of(graph):
        layer = f"0.model.encoder.{matmul.module}"
        weight = parameters[f"{layer}.weight"].values.T
        smooth = np.exp(rng.normal(size=WIDTH)).astype(np.float32) if matmul.inputs == WIDTH else None
        activations[matmul.activation] = scheme.activation_of(-3.0, 4.0, smooth)
        weights[matmul.weight] = scheme.weight_of(weight if smooth is None else weight * smooth[:, None])
        correction = 1e-4 * rng.normal(size=INNER)
        biases[matmul.node] = (parameters[f"{layer}.bias"].values + correction).astype(np.float32)
    return Numbers(Quantization(activations, weights, biases))


def in_int8(parameters: dict[str, Parameter], target: str, folder: Path) -> StoredGraph:
    """Return the small encoder as it is published with every MatMul in int8."""
    graph = small_graph(parameters)
    model, matmuls = graph.editable(), matmuls_of(graph)
    quantization = numbers(graph, parameters, target).quantization
    insert_qdq(model, matmuls, quantization, scheme_for(target), frozenset(matmul.node for matmul in matmuls))
    return stored(graph, model, target, folder)[1]


def checks(
    target: str,
    tmp_path: Path,
    fault: Callable[[Numbers], None] = lambda _: None,
    edit: Callable[[ir.Model], None] = lambda _: None,
) -> tuple[Check, Check]:
    """Quantize the small encoder for a target, and check its weights and its graph as published."""
    parameters = small_parameters()
    graph = small_graph(parameters)
    chosen = numbers(graph, parameters, target)
    fault(chosen)
    model = graph.editable()
    matmuls, on = matmuls_of(graph), frozenset(matmul.node for matmul in matmuls_of(graph))
    quantize_tables(model)
    if target == DYNAMIC:
        model = quantize_matmuls(model, matmuls, chosen.quantization, on)
    else:
        insert_qdq(model, matmuls, chosen.quantization, scheme_for(target), on)
    if target == FLOAT16:
        retype(model, ir.DataType.FLOAT16, set())
    edit(model)
    proven, published = stored(graph, model, target, tmp_path)
    precision = "int8_dynamic" if target == DYNAMIC else "int8"
    return check_weights(parameters, published, precision), check_graph(proven, published, precision)


def stored(graph: Graph, model: ir.Model, target: str, tmp_path: Path) -> tuple[StoredGraph, StoredGraph]:
    if target != OPENVINO:
        return read_onnx(graph.model), read_onnx(ir.to_proto(model).SerializeToString())
    engine = backend_of("openvino").build(replace(graph, model=model), Shapes(), tmp_path)
    xml, weights = ((tmp_path / name).read_bytes() for name in engine.files)
    return read_onnx_by_openvino(graph.to_bytes(), graph.max_sequence), read_openvino(xml, weights)


@pytest.mark.parametrize("target", TARGETS)
def test_the_sound_graph_is_accounted_for(target: str, tmp_path: Path) -> None:
    weights, graph = checks(target, tmp_path)
    assert weights.passed, weights.failures
    assert graph.passed, graph.failures
    assert weights.figures["found"] == weights.figures["weights"]
    assert weights.figures["by_kind"]["int8"] == 300 * WIDTH + INNER * (WIDTH + INNER)
    assert weights.figures["bias_corrections"] == 2
    assert 0.4 < weights.figures["largest_step"] < 0.6
    assert graph.figures["int8 MatMuls"] == 2
    assert graph.figures["int8 tables"] == 1
    assert graph.figures["smoothed activations"] == 1
    assert graph.figures["corrected biases"] == 2


def integer_off_by_one(model: ir.Model) -> None:
    """Move the weight whose rounding error is smallest by one step: it is off by 0.6 of a step at least."""
    value = next(value for name, value in model.graph.initializers.items() if name.startswith("layer.1.ffn.w.int8"))
    array = stored_array(value).copy()
    wanted = small_parameters()["0.model.encoder.layer.1.ffn.weight"].values.T
    scales = next(v for name, v in model.graph.initializers.items() if name.startswith("layer.1.ffn.w.scales"))
    error = np.abs(array * stored_array(scales).astype(np.float32) - wanted)
    index = np.unravel_index(error.argmin(), error.shape)
    array[index] += 1 if array[index] < 127 else -1
    value.const_value = ir.tensor(array, name=value.name)


@pytest.mark.parametrize("target", [STATIC, FLOAT16, OPENVINO])
def test_one_integer_that_is_off_by_one_is_found(target: str, tmp_path: Path) -> None:
    weights, graph = checks(target, tmp_path, edit=integer_off_by_one)
    assert "differs in 1 of 400 numbers" in weights.failures[0]
    assert "1 of 400 numbers are off by more than half a step" in graph.failures[0]


def test_a_weight_that_is_off_by_six_tenths_of_a_step_is_found() -> None:
    """Just beyond half: the parameter is moved, the integers stay."""
    parameters = small_parameters()
    graph = small_graph(parameters)
    chosen = numbers(graph, parameters, STATIC)
    model = graph.editable()
    on = frozenset({"layer.1.ffn/MatMul"})
    insert_qdq(model, matmuls_of(graph), chosen.quantization, scheme_for(STATIC), on)
    name = "0.model.encoder.layer.1.ffn.weight"
    restored = chosen.weight(1).restored().T
    for share, passed in ((0.499, True), (0.6, False)):
        moved = parameters[name].values.copy()
        moved[2, 5] = restored[2, 5] + share * chosen.weight(1).scales[2]
        check = check_weights({**parameters, name: Parameter(name, moved)}, read_onnx(model), "int8")
        assert check.passed == passed, check.failures


@pytest.mark.parametrize("target", [STATIC, FLOAT16, OPENVINO])
def test_two_rows_of_an_int8_table_swapped_are_found(target: str, tmp_path: Path) -> None:
    def edit(model: ir.Model) -> None:
        value = model.graph.initializers["words.int8"]
        array = stored_array(value).copy()
        array[[7, 8]] = array[[8, 7]]
        value.const_value = ir.tensor(array, name=value.name)

    weights, graph = checks(target, tmp_path, edit=edit)
    assert not weights.passed
    assert not graph.passed


@pytest.mark.parametrize("target", TARGETS)
def test_smoothing_that_is_not_undone_is_found(target: str, tmp_path: Path) -> None:
    def fault(chosen: Numbers) -> None:
        how = next(how for how in chosen.quantization.activations.values() if how.smooth is not None)
        assert how.smooth is not None
        how.smooth[3] *= 1.5  # after the weight was multiplied with it

    def edit(model: ir.Model) -> None:
        value = next(v for name, v in model.graph.initializers.items() if "/smooth" in name)
        array = stored_array(value).copy()
        array[4] *= 2
        value.const_value = ir.tensor(array, name=value.name)

    for weights, graph in (
        checks(target, tmp_path, edit=edit),
        *([checks(target, tmp_path, fault=fault)] if target != DYNAMIC else []),
    ):
        assert not weights.passed
        assert not graph.passed


@pytest.mark.parametrize("target", [STATIC, FLOAT16, OPENVINO])
def test_steps_that_are_too_large_prove_nothing(target: str, tmp_path: Path) -> None:
    def fault(chosen: Numbers) -> None:
        weight = chosen.weight(1)
        weight.scales[:] *= 1000
        weight.values[:] = 0

    weights, graph = checks(target, tmp_path, fault)
    assert "has larger steps than int8 needs" in weights.failures[0]
    assert "has larger steps than int8 needs" in graph.failures[0]


def rewrite(model: ir.Model, name: str, change: Callable[[np.ndarray], None]) -> None:
    """Change the numbers of the stored tensor whose name begins with ``name``."""
    value = next(value for key, value in model.graph.initializers.items() if key.startswith(name))
    array = stored_array(value).copy()
    change(array)
    value.const_value = ir.tensor(array, name=value.name)


@pytest.mark.parametrize("target", [STATIC, FLOAT16, OPENVINO])
@pytest.mark.parametrize("inverse", [np.inf, np.nan, 1e4])
def test_input_channels_that_smoothing_removes_are_found(inverse: float, target: str, tmp_path: Path) -> None:
    """Where the step grows with the inverse, integers of zero are within half a step of any weight."""

    def edit(model: ir.Model) -> None:
        smooth = next(name for name in model.graph.initializers if "/smooth" in name)
        rewrite(model, smooth, lambda array: array[2:5].fill(inverse))
        rewrite(model, "layer.0.ffn.w.int8", lambda array: array[2:5].fill(0))

    for check in checks(target, tmp_path, edit=edit):
        assert "layer.0.ffn" in check.failures[0]


@pytest.mark.parametrize("integer", [0, 1])
def test_smoothing_that_leaves_a_row_too_few_steps_is_found(integer: int, tmp_path: Path) -> None:
    """One integer of 1 in a row: half a step is a quarter of the largest weight, and everything below it is lost."""

    def fault(chosen: Numbers) -> None:
        scheme = scheme_for(STATIC)
        how = next(how for how in chosen.quantization.activations.values() if how.smooth is not None)
        assert how.smooth is not None
        name = "layer.0.ffn.w"
        weight = small_parameters()["0.model.encoder.layer.0.ffn.weight"].values.T
        largest = np.abs(weight[3]).max() * how.smooth[3]
        how.smooth[3] *= 0.9 * (integer + 0.4) * chosen.quantization.weights[name].scales.min() / largest
        weights = {**chosen.quantization.weights, name: scheme.weight_of(weight * how.smooth[:, None])}
        chosen.quantization = replace(chosen.quantization, weights=weights)
        assert np.abs(chosen.quantization.weights[name].values[3]).max() == integer

    for check in checks(STATIC, tmp_path, fault):
        assert "has larger steps than int8 needs" in check.failures[0]


@pytest.mark.parametrize("target", [STATIC, FLOAT16, OPENVINO])
@pytest.mark.parametrize("part", ["scales", "mean"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_table_with_a_number_that_is_not_finite_is_found(
    number: float, part: str, target: str, tmp_path: Path
) -> None:
    def edit(model: ir.Model) -> None:
        rewrite(model, f"words.int8.{part}", lambda array: array[7:8].fill(number))

    for check in checks(target, tmp_path, edit=edit):
        assert "words.int8" in check.failures[0]


@pytest.mark.parametrize("target", TARGETS)
def test_a_bias_beyond_what_rounding_explains_is_found(target: str, tmp_path: Path) -> None:
    def fault(chosen: Numbers) -> None:
        chosen.bias(0)[3] += 100

    weights, graph = checks(target, tmp_path, fault)
    for check in (weights, graph):
        assert "by 100 at 3, and the rounding of its MatMul explains" in check.failures[0]


def test_an_int8_graph_is_no_float32_graph() -> None:
    parameters = small_parameters()
    graph = small_graph(parameters)
    model = graph.editable()
    quantize_tables(model)
    weights = check_weights(parameters, read_onnx(model), "fp32")
    assert any("words.int8 (int8 [300, 12]) is no part of a known quantization" in f for f in weights.failures)
    assert not check_graph(read_onnx(graph.model), read_onnx(model), "fp16").passed


def test_an_added_bias_is_judged_as_a_correction_of_none() -> None:
    parameters = small_parameters()
    parameters.pop("0.model.encoder.layer.0.ffn.bias")
    graph = small_graph(small_parameters())
    add = next(node for node in graph.model.graph if node.name == "layer.0.ffn/Add")
    add.outputs[0].replace_all_uses_with(input_of(add))
    graph.model.graph.remove(add, safe=True)
    graph.model.graph.initializers.pop("layer.0.ffn.b")
    scheme = scheme_for(STATIC)
    (first, _) = matmuls_of(graph)
    weight = scheme.weight_of(parameters["0.model.encoder.layer.0.ffn.weight"].values.T)
    for size, passed in ((1e-3, True), (100.0, False)):
        biases = {first.node: np.full(INNER, size, np.float32)}
        quantization = Quantization({first.activation: scheme.activation_of(-3, 4)}, {first.weight: weight}, biases)
        model = graph.editable()
        insert_qdq(model, matmuls_of(graph), quantization, scheme, frozenset({first.node}))
        assert check_weights(parameters, read_onnx(model), "int8").passed == passed
        assert check_graph(read_onnx(graph.model), read_onnx(model), "int8").passed == passed


def test_an_activation_restored_with_another_scale_is_no_known_matmul(tmp_path: Path) -> None:
    def edit(model: ir.Model) -> None:
        restored = (node for node in model.graph if str(node.name).endswith("/Dequantize"))
        node = next(node for node in restored if input_of(node).producer() is not None)
        scale = stored_array(node.inputs[1])
        node.replace_input_with(1, add_constant(model, "other", scale * np.float32(2)))

    weights, graph = checks(STATIC, tmp_path, edit=edit)
    assert not weights.passed
    assert not graph.passed


def activation_scales_per_channel(model: ir.Model) -> None:
    quantize = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    restore = next(iter(quantize.outputs[0].uses())).node
    for index in (1, 2):
        numbers = np.repeat(stored_array(quantize.inputs[index]), WIDTH)
        vector = add_constant(model, f"per_channel.{index}", numbers)
        for node in (quantize, restore):
            node.replace_input_with(index, vector)
            node.attributes["axis"] = ir.AttrInt64("axis", 2)


def weight_restored_with(shape: tuple[int, ...], **attributes: int) -> Callable[[ir.Model], None]:
    def edit(model: ir.Model) -> None:
        restore = next(node for node in model.graph if node.inputs and str(input_of(node).name).startswith(WEIGHT))
        while len(restore.inputs) > 2:
            restore.resize_inputs(2)
        restore.replace_input_with(1, add_constant(model, "other", np.full(shape, 0.01, np.float32)))
        for name, value in attributes.items():
            restore.attributes[name] = ir.AttrInt64(name, value)

    return edit


WEIGHT = "layer.1.ffn.w.int8"


@pytest.mark.parametrize(
    "edit",
    [
        activation_scales_per_channel,
        weight_restored_with((2, INNER), axis=0, block_size=INNER // 2),
        weight_restored_with((INNER, INNER), axis=0, block_size=1),
        weight_restored_with((INNER,), axis=0),
    ],
    ids=["per channel", "per block", "per number", "per row"],
)
def test_scales_of_another_form_are_no_known_matmul(edit: Callable[[ir.Model], None], tmp_path: Path) -> None:
    weights, graph = checks(STATIC, tmp_path, edit=edit)
    assert any("is no part of a known quantization" in failure for failure in weights.failures)
    assert not graph.passed


def test_openvino_limits_per_channel_are_no_known_matmul(tmp_path: Path) -> None:
    parameters = small_parameters()
    published = in_int8(parameters, OPENVINO, tmp_path)
    limits = next(node for node in published.nodes if node.operator.endswith("FakeQuantize")).inputs[1:]
    for limit in limits:
        assert limit is not None
        limit.load = partial(np.full, (WIDTH,), limit.array().item(), np.float32)
        limit.shape = (WIDTH,)
    assert len(quantized_matmuls(published)) == 1
    assert not check_weights(parameters, published, "int8").passed


def test_scales_gathered_by_other_ids_are_no_table(tmp_path: Path) -> None:
    def edit(model: ir.Model) -> None:
        node = next(node for node in model.graph if str(node.name).endswith("Gather.scales"))
        node.replace_input_with(1, model.graph.inputs[1])

    weights, graph = checks(STATIC, tmp_path, edit=edit)
    assert not weights.passed
    assert not graph.passed


def test_the_range_of_an_activation_is_read_from_its_scale_and_zero_point(tmp_path: Path) -> None:
    for target, largest in ((STATIC, 7 / 255 * 146), (OPENVINO, 4 / 127 * 128)):  # -3 to 4: zero is 109 of 255
        found = quantized_matmuls(in_int8(small_parameters(), target, tmp_path)).values()
        assert [matmul.largest for matmul in found] == pytest.approx([largest] * 2)


def test_openvino_limits_that_disagree_with_the_scale_are_no_known_matmul(tmp_path: Path) -> None:
    published = in_int8(small_parameters(), OPENVINO, tmp_path)
    assert len(quantized_matmuls(published)) == 2
    fake = next(node for node in published.nodes if node.operator.endswith("FakeQuantize"))
    value = fake.inputs[1]
    assert value is not None
    limit = value.array() * 2
    value.load = lambda: limit
    assert len(quantized_matmuls(published)) == 1


def test_an_int8_table_that_is_read_at_other_ids_is_found(tmp_path: Path) -> None:
    def edit(model: ir.Model) -> None:
        for node in model.graph:
            if str(node.name).endswith(("Gather.rows", "Gather.scales")):
                node.replace_input_with(1, model.graph.inputs[1])

    _, graph = checks(STATIC, tmp_path, edit=edit)
    assert graph.failures == ("the input attention_mask is read where the proven graph has the input input_ids",)
