"""Heads split inside attention: fires on the exporter's transposes, not on near misses, and keeps the numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from exporter.graph.passes import remove_unused
from exporter.graph.passes.split_heads_inside import split_heads_inside
from tests.support.graphs import evaluate, model_of, ops

BODY = """
g (float[B,S,8] q, float[B,S,8] k, float[B,S,8] v, bool[B,1,1,S] mask) => (float[B,S,8] y)
<int64[4] heads = {0, 0, 2, 4}, int64[3] rows = {0, 0, 8}> {
  q0 = Reshape(q, heads)
  q1 = Transpose<perm = [0, 2, 1, 3]>(q0)
  k0 = Reshape(k, heads)
  k1 = Transpose<perm = [0, 2, 1, 3]>(k0)
  v0 = Reshape(v, heads)
  v1 = Transpose<perm = [0, 2, 1, 3]>(v0)
  square = Expand(mask, shape)
  found = Attention<scale = 0.3>(q1, k1, v1, square)
  back = Transpose<perm = [0, 2, 1, 3]>(found)
  joined = Reshape(back, rows)
  y = Neg(joined)
}
""".replace("int64[3] rows", "int64[4] shape = {1, 1, 5, 1}, int64[3] rows")


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((3, 5, 8)).astype(np.float32) for name in "qkv"}
    return {**arrays, "mask": (np.arange(5) < np.array([[5], [2], [1]]))[:, None, None]}


def run(model: ir.Model) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    y: np.ndarray = session.run(None, feeds())[0]
    return y


def test_it_fires_and_keeps_the_numbers() -> None:
    model = model_of(BODY)
    wanted, ran = evaluate(model, feeds())[0], run(model)
    assert split_heads_inside(model) == 1
    remove_unused(model)
    assert ops(model) == ["Expand", "Attention", "Neg"]
    attention = model.graph[1]
    assert attention.attributes.get_int("q_num_heads", 0) == attention.attributes.get_int("kv_num_heads", 0) == 2
    assert attention.attributes.get_float("scale", 0.0) == pytest.approx(0.3)
    np.testing.assert_allclose(evaluate(model, feeds())[0], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(model), ran, rtol=1e-5, atol=1e-6)


def test_keys_that_are_the_queries_are_taken_from_the_queries() -> None:
    model = model_of(BODY.replace("Transpose<perm = [0, 2, 1, 3]>(k0)", "Transpose<perm = [0, 2, 1, 3]>(q0)"))
    wanted = evaluate(model, feeds())[0]
    assert split_heads_inside(model) == 1
    remove_unused(model)
    np.testing.assert_allclose(evaluate(model, feeds())[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("of", "becomes"),
    [
        ("v1 = Transpose<perm = [0, 2, 1, 3]>(v0)", "v2 = Transpose<perm = [0, 2, 1, 3]>(v0)\n v1 = Neg(v2)"),
        (
            "back = Transpose<perm = [0, 2, 1, 3]>(found)",
            "turned = Neg(found)\n back = Transpose<perm = [0, 2, 1, 3]>(turned)",
        ),
        ("y = Neg(joined)", "other = ReduceSum<keepdims = 0>(found)\n y = Add(joined, other)"),
        ("y = Neg(joined)", "other = ReduceSum<keepdims = 0>(back)\n y = Add(joined, other)"),
    ],
    ids=["values changed after the split", "answers changed before the join", "read with heads", "read before joining"],
)
def test_what_computes_in_between_is_left_alone(of: str, becomes: str) -> None:
    model = model_of(BODY.replace(of, becomes))
    before = ops(model)
    assert split_heads_inside(model) == 0
    assert ops(model) == before


def test_tokens_that_are_regrouped_are_left_alone() -> None:
    """Local attention: windows of four tokens have heads of their own."""
    windows = BODY.replace("heads = {0, 0, 2, 4}", "heads = {-1, 4, 2, 4}").replace(
        "rows = {0, 0, 8}", "rows = {-1, 8, 8}"
    )
    windows = (
        windows.replace("[B,S,8]", "[B,8,8]").replace("square = Expand(mask, shape)", "").replace(", square)", ")")
    )
    model = model_of(windows)
    before = ops(model)
    assert split_heads_inside(model) == 0
    assert ops(model) == before


def test_heads_that_are_swapped_otherwise_are_left_alone() -> None:
    square = BODY.replace("heads = {0, 0, 2, 4}", "heads = {0, 0, 2, 4}, int64[4] mixed = {3, 2, 5, 4}")
    model = model_of(
        square.replace("v0 = Reshape(v, heads)\n  v1 = Transpose<perm = [0, 2, 1, 3]>(v0)", "v1 = Reshape(v, mixed)")
    )
    assert split_heads_inside(model) == 0
