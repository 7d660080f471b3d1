"""Attention by lengths: fires on the padding mask, not on near misses, and answers what the mask did."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from exporter.graph import Graph
from exporter.graph.passes import passes_for, remove_unused
from exporter.graph.passes.attention_lengths import attention_lengths
from exporter.graph.passes.decompose_attention import decompose_attention
from exporter.graph.passes.first_token import first_token
from exporter.graph.passes.split_heads_inside import split_heads_inside
from tests.support.graphs import evaluate, model_of, ops

BODY = """
g (int64[B,S] input_ids, int64[B,S] attention_mask, float[B,2,S,4] q) => (float[B,2,S,4] y)
<int64[2] axes = {1, 2}, int64[1] one = {1}> {
  bools = Cast<to = 9>(attention_mask)
  rows = Unsqueeze(bools, axes)
  length = Shape<start = 1, end = 2>(attention_mask)
  square = Concat<axis = 0>(one, one, length, one)
  mask = Expand(rows, square)
  first = Attention<scale = 0.25>(q, q, q, mask)
  y = Attention(first, q, q, mask)
}
"""


def feeds() -> dict[str, np.ndarray]:
    mask = (np.arange(6) < np.array([[6], [4], [1]])).astype(np.int64)
    q = np.random.default_rng(0).standard_normal((3, 2, 6, 4)).astype(np.float32)
    return {"input_ids": np.ones((3, 6), dtype=np.int64), "attention_mask": mask, "q": q}


def run(model: ir.Model) -> np.ndarray:
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    y: np.ndarray = session.run(None, feeds())[0]
    return y


def evaluated_alone(model: ir.Model) -> np.ndarray:
    """Evaluate each row alone: before 1.23, onnx's reference adds a mask of lengths to batches of one row only."""
    given = feeds()
    rows = range(len(given["input_ids"]))
    return np.concatenate(
        [evaluate(model, {name: array[row : row + 1] for name, array in given.items()})[0] for row in rows]
    )


def test_it_fires_on_the_padding_mask_and_keeps_the_numbers() -> None:
    model = model_of(BODY)
    wanted, ran = evaluated_alone(model), run(model)
    assert attention_lengths(model) == 2
    remove_unused(model)
    assert ops(model) == ["ReduceSum", "Attention", "Attention"]
    assert model.graph[1].attributes.get_float("scale", 0.0) == 0.25
    assert model.metadata_props["padding"] == "right"
    assert Graph(model, dimension=1, max_sequence=6).lengths
    assert not Graph(model_of(BODY), dimension=1, max_sequence=6).lengths
    assert model.graph.opset_imports[""] == 24
    np.testing.assert_array_equal(run(model), ran)  # onnxruntime: to the last bit
    np.testing.assert_allclose(evaluated_alone(model), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("of", "becomes"),
    [
        ("rows = Unsqueeze(bools, axes)", "open = Unsqueeze(bools, axes)\n rows = Not(open)"),
        ("mask = Expand(rows, square)", "wide = Expand(rows, square)\n mask = Not(wide)"),
        ("mask = Expand(rows, square)", "wide = Expand(rows, square)\n mask = Cast<to = 1>(wide)"),
        ("bools = Cast<to = 9>(attention_mask)", "bools = Cast<to = 9>(input_ids)"),
    ],
    ids=["inverted", "inverted after", "added to the scores", "of the ids"],
)
def test_another_mask_is_left_alone(of: str, becomes: str) -> None:
    model = model_of(BODY.replace(of, becomes))
    before = ops(model)
    assert attention_lengths(model) == 0
    assert ops(model) == before
    assert "padding" not in model.metadata_props


def test_without_a_mask_there_is_nothing_to_do() -> None:
    assert (
        attention_lengths(
            model_of(BODY.replace("(q, q, q, mask)", "(q, q, q)").replace("first, q, q, mask", "first, q, q"))
        )
        == 0
    )


class TestTargets:
    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    @pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
    def test_half_precision_on_a_gpu_takes_lengths_and_drops_the_mask(self, backend: str, precision: str) -> None:
        first, *_, last = passes_for(backend, "cuda", precision)
        assert (first, last) == (attention_lengths, remove_unused)

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
    def test_onnxruntime_on_a_gpu_finds_the_first_token_by_its_position(self, precision: str) -> None:
        assert first_token in passes_for("onnxruntime", "cuda", precision)
        assert first_token not in passes_for("onnxruntime", "cuda", precision, padding="left")
        assert first_token not in passes_for("onnxruntime", "cpu", precision)

    def test_masks_that_are_no_lengths_are_written_out_for_tensorrt(self) -> None:
        wanted = (attention_lengths, decompose_attention, remove_unused)
        assert passes_for("tensorrt-rtx", "cuda", "fp16") == wanted

    def test_a_tokenizer_that_pads_left_keeps_the_mask(self) -> None:
        assert passes_for("onnxruntime", "cuda", "fp16", padding="left") == (split_heads_inside, remove_unused)
        assert passes_for("tensorrt-rtx", "cuda", "fp16", padding="left") == (decompose_attention, remove_unused)

    def test_an_older_tensorrt_keeps_the_mask_and_one_from_before_the_operator_has_it_written_out(self) -> None:
        assert passes_for("tensorrt", "cuda", "fp16", missing={"nonpad_kv_seqlen"}) == ()
        rewrites = passes_for("tensorrt", "cuda", "fp16", missing={"Attention"})
        assert rewrites == (decompose_attention, remove_unused)

    @pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
    def test_float32_is_written_out_for_tensorrt(self, backend: str) -> None:
        for missing in (set[str](), {"nonpad_kv_seqlen"}):
            assert passes_for(backend, "cuda", "fp32", missing=missing) == (decompose_attention, remove_unused)

    def test_a_target_that_there_is_not(self) -> None:
        with pytest.raises(KeyError, match="tpu"):
            passes_for("onnxruntime", "tpu", "fp32")
