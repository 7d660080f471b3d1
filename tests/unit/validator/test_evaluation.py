"""A part of a graph is computed for given inputs, whichever of them it reads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.validator.evaluation import evaluator_of
from tests.support.graphs import model_of

IDS, MASK = np.array([[5, 6, 7], [8, 9, 10]]), np.array([[1, 1, 0], [1, 0, 0]])
TEXT = """
g (int64[B,S] input_ids, int64[B,S] attention_mask) => (int64[B] y) <int64[1] axis = {1}> {
  both = Mul(input_ids, attention_mask)
  count = ReduceSum<keepdims = 0>(attention_mask, axis)
  twice = Add(input_ids, input_ids)
  fixed = Identity(axis)
  total = ReduceSum<keepdims = 0>(both, axis)
  y = Sub(total, count)
}
"""


def value(model: ir.Model, name: str) -> ir.Value:
    (found,) = (output for node in model.graph for output in node.outputs if output.name == name)
    return found


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("both", IDS * MASK),
        ("count", MASK.sum(axis=1)),
        ("twice", IDS * 2),
        ("fixed", np.array([1])),
        ("y", (IDS * MASK).sum(axis=1) - MASK.sum(axis=1)),
    ],
)
def test_a_value_is_computed_from_the_inputs_that_it_reads(name: str, wanted: np.ndarray) -> None:
    model = model_of(TEXT)
    evaluate = evaluator_of(model, value(model, name))
    np.testing.assert_array_equal(evaluate(IDS, MASK), wanted)
    assert [node.op_type for node in model.graph] == ["Mul", "ReduceSum", "Add", "Identity", "ReduceSum", "Sub"]


def test_inputs_of_other_shapes_than_each_other_are_computed_anew() -> None:
    model = model_of(TEXT)
    evaluate = evaluator_of(model, value(model, "both"))
    np.testing.assert_array_equal(evaluate(IDS[:, :2], MASK[:, :2]), (IDS * MASK)[:, :2])
    np.testing.assert_array_equal(evaluate(IDS[:1], MASK[:1]), (IDS * MASK)[:1])
