"""The operators on word vectors are those that torch traced, but for rewrites that are named."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from exporter.engines.building import with_target_passes
from exporter.graph.census import HEADS_INSIDE, REWRITTEN, differences, operators_on_words
from exporter.graph.passes import passes_for, remove_unused, run_passes
from exporter.graph.passes.split_heads_inside import split_heads_inside
from exporter.graph.surgery import graph_input
from exporter.targets import Backend, Device, Precision, Target
from exporter.validator.dataflow import check_dataflow
from tests.support.faults import Subject, subject_named
from tests.support.graphs import model_of
from tests.support.small_encoder import small_graph, small_parameters
from tests.support.surgery import Surgery, become_output, constant, node_named, put_behind

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


@pytest.fixture
def model() -> ir.Model:
    return small_graph(small_parameters()).editable()


SMALL = {
    "Add": 3,
    "MatMul": 2,
    "LayerNormalization axis=-1": 1,
    "Mul 0.5": 1,
    "Mul": 1,
    "ReduceMean keepdims=0 [1]": 1,
}


def test_operators_are_described_by_type_attributes_and_small_stored_inputs(model: ir.Model) -> None:
    assert operators_on_words(model.graph) == SMALL


def test_what_is_computed_from_ids_or_mask_alone_does_not_count(model: ir.Model) -> None:
    """The mask is cast and unsqueezed there; ids may be reshaped before the lookup."""
    (reader,) = [node for node in model.graph if node.op_type == "Gather"]
    ids = graph_input(model.graph, "input_ids")
    same = Surgery(model, ids).add("Reshape", [ids, constant(model, [0, -1])], like=ids)
    reader.replace_input_with(1, same)
    assert operators_on_words(model.graph) == SMALL


def test_shapes_of_hidden_states_do_not_count(model: ir.Model) -> None:
    (output,) = model.graph.outputs
    surgery = Surgery(model, output)
    shape = surgery.add("Shape", [output], INT64, [2])
    become_output(model, surgery.add("Reshape", [output, shape], like=output))
    assert operators_on_words(model.graph) - Counter(SMALL) == {"Reshape": 1}


def test_what_no_vector_depends_on_does_not_count(model: ir.Model) -> None:
    (output,) = model.graph.outputs
    Surgery(model, output).add("Neg", [output], like=output)
    assert operators_on_words(model.graph) == SMALL


@pytest.mark.parametrize(("size", "described"), [(8, True), (9, False)])
def test_only_small_stored_inputs_are_part_of_a_description(model: ir.Model, size: int, described: bool) -> None:
    (output,) = model.graph.outputs
    numbers = constant(model, np.arange(size), FLOAT)
    become_output(model, Surgery(model, output).add("Custom", [output, numbers], like=output))
    (found,) = operators_on_words(model.graph) - Counter(SMALL)
    assert (found != "Custom") is described


def test_a_graph_is_what_it_was(model: ir.Model) -> None:
    assert differences(SMALL, model.graph) == []


def test_operators_too_many_too_few_and_others_are_named(model: ir.Model) -> None:
    half = node_named(model, "module.1/Mul")
    put_behind(model, half.outputs[0], "Pow", constant(model, 2, FLOAT))
    half.replace_input_with(1, constant(model, 0.25, FLOAT))
    assert differences(SMALL, model.graph) == [
        "1 more Mul 0.25 than torch traced",
        "1 more Pow 2.0 than torch traced",
        "1 fewer Mul 0.5 than torch traced",
    ]


def test_a_rewrite_writes_what_it_is_known_to_write(model: ir.Model) -> None:
    traced = {**SMALL, "GatherElements axis=1": 1}
    assert differences(traced, model.graph) == ["1 Gather were to be written by passes and are not there"]
    (output,) = model.graph.outputs
    become_output(model, Surgery(model, output).add("Gather", [output, constant(model, [0])], like=output, axis=1))
    assert differences(traced, model.graph) == []
    assert differences(SMALL, model.graph) == ["1 more Gather axis=1 [0] than torch traced"]
    assert differences({**traced, "GatherElements axis=1": 2}, model.graph) == [
        "1 more Gather axis=1 [0] than torch traced"
    ]


def test_of_an_attention_that_is_written_out_nothing_may_be_missing_or_added(subject: Subject) -> None:
    target = Target(Precision.FP32, Backend.OPENVINO, Device.CPU)
    model = with_target_passes(subject.graph, target).editable()
    traced = subject.graph.traced
    assert differences(traced, model.graph) == []
    assert set(REWRITTEN["Attention"]) <= {key.partition(" ")[0] for key in operators_on_words(model.graph)}
    softmax = next(node for node in model.graph if node.op_type == "Softmax")
    put_behind(model, softmax.outputs[0], "Mul", constant(model, 1, FLOAT))
    found = differences(traced, model.graph)
    assert "1 more Mul 1.0 than torch traced" in found
    assert all("Mul" in failure for failure in found)


WRITTEN_OUT = """
g (int64[B,S] input_ids, float[B,S,2] c, float[B,S,2] s) => (float[B,S,K] y)
<float[9,4] words = {NUMBERS}, float[4] one = {1, 1, 1, 1}, int64[1] axis = {1}> {
  x = Gather(words, input_ids)
  STATEMENT
}
"""
STATEMENTS = {
    "Gelu": "y = Gelu(x)",
    "Gelu approximate=tanh": 'y = Gelu<approximate = "tanh">(x)',
    "RMSNormalization": "y = RMSNormalization(x, one)",
    "RotaryEmbedding": "h = Unsqueeze(x, axis) z = RotaryEmbedding(h, c, s) y = Squeeze(z, axis)",
}


@pytest.mark.parametrize("operator", STATEMENTS)
def test_of_an_operator_that_is_lowered_nothing_may_be_missing_or_added(operator: str) -> None:
    numbers = ", ".join(map(str, range(36)))
    model = model_of(WRITTEN_OUT.replace("NUMBERS", numbers).replace("STATEMENT", STATEMENTS[operator]))
    traced = operators_on_words(model.graph)
    run_passes(model, passes_for("onnxruntime", "cpu", "fp32", opset=17))
    assert operator not in operators_on_words(model.graph)
    assert differences(traced, model.graph) == []
    written = next(node for node in model.graph if node.op_type == "Mul")
    put_behind(model, written.outputs[0], "Mul", constant(model, 2, FLOAT))
    found = differences(traced, model.graph)
    assert "1 more Mul 2.0 than torch traced" in found
    assert all("Mul" in told for told in found)
    put_behind(model, written.outputs[0], "Add", constant(model, 2, FLOAT))
    assert any("Add" in told for told in differences(traced, model.graph))


def test_a_split_into_fewer_parts_is_told() -> None:
    split = "y, z = Split<axis = -1, num_outputs = 2>(x)"
    numbers = ", ".join(map(str, range(36)))
    model = model_of(WRITTEN_OUT.replace("NUMBERS", numbers).replace("STATEMENT", split))
    traced = operators_on_words(model.graph)
    assert differences({**traced, "Split axis=-1 outputs=2": 0, "Split axis=-1 outputs=3": 1}, model.graph)


class TestHeadsInside:
    """Attention that splits the heads itself takes four transposes and reshapes away, and nothing else."""

    @pytest.fixture
    def model(self, subject: Subject) -> ir.Model:
        model = subject.graph.editable()
        assert split_heads_inside(model) == len([node for node in model.graph if node.op_type == "Attention"])
        remove_unused(model)
        return model

    def test_it_is_what_torch_traced(self, subject: Subject, model: ir.Model) -> None:
        found = operators_on_words(model.graph)
        assert found["Transpose perm=(0, 2, 1, 3)"] == 0
        assert differences(subject.graph.traced, model.graph) == []

    def test_another_attention_is_not(self, subject: Subject, model: ir.Model) -> None:
        node = next(node for node in model.graph if node.op_type == "Attention")
        node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)
        assert differences(subject.graph.traced, model.graph)[0].startswith("1 more Attention is_causal=1 ")

    @pytest.mark.parametrize("heads", [1, 2, 64])
    def test_another_number_of_heads_is_told(self, subject: Subject, model: ir.Model, heads: int) -> None:
        own = subject.checkpoint.facts.heads
        for node in model.graph:
            for name in HEADS_INSIDE if node.op_type == "Attention" else ():
                assert node.attributes.get_int(name, 0) == own
                node.attributes[name] = ir.AttrInt64(name, heads)
        assert differences(subject.graph.traced, model.graph) == []
        failures = check_dataflow(subject.graph.with_model(model), subject.checkpoint.pad_token_id or 0, own).failures
        assert f"splits into {heads} heads, and the model has {own}" in failures[0]

    def test_what_is_added_is_told(self, subject: Subject, model: ir.Model) -> None:
        node = next(node for node in model.graph if node.op_type == "Attention")
        value = node.inputs[1]
        assert value is not None
        node.replace_input_with(1, Surgery(model, value).add("Neg", [value], like=value))
        assert differences(subject.graph.traced, model.graph) == ["1 more Neg than torch traced"]

    def test_a_transpose_too_few_elsewhere_is_told(self, subject: Subject, model: ir.Model) -> None:
        traced = {**subject.graph.traced, "Transpose perm=(1, 0)": 1}
        assert differences(traced, model.graph) == ["1 fewer Transpose perm=(1, 0) than torch traced"]
        more = Counter(subject.graph.traced) + Counter({"Transpose perm=(0, 2, 1, 3)": 1})
        assert differences(more, model.graph) == ["1 fewer Transpose perm=(0, 2, 1, 3) than torch traced"]

    def test_a_reshape_too_few_elsewhere_is_told(self, subject: Subject, model: ir.Model) -> None:
        more = Counter(subject.graph.traced) + Counter({"Reshape allowzero=0": 1})
        assert "1 fewer Reshape allowzero=0 than torch traced" in differences(more, model.graph)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_named("albert-small (small twin)")


def test_passes_of_folding_change_no_operator_on_word_vectors(subject: Subject) -> None:
    assert subject.graph.traced == operators_on_words(subject.graph.model.graph)
    assert sum(subject.graph.traced.values()) > 50
