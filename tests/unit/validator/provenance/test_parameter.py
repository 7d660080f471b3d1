"""In which shapes a file may hold a parameter, and how many of its numbers a sentence vector depends on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from exporter.validator.provenance.parameter import Parameter

TABLE = np.arange(6, dtype=np.float32).reshape(2, 3)
SQUARE = np.arange(4, dtype=np.float32).reshape(2, 2)
SOLID = TABLE.reshape(1, 2, 3)
ROW = TABLE[:1]


@pytest.mark.parametrize(
    ("values", "rows", "shape", "expected"),
    [
        (TABLE, None, (2, 3), [("identity", TABLE, None)]),
        (TABLE, None, (3, 2), [("transpose", TABLE.T, None)]),
        (TABLE, None, (1, 6), [("reshape", TABLE.reshape(1, 6), None)]),
        (TABLE, None, (3,), []),
        (TABLE, None, (7,), []),
        (TABLE[0], None, (3,), [("identity", TABLE[0], None)]),
        (SQUARE, None, (2, 2), [("identity", SQUARE, None), ("transpose", SQUARE.T, None)]),
        (SOLID, None, (1, 2, 3), [("identity", SOLID, None)]),
        (SOLID, None, (3, 2, 1), [("reshape", SOLID.reshape(3, 2, 1), None)]),
        (TABLE, (1,), (3,), [("row 1", TABLE[1], 1)]),
        (TABLE, (1,), (1, 3), [("row 1", TABLE[1:], 1)]),
        (TABLE, (0, 1), (3,), [("row 0", TABLE[0], 0), ("row 1", TABLE[1], 1)]),
        (TABLE, (1,), (2, 3), [("identity", TABLE, None)]),
        (ROW, (0,), (3,), [("row 0", ROW[0], 0), ("reshape", ROW[0], None)]),
    ],
)
def test_the_views_of_a_shape(
    values: npt.NDArray[np.float32],
    rows: tuple[int, ...] | None,
    shape: tuple[int, ...],
    expected: list[tuple[str, npt.NDArray[np.float32], int | None]],
) -> None:
    parameter = Parameter("p", values, rows)
    views = list(parameter.views(shape))
    assert [(view.step, view.row) for view in views] == [(step, row) for step, _, row in expected]
    for view, (_, wanted, _) in zip(views, expected, strict=True):
        np.testing.assert_array_equal(view.values, wanted, strict=True)
        assert np.shares_memory(view.values, values)
        assert view.parameter is parameter


@pytest.mark.parametrize(
    ("values", "rows", "needed"),
    [(TABLE, None, 6), (TABLE, (1,), 3), (TABLE, (0, 1), 6), (ROW, (0,), 3), (TABLE[0], None, 3)],
)
def test_a_vector_depends_on_the_fixed_rows_alone_where_there_are_any(
    values: npt.NDArray[np.float32], rows: tuple[int, ...] | None, needed: int
) -> None:
    assert Parameter("p", values, rows).needed == needed
