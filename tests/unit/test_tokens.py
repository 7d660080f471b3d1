from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.tokens import ENOUGH_TOKENS, MOST_PADDING, batches_by_length


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
