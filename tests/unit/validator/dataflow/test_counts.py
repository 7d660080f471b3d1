"""Numbers from the attention mask are those that poolings need, for every number of tokens at every width."""

from __future__ import annotations

import pytest

from exporter.validator.dataflow.counts import unknown_numbers
from tests.support.graphs import model_of

LONGEST = 12
SUM = "value = ReduceSum<keepdims = 0>(attention_mask, one)"


def unknown(body: str) -> list[int]:
    """Return the widths at which ``value``, which ``body`` computes from the mask, is no known number."""
    model = model_of(f"""
    g (int64[B,S] input_ids, int64[B,S] attention_mask) => (int64[B,S] y)
    <int64[1] one = {{1}}, int64[1] two = {{2}}, int64 zero = {{0}}, int64 step = {{1}}, int64[1] seven = {{7}},
     int64[3] wide = {{1, 1, 5}}> {{
      width = Shape<start = 1, end = 2>(attention_mask)
      {body}
      y = Identity(input_ids)
    }}
    """)
    value = next(node.outputs[0] for node in model.graph if node.outputs[0].name == "value")
    found = unknown_numbers(model, value, LONGEST)
    assert found.widths == LONGEST
    return found.wrong


KNOWN = {
    "first token": "value = ArgMax<axis = 1>(attention_mask)",
    "last token": f"{SUM.replace('value', 'n')}\n f = ArgMax<axis=1, keepdims=0>(attention_mask)\n"
    "s = Add(n, f)\n value = Sub(s, one)",
    "tokens": SUM,
    "root": f"{SUM.replace('value', 'n')}\n f = Cast<to = 1>(n)\n value = Sqrt(f)",
    "ranks": "c = CumSum(attention_mask, one)\n value = Mul(c, attention_mask)",
    "sum of ranks": "c = CumSum(attention_mask, one)\n r = Mul(c, attention_mask)\n"
    "value = ReduceSum<keepdims = 1>(r, one)",
    "repeated": "n = ReduceSum<keepdims = 1>(attention_mask, one)\n c = Unsqueeze(n, two)\n value = Expand(c, wide)",
}


@pytest.mark.parametrize("body", KNOWN.values(), ids=KNOWN)
def test_numbers_that_poolings_need(body: str) -> None:
    assert unknown(body) == []


def test_a_number_that_differs_for_one_number_of_tokens() -> None:
    body = "n = ReduceSum<keepdims = 0>(attention_mask, one)\n e = Equal(n, seven)\n i = Cast<to = 7>(e)"
    assert unknown(f"{body}\n value = Add(n, i)") == [7, 8, 9, 10, 11, 12]


def test_a_number_that_differs_at_one_width() -> None:
    body = "n = ReduceSum<keepdims = 0>(attention_mask, one)\n e = Equal(width, seven)\n i = Cast<to = 7>(e)"
    assert unknown(f"{body}\n value = Add(n, i)") == [7]


def test_a_number_that_is_another_known_one_at_one_width() -> None:
    body = "n = ReduceSum<keepdims = 0>(attention_mask, one)\n f = ArgMax<axis = 1, keepdims = 0>(attention_mask)"
    assert unknown(f"{body}\n e = Equal(width, seven)\n value = Where(e, f, n)") == [7]


def test_the_number_of_padding_tokens() -> None:
    """At width 1 there is none, which is the place of the first token."""
    body = "n = ReduceSum<keepdims = 0>(attention_mask, one)\n value = Sub(width, n)"
    assert unknown(body) == list(range(2, LONGEST + 1))


def test_the_last_place_of_a_row_that_is_padded_on_the_right_alone() -> None:
    """At width 1 it is the place of the first token."""
    assert unknown(f"{SUM.replace('value', 'n')}\n value = Sub(n, one)") == list(range(2, LONGEST + 1))


def test_a_number_for_the_batch() -> None:
    assert 12 in unknown("value = ReduceSum<keepdims = 0>(attention_mask)")
