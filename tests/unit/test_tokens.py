"""Batches and padding, without a tokenizer's help."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from exporter.tokens import ENOUGH_TOKENS, MOST_PADDING, TextTokenizer, batches_by_length, batches_of_little_padding


@given(st.lists(st.integers(0, 512), max_size=400), st.integers(1, 300), st.integers(1, 40_000))
def test_every_row_once_longest_first_within_both_limits(lengths: list[int], batch_size: int, budget: int) -> None:
    batches = list(batches_by_length(lengths, batch_size=batch_size, token_budget=budget))
    in_order = [lengths[row] for batch in batches for row in batch]
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert in_order == sorted(lengths, reverse=True)
    for batch in batches:
        longest = max(1, lengths[batch[0]])
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * longest <= budget
        padding = 1 - sum(lengths[row] for row in batch) / (len(batch) * longest)
        assert padding <= MOST_PADDING or (len(batch) - 1) * longest < ENOUGH_TOKENS


def test_a_few_long_rows_do_not_drag_many_short_ones_along() -> None:
    lengths = [64] * 64 + [8] * 192
    first, second = batches_by_length(lengths, batch_size=256, token_budget=256 * 128)
    assert 64 <= len(first) < 80
    assert {lengths[row] for row in second} == {8}


def test_a_small_batch_is_filled_whatever_its_padding() -> None:
    lengths = [64] + [8] * 31
    assert [len(batch) for batch in batches_by_length(lengths, batch_size=32, token_budget=32 * 128)] == [32]


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
