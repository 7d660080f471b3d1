"""Graphs in an older operator set: what is rewritten computes the same, and what cannot be is refused by its name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.errors import BuildError
from exporter.graph.passes import passes_for, run_passes
from exporter.graph.passes.axes_as_attributes import axes_as_attributes
from exporter.graph.passes.decompose_gelu import decompose_gelu
from exporter.graph.passes.decompose_rms_normalization import decompose_rms_normalization
from exporter.graph.passes.decompose_rotary_embedding import decompose_rotary_embedding
from exporter.graph.passes.lowering import LOWERING, passes_to_lower
from exporter.targets import FOLDED_OPSET, OLDEST_OPSET, Backend, Device, Precision, Target
from tests.support.graphs import evaluate, model_of, ops

ALL = range(OLDEST_OPSET, FOLDED_OPSET)
GELU = "g (TYPE[B,3] x) => (TYPE[B,3] y) { y = Gelu ATTRIBUTES (x) }"
RMS = """
g (TYPE[B,S,4] x, TYPE[4] scale) => (TYPE[B,S,4] y) {
  y = RMSNormalization ATTRIBUTES (x, scale)
}
"""
ROTARY = """
g (TYPE[B,2,S,6] x, TYPE[B,S,3] c, TYPE[B,S,3] s) => (TYPE[B,2,S,6] z) {
  y = RotaryEmbedding ATTRIBUTES (x, c, s)
  z = RotaryEmbedding ATTRIBUTES (y, c, s)
}
"""
SCALE = [1.0, 0.5, 2.0, 3.0]
MEAN = """
g (float[B,3,4] x) => (float[B,3,1] y) <int64[1] axes = {-1}> { y = ReduceMean<noop_with_empty_axes = 0>(x, axes) }
"""


def numbers(*shape: int, dtype: type = np.float32) -> np.ndarray:
    values: np.ndarray = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return values


def lower(model: ir.Model, opset: int) -> dict[str, int]:
    return run_passes(model, passes_for("onnxruntime", "cpu", "fp32", opset=opset))


def typed(body: str, dtype: type, attributes: str) -> ir.Model:
    name = "float16" if dtype is np.float16 else "float"
    return model_of(body.replace("TYPE", name).replace("ATTRIBUTES", attributes))


def test_a_target_names_an_opset_that_its_graph_is_lowered_to() -> None:
    target = Target(Precision.FP16, Backend.ONNXRUNTIME, Device.CPU)
    assert [str(target), str(replace(target, opset=18))] == ["fp16 on onnxruntime", "fp16 on onnxruntime, opset 18"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float16, 4e-3)])
class TestRewrites:
    """Each one against the operator itself, as the reference evaluator of onnx computes it."""

    @pytest.mark.parametrize("attributes", ["", '<approximate = "none">', '<approximate = "tanh">'])
    def test_gelu(self, attributes: str, dtype: type, tolerance: float) -> None:
        model, feeds = typed(GELU, dtype, attributes), {"x": 3 * numbers(5, 3, dtype=dtype)}
        (before,) = evaluate(model, feeds)
        assert decompose_gelu(model) == 1
        assert "Gelu" not in ops(model)
        (after,) = evaluate(model, feeds)
        assert after.dtype == dtype
        np.testing.assert_allclose(after, before, atol=tolerance)

    @pytest.mark.parametrize("attributes", ["", "<epsilon = 0.25>", "<axis = 2, stash_type = 1>"])
    def test_rms_normalization(self, attributes: str, dtype: type, tolerance: float) -> None:
        model, feeds = (
            typed(RMS, dtype, attributes),
            {"x": numbers(2, 5, 4, dtype=dtype), "scale": np.array(SCALE, dtype)},
        )
        (before,) = evaluate(model, feeds)
        assert decompose_rms_normalization(model) == 1
        assert "RMSNormalization" not in ops(model)
        (after,) = evaluate(model, feeds)
        assert after.dtype == dtype
        np.testing.assert_allclose(after, before, atol=tolerance)

    @pytest.mark.parametrize("attributes", ["", "<interleaved = 0, num_heads = 2>"])
    def test_rotary_embedding(self, attributes: str, dtype: type, tolerance: float) -> None:
        model = typed(ROTARY, dtype, attributes)
        angles = numbers(2, 5, 3)
        feeds = {"x": numbers(2, 2, 5, 6), "c": np.cos(angles), "s": np.sin(angles)}
        feeds = {name: value.astype(dtype) for name, value in feeds.items()}
        (before,) = evaluate(model, feeds)
        assert decompose_rotary_embedding(model) == 2
        assert ops(model).count("Unsqueeze") == 2  # cosines and sines, once for both layers
        (after,) = evaluate(model, feeds)
        assert after.dtype == dtype
        np.testing.assert_allclose(after, before, atol=tolerance)


def test_squares_that_float16_cannot_hold_are_added_in_float32() -> None:
    model = typed(RMS, np.float16, "")
    feeds = {"x": np.full((1, 1, 4), 1000, np.float16), "scale": np.array(SCALE, np.float16)}
    decompose_rms_normalization(model)
    np.testing.assert_array_equal(evaluate(model, feeds)[0], [[SCALE]])


def test_axes_become_an_attribute() -> None:
    model, feeds = model_of(MEAN), {"x": numbers(2, 3, 4)}
    (before,) = evaluate(model, feeds)
    assert lower(model, 17)["axes_as_attributes"] == 1
    assert list(model.graph[0].attributes.get_ints("axes", ())) == [-1]
    assert not model.graph.initializers
    np.testing.assert_array_equal(evaluate(model, feeds)[0], before)
    assert axes_as_attributes(model) == 0


def test_the_place_of_the_largest_is_found_among_smaller_integers() -> None:
    model = model_of("g (int64[B,3] x) => (int64[B] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }")
    assert lower(model, 22)["narrow_argmax"] == 1
    assert ops(model) == ["Cast", "ArgMax"]
    np.testing.assert_array_equal(evaluate(model, {"x": np.array([[0, 1, 1], [1, 1, 0]])})[0], [1, 0])
    assert lower(model, 22)["narrow_argmax"] == 0


def test_parts_of_one_size_are_counted_by_the_outputs() -> None:
    model = model_of("g (float[B,4] x) => (float[B,2] a, float[B,2] b) { a, b = Split<axis = 1, num_outputs = 2>(x) }")
    before = evaluate(model, {"x": numbers(3, 4)})
    assert lower(model, 17)["remove_split_count"] == 1
    np.testing.assert_array_equal(evaluate(model, {"x": numbers(3, 4)}), before)


@pytest.mark.parametrize("opset", [19, 17])
def test_the_largest_of_truth_values_is_found_among_integers(opset: int) -> None:
    model = model_of("g (bool[B,3] x) => (bool[B] y) <int64[1] axes = {1}> { y = ReduceMax<keepdims = 0>(x, axes) }")
    feeds = {"x": np.array([[False, True, False], [False] * 3])}
    assert lower(model, opset)["reduce_bool_as_int32"] == 1
    np.testing.assert_array_equal(evaluate(model, feeds)[0], [True, False])


@pytest.mark.parametrize(
    "body",
    [
        ROTARY.replace("ATTRIBUTES", "<interleaved = 1>").replace("TYPE", "float"),
        RMS.replace("ATTRIBUTES", "<axis = 1>").replace("TYPE", "float").replace("[4] scale", "[1,4] scale"),
    ],
    ids=["interleaved", "two axes"],
)
def test_a_form_that_no_pass_rewrites_is_refused(body: str) -> None:
    with pytest.raises(
        BuildError, match=r"cannot be lowered to opset 20: R\w+ \(node\.0/R\w+\) needs opset 23"
    ) as told:
        lower(model_of(body), 20)
    assert told.value.next_step == "leave `opset` out, and run the bundle on an ONNX Runtime that has it"


@pytest.mark.parametrize(
    ("body", "opset", "operator", "needs"),
    [
        ("g (float[B,3] x) => (float[B,3] y) { y = Mish(x) }", 17, "Mish", 18),
        ("g (float[B,3] x) => (float[B,3] y) { y = Swish(x) }", 20, "Swish", 24),
        ("g (bfloat16[B,3] x) => (bfloat16[B,3] y) { y = Round(x) }", 21, "Round", 22),
        (
            "g (float[B,5] x) => (float[B,3] a, float[B,2] b) { a, b = Split<axis = 1, num_outputs = 2>(x) }",
            17,
            "Split",
            18,
        ),
    ],
    ids=["operator", "operator of a newer set", "type", "attribute"],
)
def test_what_the_set_does_not_have_is_named_with_the_set_that_has_it(
    body: str, opset: int, operator: str, needs: int
) -> None:
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 24]> {body}'))
    ir.passes.common.ShapeInferencePass()(model)
    model.graph[0].name = "there"
    with pytest.raises(BuildError, match=rf"{operator} \(there\) needs opset {needs}") as told:
        lower(model, opset)
    advice = f"give `opset={needs}`" if needs < FOLDED_OPSET else "leave `opset` out"
    assert str(told.value.next_step).startswith(advice)


@pytest.mark.parametrize("opset", ALL)
def test_the_graph_states_its_set_and_a_format_that_goes_with_it(opset: int) -> None:
    model = model_of(MEAN)
    lower(model, opset)
    assert model.graph.opset_imports[""] == opset
    assert model.ir_version == {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10}[opset]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_nothing_is_rewritten_that_the_set_has() -> None:
    for since, rewrite in LOWERING:
        assert rewrite in passes_to_lower(since - 1)
        assert rewrite not in passes_to_lower(min(since, FOLDED_OPSET - 1)) or since == FOLDED_OPSET
    assert passes_to_lower(FOLDED_OPSET) == ()
    assert passes_for("onnxruntime", "cpu", "fp32") == ()


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, FOLDED_OPSET + 1])
def test_there_is_no_other_set(opset: int) -> None:
    with pytest.raises(ValueError, match=f"opset {opset}"):
        passes_to_lower(opset)


def test_equal_passes_are_the_same() -> None:
    """Targets with equal passes share the proof of the float32 graph."""
    assert passes_to_lower(20) == passes_to_lower(20)
    assert passes_to_lower(20) != passes_to_lower(19)
