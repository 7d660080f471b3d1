from __future__ import annotations

import numpy as np
import pytest

from exporter.engines.padding import refuse_other_than_right_padding
from exporter.errors import EngineError


@pytest.mark.parametrize("mask", [[[1]], [[1, 1, 1]], [[1, 0, 0], [1, 1, 1]], [[1, 1, 0], [1, 0, 0]]])
def test_right_padding_passes(mask: list[list[int]]) -> None:
    refuse_other_than_right_padding(np.array(mask, dtype=np.int64))


@pytest.mark.parametrize(
    "row", [[0, 1, 1], [0, 0, 1], [1, 0, 1], [0, 0, 0]], ids=["left", "far left", "a hole", "no token"]
)
@pytest.mark.parametrize("place", [0, 2])
def test_anything_else_is_refused_and_the_row_is_named(row: list[int], place: int) -> None:
    mask = np.ones((3, 3), dtype=np.int64)
    mask[place] = row
    with pytest.raises(EngineError, match=f"row {place} of the batch has padding before or between its tokens"):
        refuse_other_than_right_padding(mask)
