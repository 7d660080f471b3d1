"""Batches and padding, without a tokenizer's help."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from exporter.runtime.tokens import (
    ENOUGH_TOKENS,
    MOST_PADDING,
    TextTokenizer,
    batches_by_length,
    batches_of_little_padding,
)


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


@pytest.mark.parametrize(
    ("lengths", "first"),
    [
        pytest.param([64] * 70 + [0] * 40, 80, id="an eighth of padding is allowed"),
        pytest.param([64] * 69 + [63] + [0] * 40, 79, id="and one token more of it is not"),
        pytest.param([64] + [10] * 200, 64, id="4,096 tokens are enough"),
        pytest.param([65] + [10] * 200, 64, id="63 rows of 65 are not"),
    ],
)
def test_a_batch_of_enough_tokens_ends_where_more_than_an_eighth_would_be_padding(
    lengths: list[int], first: int
) -> None:
    batch, *_ = batches_by_length(lengths, batch_size=256, token_budget=256 * 128)
    assert len(batch) == first


@pytest.mark.parametrize(("lengths", "sizes"), [([0, 0, 0], [3]), ([1, 1, 1, 1, 1], [3, 2])])
def test_rows_of_nothing_count_as_one_token_each(lengths: list[int], sizes: list[int]) -> None:
    assert [len(batch) for batch in batches_by_length(lengths, batch_size=8, token_budget=3)] == sizes


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


@pytest.mark.parametrize(
    ("lengths", "token_budget", "padding_tokens", "sizes"),
    [
        pytest.param([4, 4, 4], 12, 0, [3], id="a batch may be as large as its budget"),
        pytest.param([4, 4, 4], 11, 0, [2, 1], id="and no larger"),
        pytest.param([4, 3], 100, 1, [2], id="it may hold as much padding as is allowed"),
        pytest.param([4, 2], 100, 1, [1, 1], id="and no more"),
        pytest.param([50, 40], 1000, 0, [2], id="or a tenth of its tokens"),
        pytest.param([55, 44], 1000, 0, [2], id="a tenth exactly"),
        pytest.param([50, 39], 1000, 0, [1, 1], id="and no more than that"),
        pytest.param([9, 8], 1000, 1, [2], id="a tenth is rounded down"),
        pytest.param([6, 5], 1000, 0, [2], id="of twelve tokens one may be padding"),
        pytest.param([5, 5, 4, 4, 3], 1000, 0, [4, 1], id="of twenty two, and of twenty-five no four"),
    ],
)
def test_a_batch_ends_at_its_bounds(
    lengths: list[int], token_budget: int, padding_tokens: int, sizes: list[int]
) -> None:
    batches = batches_of_little_padding(lengths, batch_size=8, token_budget=token_budget, padding_tokens=padding_tokens)
    assert [len(batch) for batch in batches] == sizes


def test_one_long_row_does_not_lengthen_the_others() -> None:
    lengths = [10, 250, 11, 9, 12]
    batches = list(batches_of_little_padding(lengths, batch_size=32, token_budget=4096, padding_tokens=16))
    assert batches == [[1], [4, 2, 0, 3]]


def word_tokenizer(**padding: object) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    if padding:
        tokenizer.enable_padding(**padding)
    return tokenizer


@pytest.mark.parametrize(("width", "columns"), [(None, 3), (2, 3), (5, 5)])
def test_rows_are_padded_to_the_width_or_the_longest(width: int | None, columns: int) -> None:
    ids, mask = TextTokenizer(word_tokenizer()).pad([[4, 5, 6], [7]], width)
    assert ids.shape == mask.shape == (2, columns)
    assert ids.dtype == mask.dtype == np.int64
    np.testing.assert_array_equal(ids[:, :3], [[4, 5, 6], [7, 0, 0]])
    np.testing.assert_array_equal(mask[:, :3], [[1, 1, 1], [1, 0, 0]])
    assert not ids[:, 3:].any()
    assert not mask[:, 3:].any()


@pytest.mark.parametrize(("width", "columns"), [(None, 3), (2, 3), (5, 5)])
def test_a_tokenizer_that_pads_on_the_left_has_its_rows_end_at_the_right(width: int | None, columns: int) -> None:
    tokenizer = TextTokenizer(word_tokenizer(direction="left", pad_id=9))
    assert tokenizer.padding == "left"
    ids, mask = tokenizer.pad([[4, 5, 6], [7]], width)
    assert ids.shape == mask.shape == (2, columns)
    assert ids.dtype == mask.dtype == np.int64
    assert mask.flags["C_CONTIGUOUS"]  # engines take memory as it lies
    np.testing.assert_array_equal(ids[:, -3:], [[4, 5, 6], [9, 9, 7]])
    np.testing.assert_array_equal(mask[:, -3:], [[1, 1, 1], [0, 0, 1]])
    assert (ids[:, :-3] == 9).all()
    assert not mask[:, :-3].any()


def test_a_tokenizer_that_pads_on_the_right_keeps_its_padding_token() -> None:
    tokenizer = TextTokenizer(word_tokenizer(direction="right", pad_id=9))
    assert tokenizer.padding == "right"
    np.testing.assert_array_equal(tokenizer.pad([[4, 5], [7]])[0], [[4, 5], [7, 9]])


def test_a_tokenizer_that_does_not_pad_is_padded_on_the_right_with_zeros() -> None:
    tokenizer = TextTokenizer(word_tokenizer())
    assert tokenizer.padding == "right"
    np.testing.assert_array_equal(tokenizer.pad([[4, 5], [7]])[0], [[4, 5], [7, 0]])


def test_ids_are_not_padded_and_the_callers_tokenizer_keeps_its_padding() -> None:
    given = word_tokenizer(direction="left", pad_id=9)
    assert TextTokenizer(given).ids(["a b c", "", "b"]) == [[0, 1, 2], [], [1]]
    assert given.padding is not None


def test_rows_without_tokens_are_all_padding() -> None:
    ids, mask = TextTokenizer(word_tokenizer()).pad([[], []], 0)
    assert ids.shape == mask.shape == (2, 0)
