"""float16: what would overflow stays float32, and says so."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.precisions import bf16, fp16
from exporter.precisions.range_audit import largest_activations
from exporter.report.audit import Audit
from tests.support.graphs import model_of
from tests.support.surgery import stored_array

# Embedding, a gain that may blow up, a normalisation, and a pooled output.
ENCODER = """
g (int64[batch,sequence] input_ids, int64[batch,sequence] attention_mask) => (float[batch,4] sentence_embedding)
<float[3,4] table = {1,-2,3,-4, 2,1,0,-1, 0.5,0.25,-0.5,1}, float[4] gain = {GAIN}, float[4] scale = {1,1,1,1},
 float[4] bias = {0,0,0,SMALL}, int64[1] axis = {1}> {
  embedded = Gather<axis = 0>(table, input_ids)
  blown = Mul(embedded, gain)
  residual = Add(blown, embedded)
  normed = LayerNormalization<axis = -1>(residual, scale, bias)
  acted = Gelu(normed)
  mask = Cast<to = 1>(attention_mask)
  column = Unsqueeze(mask, last)
  kept = Mul(acted, column)
  sentence_embedding = ReduceSum<keepdims = 0>(kept, axis)
}
"""

CONSTANTS = "int64[1] axis = {1}, int64[1] last = {2}>"
MOVED = """turned = Transpose<perm = [0, 2, 1]>(blown)
  back = Transpose<perm = [0, 2, 1]>(turned)
  residual = Add(back, embedded)"""
NAMES = {
    "gain": "4",
    "scale": "4",
    "bias": "4",
    "axis": "1",
    "embedded": "embeddings/Gather",
    "blown": "layer.0.ffn/Mul",
    "residual": "layer.0.residual/Add",
    "normed": "layer.0.LayerNorm/LayerNormalization",
    "acted": "layer.1.act/Gelu",
    "mask": "module.1/Cast",
    "column": "module.1/Unsqueeze",
    "kept": "module.1/Mul",
    "sentence_embedding": "module.1/ReduceSum",
    "last": "1",
}


def test_a_weight_is_cast_whenever_it_is_read_and_never_kept() -> None:
    typed = fp16.cast(graph(), fp16.Audit({"": 1.0}, 1, ""))
    table = typed.model.graph.initializers["table.float16"].const_value
    assert table is not None
    assert table.dtype == ir.DataType.FLOAT16
    first, second = table.numpy(), table.numpy()
    assert first is not second
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, stored_array(graph().model.graph.initializers["table"]).astype(np.float16))


def graph(gain: str = "1,1,1,1", small: str = "0.5") -> Graph:
    text = ENCODER.replace("GAIN", gain).replace("SMALL", small)
    text = text.replace("int64[1] axis = {1}>", CONSTANTS)
    return Graph(model_of(text, names=NAMES), dimension=4, max_sequence=8)


@pytest.fixture(scope="module")
def batches() -> TokenBatches:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return TokenBatches(("a b c", "b", "c a"), tokenizer)


def types_of(converted: Graph) -> dict[str, str]:
    """Return the type every node computes in, and check that each operator's operands agree."""
    proto = onnx.load_from_string(converted.to_bytes())
    onnx.checker.check_model(proto, full_check=True)
    return {str(node.name): node.outputs[0].dtype.name for node in converted.model.graph if node.outputs[0].dtype}


def run(converted: Graph) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    feeds = {"input_ids": np.array([[0, 1, 2]]), "attention_mask": np.array([[1, 1, 1]])}
    vectors: np.ndarray = ReferenceEvaluator(converted.to_bytes()).run(None, feeds)[0]
    return vectors


def test_a_tame_graph_is_float16_up_to_pooling(batches: TokenBatches) -> None:
    converted = fp16.convert(graph(), batches, ())
    types = types_of(converted)
    assert types["layer.0.ffn/Mul"] == types["layer.1.act/Gelu"] == "FLOAT16"
    assert types["module.1/ReduceSum"] == "FLOAT"
    (output,) = converted.model.graph.outputs
    assert (output.name, output.dtype) == ("sentence_embedding", ir.DataType.FLOAT)
    np.testing.assert_allclose(run(converted), run(graph()), atol=2e-3)  # two steps of float16 at 1 to 2


@pytest.mark.parametrize(("gain", "reaches"), [("1,1,1,30000", 120000.0), ("1,1,1,5000", 20000.0)])
def test_what_overflows_or_comes_near_stays_float32_with_its_neighbors(
    batches: TokenBatches, gain: str, reaches: float
) -> None:
    hot = graph(gain)
    assert largest_activations(hot, batches)["layer.0.ffn/Mul"] == pytest.approx(reaches)
    converted = fp16.convert(hot, batches, ())
    types = types_of(converted)
    assert types["layer.0.ffn/Mul"] == types["layer.0.residual/Add"] == "FLOAT"
    assert types["layer.0.LayerNorm/LayerNormalization"] == "FLOAT"  # it reads the hot edge
    assert types["layer.1.act/Gelu"] == "FLOAT16"
    assert any("layer.0.ffn/Mul" in decision and "float32 kept" in decision for decision in converted.decisions)
    assert np.isfinite(run(converted)).all()
    np.testing.assert_allclose(run(converted), run(hot), atol=2e-3)


def test_a_large_value_stays_float32_through_what_only_moves_it(batches: TokenBatches) -> None:
    """Cast down between the multiplication and the normalisation, it would be infinite there."""
    text = ENCODER.replace("GAIN", "1,1,1,30000").replace("SMALL", "0.5").replace("int64[1] axis = {1}>", CONSTANTS)
    text = text.replace("residual = Add(blown, embedded)", MOVED)
    names = {**NAMES, "turned": "layer.0/Transpose.0", "back": "layer.0/Transpose.1"}
    hot = Graph(model_of(text, names=names), dimension=4, max_sequence=8)
    converted = fp16.convert(hot, batches, ())
    types = types_of(converted)
    moved = ("layer.0.ffn/Mul", "layer.0/Transpose.0", "layer.0/Transpose.1", "layer.0.residual/Add")
    assert {types[name] for name in moved} == {"FLOAT"}
    assert np.isfinite(run(converted)).all()
    np.testing.assert_allclose(run(converted), run(hot), atol=2e-3)


def test_without_the_audit_the_same_graph_would_overflow(
    batches: TokenBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fp16, "largest_activations", lambda *_: {"": 0.0})
    with np.errstate(all="ignore"):
        assert not np.isfinite(run(fp16.convert(graph("1,1,1,30000"), batches, ()))).all()


def test_a_weight_beyond_the_range_keeps_its_node_and_is_not_clipped(batches: TokenBatches) -> None:
    large = graph("1,1,1,100000")
    converted = fp16.convert(large, batches, ())
    gain = converted.model.graph.initializers["gain"]
    assert gain.dtype == ir.DataType.FLOAT
    assert gain.const_value is not None
    assert gain.const_value.numpy()[3] == 100000
    assert "float32 kept: weight gain reaches 1e+05" in converted.decisions


def test_subnormal_weights_are_reported(batches: TokenBatches) -> None:
    quiet = fp16.convert(graph(), batches, ()).decisions
    loud = fp16.convert(graph(small="0.00001"), batches, ()).decisions
    assert not any("subnormal" in decision for decision in quiet)
    assert any("1 of 24 weights are subnormal in float16 (most in bias" in decision for decision in loud)


def test_the_recipe_keeps_what_it_names(batches: TokenBatches) -> None:
    types = types_of(fp16.convert(graph(), batches, ("layer.0.",)))
    assert types["layer.0.ffn/Mul"] == "FLOAT"
    assert types["layer.1.act/Gelu"] == "FLOAT16"


def test_bfloat16_has_the_range_and_needs_no_audit(batches: TokenBatches) -> None:
    types = types_of(bf16.convert(graph("1,1,1,30000"), batches, ()))
    assert types["layer.0.ffn/Mul"] == "BFLOAT16"
    assert types["module.1/ReduceSum"] == "FLOAT"


def test_converting_leaves_the_source_as_it_was(batches: TokenBatches) -> None:
    source = graph()
    before = source.to_bytes()
    fp16.convert(source, batches, ())
    assert source.to_bytes() == before


def test_the_audit_is_written_down_with_the_largest_first() -> None:
    largest = {f"node {place:02}": float(place) for place in range(40)} | {"hot": 30000.0, "endless": float("inf")}
    found = fp16.Audit(largest, 582, "ab" * 32).to_dict()
    assert found["largest"][:3] == [
        {"node": "endless", "value": None, "float32": True},
        {"node": "hot", "value": 30000.0, "float32": True},
        {"node": "node 39", "value": 39.0, "float32": False},
    ]
    assert (found["nodes"], found["kept_in_float32"], len(found["largest"])) == (42, 2, 20)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "so 2 nodes stay float32." in Audit.model_validate(found).summary
