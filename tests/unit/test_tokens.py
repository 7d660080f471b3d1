"""Batches and padding, without a tokenizer's help."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from exporter.tokens import TextTokenizer, batches_of_little_padding


def padding(lengths: list[int], batch: list[int]) -> int:
    return max(lengths[row] for row in batch) * len(batch) - sum(lengths[row] for row in batch)


@given(
    lengths=st.lists(st.integers(1, 256), max_size=60),
    batch_size=st.integers(1, 16),
    token_budget=st.integers(1, 2000),
    padding_tokens=st.integers(0, 300),
)
def test_every_row_is_in_one_batch_and_every_bound_holds(
    lengths: list[int], batch_size: int, token_budget: int, padding_tokens: int
) -> None:
    bounds = {"batch_size": batch_size, "token_budget": token_budget, "padding_tokens": padding_tokens}
    batches = list(batches_of_little_padding(lengths, **bounds))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= batch_size
        padded = max(lengths[row] for row in batch) * len(batch)
        assert padded <= token_budget or len(batch) == 1
        assert padding(lengths, batch) <= max(padding_tokens, padded // 10)


def test_one_long_row_does_not_lengthen_the_others() -> None:
    lengths = [10, 250, 11, 9, 12]
    batches = list(batches_of_little_padding(lengths, batch_size=32, token_budget=4096, padding_tokens=16))
    assert batches == [[1], [4, 2, 0, 3]]


@pytest.mark.parametrize(("width", "columns"), [(None, 3), (2, 3), (5, 5)])
def test_rows_are_padded_to_the_width_or_the_longest(width: int | None, columns: int) -> None:
    tokenizer = TextTokenizer(Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    ids, mask = tokenizer.pad([[4, 5, 6], [7]], width)
    assert ids.shape == mask.shape == (2, columns)
    np.testing.assert_array_equal(ids[:, :3], [[4, 5, 6], [7, 0, 0]])
    assert mask.sum(axis=1).tolist() == [3, 1]
