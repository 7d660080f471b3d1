"""Weight provenance and graph equivalence of real exports: sound ones pass everywhere, near misses fail.

Every fault is done to the typed graph, as an error of a precision or of a target's pass would be. Most of them hardly
move a cosine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporter.checkpoint import load_checkpoint
from exporter.graph.folding import fold
from exporter.recipe import Recipe
from exporter.validator.check import Check
from exporter.validator.provenance import check_graph, check_weights, read_onnx
from exporter.validator.provenance.parameters import dependent_parameters
from tests.support.checkpoints import save_checkpoint
from tests.support.published import MINILM, SUBJECTS, TARGETS, Edit, Target, proven, published, subject_named
from tests.support.surgery import (
    epsilon_enlarged,
    gelu_by_tanh,
    head_zeroed,
    module_dropped,
    negated_at_width,
    output_multiplied,
    rows_repeated,
    stored_array,
    weights_through_bf16,
)

FP32, FP16, BF16 = Target("fp32"), Target("fp16"), Target("bf16")
INT8, FP16_CUDA, FP16_OPENVINO, INT8_OPENVINO = (
    Target("int8"),
    Target("fp16", device="cuda"),
    Target("fp16", "openvino"),
    Target("int8", "openvino"),
)
EVERYWHERE = (FP32, FP16, BF16, INT8, Target("int8_dynamic"), FP16_OPENVINO, INT8_OPENVINO)


def weights_of(name: str, target: Target, edit: Edit | None = None) -> Check:
    return check_weights(subject_named(name).parameters, published(name, target, edit), target.precision)


def graph_of(name: str, target: Target, edit: Edit | None = None) -> Check:
    return check_graph(proven(name, target), published(name, target, edit), target.precision)


# --- sound exports pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_sound_export_passes(name: str, target: Target) -> None:
    weights, graph = weights_of(name, target), graph_of(name, target)
    assert weights.passed, weights.failures
    assert graph.passed, graph.failures
    assert weights.figures["found"] == weights.figures["weights"]
    assert weights.figures["weights"] == sum(p.needed for p in subject_named(name).parameters.values())
    assert weights.figures["tensors_read_by_their_module"] > 10
    if target.precision.startswith("int8"):
        assert weights.figures["by_kind"]["int8"] > 0.7 * weights.figures["weights"]
        assert weights.figures["largest_bias_correction_of_allowed"] < 1 / 3


def test_the_summary_says_how_many_weights_are_accounted_for() -> None:
    assert weights_of(MINILM, FP32).coverage == "22,564,992 of 22,564,992 weights accounted for, bit for bit"
    assert weights_of(MINILM, FP16).coverage == (
        "22,564,992 of 22,564,992 weights accounted for, exactly rounded to float16"
    )
    assert "within half a step of int8 (largest 0.50 step)" in weights_of(MINILM, INT8).coverage


@pytest.mark.parametrize("architecture", ["albert-groups", "distilbert", "electra", "mpnet", "roberta"])
def test_what_a_vector_depends_on_is_found_by_differentiating(architecture: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, architecture, ("cls", "max"), ("dense", "layer_norm"))
    checkpoint = load_checkpoint(Recipe(name="case", source=str(folder)))
    parameters = dependent_parameters(checkpoint)
    left_out = {name for name, _ in checkpoint.model.named_parameters()} - parameters.keys()
    assert all(".pooler." in name for name in left_out)
    fixed = {name: parameter.rows for name, parameter in parameters.items() if parameter.rows is not None}
    types = "0.model.embeddings.token_type_embeddings.weight"
    assert fixed == ({types: (0,)} if types in parameters else {})
    graph = read_onnx(fold(checkpoint).to_bytes())
    assert check_weights(parameters, graph, "fp32").passed
    assert check_graph(graph, graph, "fp32").passed


# --- weights: near misses fail ---------------------------------------------------------------------------------------


def change(value: ir.Value, edit: Callable[[np.ndarray], None]) -> None:
    array = stored_array(value).copy()
    edit(array)
    value.const_value = ir.tensor(array, name=value.name)


def table(model: ir.Model, kind: str) -> ir.Value:
    return next(v for name, v in model.graph.initializers.items() if name.startswith(f"embeddings.{kind}_embeddings"))


def last_bit(model: ir.Model) -> None:
    norm = next(name for name in model.graph.initializers if name.startswith("embeddings.LayerNorm.weight"))

    def flip(array: np.ndarray) -> None:
        array.reshape(-1)[11:12].view({2: np.uint16, 4: np.uint32}[array.itemsize])[:] ^= 1

    change(model.graph.initializers[norm], flip)


def words_swapped(model: ir.Model) -> None:
    def swap(array: np.ndarray) -> None:
        array[[-2, -3]] = array[[-3, -2]]

    change(table(model, "word"), swap)


def unused_words_are_noise(model: ir.Model) -> None:
    rng = np.random.default_rng(3)

    def noise(array: np.ndarray) -> None:
        array[-400:] = rng.permutation(array[-400:])

    change(table(model, "word"), noise)


def last_position_is_zero(model: ir.Model) -> None:
    change(table(model, "position"), lambda array: array[-1].fill(0))


def sign_flipped(model: ir.Model) -> None:
    """Flip the sign of the largest weight of the second linear layer."""

    def flip(array: np.ndarray) -> None:
        index = np.unravel_index(np.abs(array.astype(np.float32)).argmax(), array.shape)
        array[index] = -array[index]

    change(matrices(model)[1], flip)


def output_dimension_is_zero(model: ir.Model) -> None:
    change(matrices(model)[-1], lambda array: array[:, 5].fill(0))


def matrices(model: ir.Model) -> list[ir.Value]:
    """Return the stored right operands of the products in order, integers included."""
    found = []
    for node in model.graph:
        operand = node.inputs[1] if node.op_type in {"MatMul", "MatMulInteger"} else None
        producer = None if operand is None else operand.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            operand = producer.inputs[0]
        if operand is not None and operand.const_value is not None and operand not in found:
            found.append(operand)
    return found


def layers_swapped(model: ir.Model) -> None:
    """Let the queries of the first two layers read each other's bias."""
    adds = [node for node in model.graph if node.op_type == "Add"]
    first, second = [node for node in adds if "query" in str(node.name) or "q_lin" in str(node.name)][:2]
    ours, theirs = first.inputs[1], second.inputs[1]
    first.replace_input_with(1, theirs)
    second.replace_input_with(1, ours)


@pytest.mark.parametrize("target", EVERYWHERE, ids=str)
@pytest.mark.parametrize(
    "fault",
    [
        last_bit,
        words_swapped,
        unused_words_are_noise,
        last_position_is_zero,
        sign_flipped,
        output_dimension_is_zero,
        layers_swapped,
    ],
)
def test_a_changed_weight_is_found(fault: Edit, target: Target) -> None:
    name = "ko-sbert-sts"
    weights, graph = weights_of(name, target, fault), graph_of(name, target, fault)
    assert not weights.passed
    assert not graph.passed


@pytest.mark.parametrize("target", [INT8, Target("int8_dynamic"), INT8_OPENVINO], ids=str)
@pytest.mark.parametrize("factor", [0, -1], ids=["zero", "negated"])
def test_wrong_biases_behind_every_int8_product_are_found(factor: int, target: Target) -> None:
    def fault(model: ir.Model) -> None:
        for name, value in model.graph.initializers.items():
            if ".bias.int8" in name:
                value.const_value = ir.tensor(stored_array(value) * np.float32(factor), name=name)

    for check in (weights_of("demo", target, fault), graph_of("demo", target, fault)):
        assert "and the rounding of its MatMul explains" in check.failures[0]


@pytest.mark.parametrize("name", SUBJECTS)
def test_weights_rounded_through_bfloat16_are_found(name: str) -> None:
    assert not weights_of(name, FP16, weights_through_bf16).passed
    assert not graph_of(name, FP16, weights_through_bf16).passed


# --- graphs: near misses fail ----------------------------------------------------------------------------------------


def output_times_1_01(model: ir.Model) -> None:
    output_multiplied(model, 1.01)


def output_times_100(model: ir.Model) -> None:
    output_multiplied(model, 100)


def positions_restart_at_64(model: ir.Model) -> None:
    change(model.graph.initializers["embeddings.position_ids"], lambda array: np.mod(array, 64, out=array))


def one_head_zeroed(model: ir.Model) -> None:
    """Lose what the first head of the last layer says, where attention may be written out."""
    node = next(
        n
        for n in reversed(list(model.graph))
        if n.op_type == "Attention"
        or (n.op_type == "MatMul" and "/MatMul.s" not in str(n.name) and len(n.outputs[0].shape or ()) == 4)
    )
    head_zeroed(model, node.outputs[0])


def later_rows_answered_with_the_first(model: ir.Model) -> None:
    rows_repeated(model, 32)


def negated_at_width_254(model: ir.Model) -> None:
    negated_at_width(model, 254)


STRUCTURAL: dict[Edit, tuple[str, ...]] = {
    gelu_by_tanh: ("approximat",),
    epsilon_enlarged: ("epsilon is", "eps is"),
    output_times_1_01: ("stands where the proven graph has",),
    output_times_100: ("stands where the proven graph has",),
    positions_restart_at_64: ("embeddings.position_ids (int64 [1, 512]) holds other numbers",),
    one_head_zeroed: ("stands where the proven graph has",),
    later_rows_answered_with_the_first: ("stands where the proven graph has",),
    negated_at_width_254: ("stands where the proven graph has",),
}


@pytest.mark.parametrize("target", [*EVERYWHERE, FP16_CUDA], ids=str)
@pytest.mark.parametrize("fault", STRUCTURAL)
def test_a_changed_operator_is_found_and_named(fault: Edit, target: Target) -> None:
    check = graph_of("ko-sbert-sts", target, fault)
    assert not check.passed
    assert any(said in check.failures[0] for said in STRUCTURAL[fault]), check.failures


@pytest.mark.parametrize("target", EVERYWHERE, ids=str)
def test_normalize_dropped_is_found(target: Target) -> None:
    check = graph_of(MINILM, target, lambda model: module_dropped(model, 2))
    assert any("stands where the proven graph has" in failure for failure in check.failures)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("number", [-10, -6])
def test_a_mask_that_adds_another_number_is_found(precision: str, number: float) -> None:
    def fault(model: ir.Model) -> None:
        value = model.graph.initializers["mask/lowest"]
        value.const_value = ir.tensor(np.array(number, stored_array(value).dtype), name=value.name)

    check = graph_of("demo", Target(precision, "openvino"), fault)
    (failure,) = check.failures
    assert f"{number} instead of" in failure
