from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.precisions.int8.embedding import FEWEST_ROWS, quantize_tables
from tests.support.graphs import evaluate, model_of, ops
from tests.support.surgery import stored_array

BODY = """
g (int64[B,S] ids) => (float[B,S,2] y)
<float[ROWS,2] table = {VALUES}> { y = Gather<axis = 0>(table, ids) }
"""


def table(rows: int, offset: float = 0.0) -> ir.Model:
    values = np.random.default_rng(0).normal(size=(rows, 2)) + offset
    text = ",".join(f"{value:.6f}" for value in values.ravel())
    return model_of(BODY.replace("ROWS", str(rows)).replace("VALUES", text))


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_large_table_is_stored_in_int8_and_rows_come_back(offset: float) -> None:
    model = table(FEWEST_ROWS, offset)
    ids = {"ids": np.array([[0, 5, FEWEST_ROWS - 1]], np.int64)}
    (before,) = evaluate(model, ids)
    assert quantize_tables(model) == 1
    (after,) = evaluate(model, ids)
    # A step is a 127th of what is left of a row without the mean row, however large that mean is.
    np.testing.assert_allclose(after, before, atol=4 / 127)
    large = [v for v in model.graph.initializers.values() if stored_array(v).size > FEWEST_ROWS]
    assert [value.dtype for value in large] == [ir.DataType.INT8]


def test_a_small_table_is_left_alone() -> None:
    model = table(FEWEST_ROWS - 1)
    assert quantize_tables(model) == 0
    assert ops(model) == ["Gather"]


def test_a_table_that_something_else_reads_is_left_alone() -> None:
    text = BODY.replace(
        "y = Gather<axis = 0>(table, ids)",
        "e = Gather<axis = 0>(table, ids)\n s = ReduceSum<keepdims = 0>(table)\n y = Add(e, s)",
    )
    values = ",".join("1.0" for _ in range(2 * FEWEST_ROWS))
    model = model_of(text.replace("ROWS", str(FEWEST_ROWS)).replace("VALUES", values))
    assert quantize_tables(model) == 0


def test_a_gather_along_another_axis_is_left_alone() -> None:
    values = ",".join("1.0" for _ in range(2 * FEWEST_ROWS))
    text = BODY.replace("axis = 0", "axis = 1").replace("float[B,S,2] y", f"float[{FEWEST_ROWS},B,S] y")
    model = model_of(text.replace("ROWS", str(FEWEST_ROWS)).replace("VALUES", values))
    assert quantize_tables(model) == 0
