"""The first token by its position: fires on the search in the mask, not on near misses, and gives the same vectors."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.graph.passes import remove_unused
from exporter.graph.passes.first_token import first_token
from tests.support.graphs import evaluate, model_of, ops

BODY = """
g (int64[B,S] input_ids, int64[B,S] attention_mask, float[B,S,4] hidden) => (float[B,4] y)
<int64[1] one = {1}, int64[1] last = {-1}, int64[3] wide = {1, 1, 4}> {
  integers = Cast<to = 6>(attention_mask)
  position = ArgMax<axis = 1, keepdims = 0, select_last_index = 0>(integers)
  rows = Unsqueeze(position, one)
  cells = Unsqueeze(rows, last)
  index = Expand(cells, wide)
  first = GatherElements<axis = 1>(hidden, index)
  y = Squeeze(first, one)
}
"""


def feeds() -> dict[str, np.ndarray]:
    mask = (np.arange(6) < np.array([[6], [4], [1]])).astype(np.int64)
    hidden = np.random.default_rng(0).standard_normal((3, 6, 4)).astype(np.float32)
    return {"input_ids": np.ones((3, 6), dtype=np.int64), "attention_mask": mask, "hidden": hidden}


def test_it_gathers_position_zero_and_keeps_the_numbers() -> None:
    model = model_of(BODY)
    (wanted,) = evaluate(model, feeds())
    assert first_token(model) == 1
    remove_unused(model)
    assert ops(model) == ["Gather", "Squeeze"]
    assert model.metadata_props["padding"] == "right"
    np.testing.assert_array_equal(evaluate(model, feeds())[0], wanted)


@pytest.mark.parametrize(
    ("of", "becomes"),
    [
        ("select_last_index = 0", "select_last_index = 1"),
        ("Cast<to = 6>(attention_mask)", "Cast<to = 6>(input_ids)"),
        ("integers = Cast<to = 6>(attention_mask)", "plus = Cast<to = 6>(attention_mask)\n integers = Neg(plus)"),
        ("ArgMax<", "ArgMin<"),
    ],
    ids=["the last token", "of the ids", "of the negated mask", "the first padding"],
)
def test_another_position_is_left_alone(of: str, becomes: str) -> None:
    model = model_of(BODY.replace(of, becomes))
    before = ops(model)
    assert first_token(model) == 0
    assert ops(model) == before
    assert "padding" not in model.metadata_props
