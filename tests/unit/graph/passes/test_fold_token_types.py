from __future__ import annotations

import numpy as np
import pytest

from exporter.graph.passes import remove_unused
from exporter.graph.passes.fold_token_types import fold_token_types
from tests.support.graphs import evaluate, model_of, ops

TYPED = """
g (int64[B,S] ids, float[B,S,2] e) => (float[B,S,2] y)
<float[2,2] table = {1,2,3,4}, int64 kind = {KIND}> {
  shape = Shape(ids)
  kinds = Expand(kind, shape)
  row = Gather<axis = 0>(table, kinds)
  y = Add(e, row)
}
"""
FEEDS: dict[str, np.ndarray] = {
    "ids": np.ones((2, 3), dtype=np.int64),
    "e": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
}


@pytest.mark.parametrize("kind", [0, 1])
def test_a_constant_type_becomes_one_row(kind: int) -> None:
    model = model_of(TYPED.replace("KIND", str(kind)))
    (before,) = evaluate(model, FEEDS)
    assert fold_token_types(model) == 1
    remove_unused(model)
    assert ops(model) == ["Add"]
    np.testing.assert_array_equal(evaluate(model, FEEDS)[0], before)


def test_types_that_vary_are_left_alone() -> None:
    model = model_of(
        """g (int64[B,S] kinds, float[B,S,2] e) => (float[B,S,2] y) <float[2,2] table = {1,2,3,4}> {
             row = Gather<axis = 0>(table, kinds)
             y = Add(e, row)
           }"""
    )
    assert fold_token_types(model) == 0


def test_a_gather_along_another_axis_is_left_alone() -> None:
    text = TYPED.replace("KIND", "0").replace("axis = 0", "axis = 1").replace("y = Add(e, row)", "y = Identity(e)")
    assert fold_token_types(model_of(text)) == 0


@pytest.mark.parametrize(
    "reader",
    [
        "y = Concat<axis = 0>(e, row)",
        "y = Mul(e, row)",
        "flat = ReduceMean<keepdims = 0>(e, last)\n y = Add(row, row)",
    ],
)
def test_a_row_that_is_read_otherwise_is_left_alone(reader: str) -> None:
    """One row broadcasts to the same sum with three axes, and to something else anywhere else."""
    text = TYPED.replace("KIND", "0").replace("y = Add(e, row)", reader)
    text = text.replace("int64 kind = {0}", "int64 kind = {0}, int64[1] last = {2}")
    text = text.replace("=> (float[B,S,2] y)", "=> (float[M,S,2] y)")
    assert fold_token_types(model_of(text)) == 0
