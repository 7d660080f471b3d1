from __future__ import annotations

from itertools import pairwise

import pytest

from exporter.validator.dataflow.widths import chosen_widths, differing_widths
from tests.support.graphs import model_of

LONGEST = 12


def differing(body: str) -> list[int]:
    """Return the widths at which ``value`` differs, which ``body`` computes from the width and some numbers."""
    model = model_of(f"""
    g (int64[B,S] input_ids, int64[B,S] attention_mask) => (int64[B,S] y)
    <int64 zero = {{0}}, int64 one = {{1}}, int64 seven = {{7}}, int64 twelve = {{12}}, int64[1] first = {{0}}> {{
      width = Shape<start = 1, end = 2>(input_ids)
      number = Squeeze(width)
      range = Range(zero, number, one)
      {body}
      y = Identity(input_ids)
    }}
    """)
    value = next(node.outputs[0] for node in model.graph if node.outputs[0].name == "value")
    found = differing_widths(model, value, LONGEST)
    assert found.widths == LONGEST
    return found.wrong


def test_all_widths_are_compared_unless_that_is_too_much_work() -> None:
    assert chosen_widths(512, lambda width: width**2) == list(range(1, 513))
    widths = chosen_widths(8192, lambda width: width**2)
    assert widths[:256] == list(range(1, 257))
    assert widths[-1] == 8192
    assert 2**30 < sum(width**2 for width in widths) < 1.05 * 2**31
    assert {second - first for first, second in pairwise(widths[300:])} == {86}


def test_positions_agree_at_all_widths() -> None:
    assert differing("value = Unsqueeze(range, first)") == []


def test_a_number_agrees_with_itself() -> None:
    assert differing("value = Identity(seven)") == []


def test_distances_have_two_axes_of_tokens() -> None:
    body = "axis = Unsqueeze(one, first)\n row = Unsqueeze(range, first)\n column = Unsqueeze(range, axis)"
    assert differing(f"{body}\n value = Sub(column, row)") == []


def test_a_value_that_differs_at_one_width() -> None:
    body = "same = Equal(number, seven)\n moved = Add(range, one)\n value = Where(same, moved, range)"
    assert differing(body) == [7]


def test_a_value_that_differs_at_the_longest() -> None:
    """It is what all others are compared with."""
    body = "same = Equal(number, twelve)\n moved = Add(range, one)\n value = Where(same, moved, range)"
    assert differing(body) == list(range(1, LONGEST))


def test_a_value_that_differs_at_one_token() -> None:
    body = "same = Equal(number, one)\n moved = Add(range, one)\n value = Where(same, moved, range)"
    assert differing(body) == [1]


def test_a_value_that_counts_from_the_end() -> None:
    """No width but the longest agrees."""
    assert differing("value = Sub(number, range)") == list(range(1, LONGEST))


def test_a_number_that_is_the_width() -> None:
    assert differing("value = Identity(number)") == list(range(1, LONGEST))


def test_a_value_of_another_rank() -> None:
    """Its numbers are the same, and at one width there is an axis more."""
    body = """
      flag = Equal(number, seven)
      extra = Cast<to = 7>(flag)
      list = Unsqueeze(extra, first)
      ones = Expand(one, list)
      shape = Concat<axis = 0>(ones, width)
      value = Reshape(range, shape)
    """
    assert differing(body) == [7]


def test_an_axis_that_is_neither_the_width_nor_fixed() -> None:
    """The numbers agree, and there are seven of them at most: below that the width decides how many."""
    assert differing("end = Min(number, seven)\n value = Range(zero, end, one)") == [1, 2, 3, 4, 5, 6]


def test_an_axis_as_long_as_twice_the_width() -> None:
    assert differing("end = Add(number, number)\n value = Range(zero, end, one)") == list(range(1, LONGEST))


def test_a_value_that_is_not_a_number() -> None:
    """NaN equals nothing: a value that has one is reported."""
    body = "f = Cast<to = 1>(zero)\n nan = Div(f, f)\n value = Expand(nan, width)"
    assert differing(body) == list(range(1, LONGEST))


@pytest.mark.parametrize("reads", ["input_ids", "attention_mask"])
def test_a_value_that_reads_one_input(reads: str) -> None:
    body = f"w = Shape<start = 1, end = 2>({reads})\n n = Squeeze(w)\n value = Range(zero, n, one)"
    assert differing(body) == []


def test_a_value_that_reads_both_inputs() -> None:
    body = "w = Shape<start = 1, end = 2>(attention_mask)\n value = Concat<axis = 0>(w, width)"
    assert differing(body) == list(range(1, LONGEST))


def test_a_value_that_reads_no_input() -> None:
    assert differing("value = Range(zero, seven, one)") == []


def test_the_batch_is_one_row_of_ones() -> None:
    """A value that looks at ids is not what this is for: the rules refuse it. Ids are 1, whatever the width."""
    assert differing("value = Identity(input_ids)") == []
    assert differing("value = Shape<start = 0, end = 1>(input_ids)") == []
