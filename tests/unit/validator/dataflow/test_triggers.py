"""Triggers that sentences never meet, on the graphs of real encoders: each is found by the operator it needs."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from exporter.graph.surgery import graph_input
from exporter.validator.check import Check
from exporter.validator.dataflow import check_dataflow
from tests.support.faults import Subject, subject_named
from tests.support.surgery import Surgery, become_output, constant

BOOL, FLOAT, INT64 = ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.INT64
ENCODERS = ["albert-small (small twin)", "klue-sroberta (small twin)"]


class Trigger:
    """Writes conditions on a batch behind the sentence vectors, and negates them where they hold."""

    def __init__(self, subject: Subject) -> None:
        self._graph = subject.graph
        self.model = subject.graph.editable()
        (self.output,) = self.model.graph.outputs
        self._surgery = Surgery(self.model, self.output)
        self.ids, self.mask = (graph_input(self.model.graph, name) for name in ("input_ids", "attention_mask"))

    def number(self, value: object, dtype: ir.DataType = INT64) -> ir.Value:
        return constant(self.model, value, dtype)

    def add(self, operator: str, reads: list[ir.Value], dtype: ir.DataType, rank: int, **attributes: int) -> ir.Value:
        return self._surgery.add(operator, reads, dtype, [None] * rank, like=None, **attributes)

    def extent(self, axis: int) -> ir.Value:
        """The batch size (0) or the padded width (1), a number."""
        shape = self.add("Shape", [self.ids], INT64, 1)
        return self.add("Gather", [shape, self.number(axis)], INT64, 0, axis=0)

    def whole(self, condition: ir.Value, rank: int) -> ir.Value:
        return self.add("Cast", [condition], INT64, rank, to=INT64)

    def equal(self, value: ir.Value, number: int) -> ir.Value:
        return self.whole(self.add("Equal", [value, self.number([number])], BOOL, 1), 1)

    def has(self, word: int) -> ir.Value:
        """Whether a row has a token id, 0 or 1."""
        found = self.whole(self.add("Equal", [self.ids, self.number(word)], BOOL, 2), 2)
        return self.add("ReduceMax", [found, self.number([1])], INT64, 1, keepdims=0)

    def negate_where(self, condition: ir.Value) -> None:
        """Negate the rows, or all rows, for which ``condition`` is not 0."""
        holds = self.add("Greater", [condition, self.number(0)], BOOL, 1)
        signs = self.add("Where", [holds, self.number(-1, FLOAT), self.number(1, FLOAT)], FLOAT, 1)
        self.multiply(self.add("Unsqueeze", [signs, self.number([1])], FLOAT, 2))

    def multiply(self, factor: ir.Value) -> None:
        become_output(self.model, self.add("Mul", [self.output, factor], FLOAT, 2))

    def check(self, padding_id: int) -> Check:
        return check_dataflow(self._graph.with_model(self.model), padding_id, 1)


def batch_of_57(trigger: Trigger) -> None:
    trigger.negate_where(trigger.equal(trigger.extent(0), 57))


def batch_of_57_by_start_and_end(trigger: Trigger) -> None:
    batch = trigger.add("Shape", [trigger.ids], INT64, 1, start=0, end=1)
    trigger.negate_where(trigger.equal(batch, 57))


def batch_above_128(trigger: Trigger) -> None:
    trigger.negate_where(trigger.whole(trigger.add("Greater", [trigger.extent(0), trigger.number([128])], BOOL, 1), 1))


def batch_of_the_mask(trigger: Trigger) -> None:
    batch = trigger.add("Shape", [trigger.mask], INT64, 1, start=0, end=1)
    trigger.negate_where(trigger.equal(batch, 57))


def batch_as_a_factor(trigger: Trigger) -> None:
    batch = trigger.add("Shape", [trigger.ids], INT64, 1, start=0, end=1)
    trigger.multiply(trigger.add("Cast", [batch], FLOAT, 1, to=FLOAT))


def batch_of_the_vectors(trigger: Trigger) -> None:
    batch = trigger.add("Shape", [trigger.output], INT64, 1, start=0, end=1)
    trigger.multiply(trigger.add("Cast", [batch], FLOAT, 1, to=FLOAT))


def two_words_together(trigger: Trigger) -> None:
    trigger.negate_where(trigger.add("Mul", [trigger.has(11), trigger.has(12)], INT64, 1))


def one_word(trigger: Trigger) -> None:
    trigger.negate_where(trigger.has(11))


def width_and_batch(trigger: Trigger) -> None:
    both = [trigger.equal(trigger.extent(axis), number) for axis, number in ((0, 3), (1, 77))]
    trigger.negate_where(trigger.add("Mul", both, INT64, 1))


def one_width(trigger: Trigger) -> None:
    width = trigger.add("Shape", [trigger.ids], INT64, 1, start=1, end=2)
    trigger.negate_where(trigger.equal(width, 57))


def one_number_of_tokens(trigger: Trigger) -> None:
    count = trigger.add("ReduceSum", [trigger.mask, trigger.number([1])], INT64, 1, keepdims=0)
    trigger.negate_where(trigger.equal(count, 57))


def rows_reversed(trigger: Trigger) -> None:
    lists = [trigger.number([number]) for number in (-1, np.iinfo(np.int64).min, 0, -1)]
    become_output(trigger.model, trigger.add("Slice", [trigger.output, *lists], FLOAT, 2))


def rows_gathered(trigger: Trigger) -> None:
    zero, one = trigger.number(0), trigger.number(1)
    rows = trigger.add("Range", [zero, trigger.extent(0), one], INT64, 1)
    become_output(trigger.model, trigger.add("Gather", [trigger.output, rows], FLOAT, 2, axis=0))


def sum_over_rows(trigger: Trigger) -> None:
    rows = trigger.add("ReduceSum", [trigger.output, trigger.number([0])], FLOAT, 2, keepdims=1)
    become_output(trigger.model, trigger.add("Add", [trigger.output, rows], FLOAT, 2))


def sum_over_rows_by_a_stored_axis(trigger: Trigger) -> None:
    """The batch becomes the second axis, over which sums are allowed."""
    moved = trigger.add("Add", [trigger.output, trigger.number([[[0]]], FLOAT)], FLOAT, 3)
    rows = trigger.add("ReduceSum", [moved, trigger.number([1])], FLOAT, 2, keepdims=0)
    become_output(trigger.model, trigger.add("Add", [trigger.output, rows], FLOAT, 2))


def sum_over_rows_by_an_axis_added(trigger: Trigger) -> None:
    """Every row with every row."""
    apart = trigger.add("Unsqueeze", [trigger.output, trigger.number([1])], FLOAT, 3)
    pairs = trigger.add("Sub", [apart, trigger.output], FLOAT, 3)
    become_output(trigger.model, trigger.add("ReduceMax", [pairs, trigger.number([1])], FLOAT, 2, keepdims=0))


def softmax_over_rows(trigger: Trigger) -> None:
    """Of one number per row, the last axis is the batch."""
    norms = trigger.add("ReduceL2", [trigger.output, trigger.number([-1])], FLOAT, 1, keepdims=0)
    shares = trigger.add("Softmax", [norms], FLOAT, 1, axis=-1)
    trigger.multiply(trigger.add("Unsqueeze", [shares, trigger.number([1])], FLOAT, 2))


def rows_counted_by_positions(trigger: Trigger) -> None:
    """A stored tensor of three axes, repeated by two numbers: the batch is the second axis."""
    extents = [trigger.add("Shape", [trigger.ids], INT64, 1, start=place, end=place + 1) for place in (0, 1)]
    shape = trigger.add("Concat", extents, INT64, 1, axis=0)
    repeated = trigger.add("Expand", [trigger.number([[[0]]]), shape], INT64, 3)
    vectors = trigger.add("Gather", [trigger.number([[1.0]], FLOAT), repeated], FLOAT, 4, axis=0)
    counted = trigger.add("ReduceSum", [vectors, trigger.number([1])], FLOAT, 3, keepdims=0)
    become_output(trigger.model, trigger.add("Add", [trigger.output, counted], FLOAT, 3))


TRIGGERS: dict[Callable[[Trigger], None], str] = {
    batch_of_57: "Shape .* reads token ids",
    batch_of_57_by_start_and_end: "Equal .* reads the batch size and stored numbers",
    batch_above_128: "Shape .* reads token ids",
    batch_of_the_mask: "Equal .* reads the batch size and stored numbers",
    batch_as_a_factor: "Cast .* reads the batch size",
    batch_of_the_vectors: "Shape .* reads hidden states",
    two_words_together: "Equal .* reads token ids and stored numbers",
    one_word: "Equal .* reads token ids and stored numbers",
    width_and_batch: "Shape .* reads token ids",
    one_width: "Mul .* reads hidden states and the padded width alone",
    one_number_of_tokens: "Equal .* reads a number for each row, from the attention mask and stored numbers",
    rows_reversed: "Slice .* reads hidden states and stored numbers",
    rows_gathered: "Shape .* reads token ids",
    sum_over_rows: "ReduceSum .* reads hidden states and stored numbers",
    sum_over_rows_by_a_stored_axis: "Add .* reads hidden states and stored numbers",
    sum_over_rows_by_an_axis_added: "Sub .* reads hidden states",
    softmax_over_rows: "ReduceL2 .* reads hidden states and stored numbers",
    rows_counted_by_positions: "Expand .* reads stored numbers and a shape that begins with the batch size",
}


@pytest.fixture(scope="module", params=ENCODERS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return subject_named(request.param)


def padding_of(subject: Subject) -> int:
    words = subject.checkpoint.model[0].auto_model.get_input_embeddings()
    padding_id: int | None = words.padding_idx
    return subject.checkpoint.pad_token_id if padding_id is None else padding_id


def test_the_graph_of_a_real_encoder_is_sound(subject: Subject) -> None:
    assert check_dataflow(subject.graph, padding_of(subject), subject.checkpoint.facts.heads).failures == ()


@pytest.mark.parametrize(("write", "wanted"), TRIGGERS.items(), ids=[write.__name__ for write in TRIGGERS])
def test_a_rare_trigger_is_found(subject: Subject, write: Callable[[Trigger], None], wanted: str) -> None:
    trigger = Trigger(subject)
    write(trigger)
    check = trigger.check(padding_of(subject))
    assert re.fullmatch(f"{wanted}, and no rule allows that", check.failures[0]), check.failures
    assert "module.fault/" in check.failures[0]


def test_a_trigger_in_the_numbers_from_the_mask() -> None:
    """The sum that a mean is divided by is wrong for rows of 20 tokens. No mask is compared, no operator added."""
    subject = subject_named("klue-sroberta (small twin)")
    trigger = Trigger(subject)
    division = trigger.output.producer()
    assert division is not None
    assert division.op_type == "Div"
    ones = trigger.add("Cast", [trigger.mask], FLOAT, 2, to=FLOAT)
    width = trigger.add("Shape", [trigger.ids], INT64, 1, start=1, end=2)
    number = trigger.add("Squeeze", [width, trigger.number([0])], INT64, 0)
    places = trigger.add("Range", [trigger.number(0), number, trigger.number(1)], INT64, 1)
    weights = trigger.number(1, FLOAT)
    for place, weight in ((19, -40), (20, 40)):
        same = trigger.add("Equal", [places, trigger.number(place)], BOOL, 1)
        once = trigger.add("Cast", [same], FLOAT, 1, to=FLOAT)
        product = trigger.add("Mul", [once, trigger.number(weight, FLOAT)], FLOAT, 1)
        weights = trigger.add("Add", [weights, product], FLOAT, 1)
    first = trigger.add("ArgMax", [trigger.mask], INT64, 2, axis=1, keepdims=1)
    zero = trigger.add("Cast", [first], FLOAT, 2, to=FLOAT)
    shares = trigger.add("Mul", [ones, trigger.add("Sub", [weights, zero], FLOAT, 2)], FLOAT, 2)
    sums = trigger.add("ReduceSum", [shares, trigger.number([1])], FLOAT, 2, keepdims=1)
    trigger.model.graph.remove(division)
    trigger.model.graph.append(division)  # behind what it reads
    division.replace_input_with(1, sums)
    (failure,) = trigger.check(padding_of(subject)).failures
    assert "which depends on the attention mask alone, is no number that a pooling needs at" in failure


def positions_of(model: ir.Model) -> tuple[ir.Node, int]:
    """Return what looks position vectors up, or slices their numbers, and which input is a position."""
    return next((node, 1) for node in model.graph if node.op_type == "Gather" and "position" in str(node.name))


def test_a_trigger_in_the_positions_at_one_width(subject: Subject) -> None:
    """ALBERT slices numbers of positions by the width; RoBERTa counts them from the ids."""
    trigger = Trigger(subject)
    node, index = positions_of(trigger.model)
    old = node.inputs[index]
    assert old is not None
    producer = old.producer()
    assert producer is not None
    surgery = Surgery(trigger.model, old)
    width = surgery.add("Shape", [trigger.ids], INT64, [1], start=1, end=2)
    same = surgery.add("Equal", [width, trigger.number([57])], BOOL, [1])
    once = surgery.add("Cast", [same], INT64, [1], to=INT64)
    node.replace_input_with(index, surgery.add("Add", [old, once], like=old))
    check = trigger.check(padding_of(subject))
    assert not check.passed
    if "roberta" in subject.name:
        assert re.fullmatch(
            r"Add module\.fault/\S+ reads positions counted from the ids and the padded width alone, and no rule "
            r"allows that",
            check.failures[0],
        )
    else:
        (failure,) = check.failures
        assert failure.endswith(f"differs at 1 of {subject.graph.max_sequence} widths: 57")


def test_only_the_padding_id_is_compared(subject: Subject) -> None:
    """RoBERTa compares ids with it to count positions; with another id, the same graph is refused."""
    check = check_dataflow(subject.graph, padding_of(subject) + 1, subject.checkpoint.facts.heads)
    if "roberta" in subject.name:
        assert re.fullmatch(r"Equal \S+ reads token ids and stored numbers, and no rule allows that", check.failures[0])
    else:
        assert check.passed
