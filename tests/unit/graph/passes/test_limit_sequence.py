from __future__ import annotations

import numpy as np
import pytest

from exporter.graph.passes.limit_sequence import limit_sequence
from tests.support.graphs import evaluate, model_of

GATHER = """
g (int64[B,S] input_ids) => (float[B,S,1] y) <float[3,1] table = {1,2,3}> { y = Gather<axis = 0>(table, input_ids) }
"""


def test_up_to_the_limit_nothing_changes_and_beyond_it_the_run_fails() -> None:
    model = model_of(GATHER)
    model.metadata_props["max_sequence"] = "4"
    (before,) = evaluate(model, {"input_ids": np.array([[0, 1, 2, 0]])})
    assert limit_sequence(model) == 1
    np.testing.assert_array_equal(evaluate(model, {"input_ids": np.array([[0, 1, 2, 0]])})[0], before)
    for length in (1, 4):
        assert evaluate(model, {"input_ids": np.zeros((2, length), dtype=np.int64)})[0].shape == (2, length, 1)
    with pytest.raises(ValueError, match="reshape"):
        evaluate(model, {"input_ids": np.zeros((2, 5), dtype=np.int64)})


def test_without_a_stated_limit_there_is_no_guard() -> None:
    assert limit_sequence(model_of(GATHER)) == 0
