"""What the check says of a small graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir
import pytest

from exporter.graph.census import operators_on_words
from exporter.validator.check import Check
from exporter.validator.dataflow import check_dataflow
from tests.support.small_encoder import small_graph, small_parameters
from tests.support.surgery import Surgery, become_output, constant, node_named, put_behind

BOOL, FLOAT, INT64 = ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.INT64


class Small:
    """The smallest encoder, to be edited, and checked."""

    def __init__(self) -> None:
        self._graph = small_graph(small_parameters())
        self.model = self._graph.editable()
        self.ids, self.mask = self.model.graph.inputs

    def after(self, value: ir.Value) -> Surgery:
        return Surgery(self.model, value)

    @property
    def output(self) -> ir.Value:
        return self.model.graph.outputs[0]

    def append(self, operator: str, reads: list[ir.Value | None]) -> ir.Node:
        """Add an operator whose output nothing reads."""
        number = len(self.model.graph)
        node = ir.node(operator, reads, name=f"added.{number}/{operator}")
        node.outputs[0].name = f"added.{number}"
        self.model.graph.append(node)
        return node

    def refused(self, value: ir.Value, operator: str = "Round") -> ir.Value:
        """Put an operator that no rule allows behind the value that is returned."""
        return self.after(value).add(operator, [value], like=value)

    def check(self, traced: Mapping[str, int] | None = None) -> Check:
        """Check the graph as if torch had traced all of it, or other operators on word vectors."""
        traced = operators_on_words(self.model.graph) if traced is None else traced
        return check_dataflow(replace(self._graph.with_model(self.model), traced=traced), 0, 1)


@pytest.fixture
def small() -> Small:
    return Small()


def test_a_sound_graph(small: Small) -> None:
    count = len(small.model.graph)
    assert small.check() == Check(
        "dataflow",
        f"{count} operators: rows of a batch are apart, token ids only find word vectors, "
        "the 9 that torch traced on word vectors are unchanged",
        (),
        {"operators": count, "traced_on_words": 9, "position_tensors": 0, "count_tensors": 0, "widths": 0},
    )


def test_operators_on_word_vectors_that_torch_has_not_traced(small: Small) -> None:
    traced = operators_on_words(small.model.graph)
    become_output(small.model, small.refused(small.output, "Neg"))
    check = small.check(traced)
    assert check.failures == ("1 more Neg than torch traced",)
    assert check.coverage == f"{len(small.model.graph)} operators"


def add_positions(small: Small, count: int = 1, *, wrong_at: int | None = None) -> list[ir.Value]:
    """Add one number to the hidden states of each token, by its position; another one at one width."""
    behind = node_named(small.model, "embeddings/Add").outputs[0]
    added: list[ir.Value] = []
    zero, one, last = constant(small.model, 0), constant(small.model, 1), constant(small.model, [1])
    for _ in range(count):
        uses = [(use.node, use.idx) for use in behind.uses()]
        surgery = small.after(behind)
        width = surgery.add("Shape", [small.ids], INT64, [1], start=1, end=2)
        number = surgery.add("Squeeze", [width], INT64, [])
        places = surgery.add("Range", [zero, number, one], INT64, [None])
        if wrong_at is not None:
            same = surgery.add("Equal", [number, constant(small.model, wrong_at)], BOOL, [])
            moved = surgery.add("Add", [places, one], INT64, [None])
            places = surgery.add("Where", [same, moved, places], INT64, [None])
        column = surgery.add("Unsqueeze", [places, last], INT64, [None, 1])
        numbers = surgery.add("Cast", [column], FLOAT, [None, 1], to=FLOAT)
        numbers.name = f"places.{len(added)}"
        new = surgery.add("Add", [behind, numbers], like=behind)
        for node, index in uses:
            node.replace_input_with(index, new)
        behind = new
        added.append(numbers)
    return added


@pytest.mark.parametrize(("count", "tensors"), [(1, "1 tensor"), (2, "2 tensors")])
def test_a_sound_graph_with_positions(small: Small, count: int, tensors: str) -> None:
    add_positions(small, count)
    operators = len(small.model.graph)
    check = small.check()
    assert check.coverage == (
        f"{operators} operators: rows of a batch are apart, token ids only find word vectors, "
        f"the {9 + count} that torch traced on word vectors are unchanged, "
        f"{tensors} of positions right at all 64 widths"
    )
    assert check.passed
    assert check.figures == {
        "operators": operators,
        "traced_on_words": 9 + count,
        "position_tensors": count,
        "count_tensors": 0,
        "widths": 64,
    }


def divide_by_count(small: Small, *, less: int = 0) -> None:
    """Divide the vectors by the number of tokens of each row, or by one less."""
    along, one = constant(small.model, [1]), constant(small.model, [1.0], FLOAT)
    surgery = small.after(small.output)
    numbers = surgery.add("Cast", [small.mask], FLOAT, ["batch", "sequence"], to=FLOAT)
    count = surgery.add("ReduceSum", [numbers, along], FLOAT, ["batch", 1], keepdims=1)
    for _ in range(less):
        count = surgery.add("Sub", [count, one], like=count)
    count.name = "count"
    become_output(small.model, surgery.add("Div", [small.output, count], like=small.output))


def test_a_sound_graph_with_a_token_count_and_positions(small: Small) -> None:
    divide_by_count(small)
    add_positions(small)
    check = small.check()
    assert check.failures == ()
    assert check.coverage.endswith(
        "unchanged, 1 tensor of positions and 1 tensor of token counts right at all 64 widths"
    )
    assert (check.figures["count_tensors"], check.figures["widths"]) == (1, 64)


def test_a_token_count_alone(small: Small) -> None:
    divide_by_count(small)
    check = small.check()
    assert check.coverage.endswith("unchanged, 1 tensor of token counts right at all 64 widths")
    assert (check.figures["position_tensors"], check.figures["widths"]) == (0, 64)


def test_a_token_count_that_is_one_too_small(small: Small) -> None:
    divide_by_count(small, less=1)
    assert small.check().failures == (
        "count, which depends on the attention mask alone, is no number that a pooling needs at 63 of 64 widths: "
        "2, 3, 4",
    )


def test_positions_that_differ_at_one_width(small: Small) -> None:
    add_positions(small, wrong_at=57)
    check = small.check()
    assert check.failures == ("places.0, which depends on the padded width alone, differs at 1 of 64 widths: 57",)
    assert check.coverage == f"{len(small.model.graph)} operators"


def test_three_of_the_widths_that_differ_are_named(small: Small) -> None:
    add_positions(small, wrong_at=64)
    assert small.check().failures == (
        "places.0, which depends on the padded width alone, differs at 63 of 64 widths: 1, 2, 3",
    )


def test_positions_are_not_computed_where_an_operator_was_refused(small: Small) -> None:
    add_positions(small, wrong_at=57)
    become_output(small.model, small.refused(small.output))
    (failure,) = small.check().failures
    assert failure.startswith("Round ")


def test_an_operator_is_named_with_what_it_reads(small: Small) -> None:
    new = small.refused(small.output)
    become_output(small.model, new)
    node = new.producer()
    assert node is not None
    check = small.check()
    assert check.failures == (f"Round {node.name} reads hidden states, and no rule allows that",)
    assert check.coverage == f"{len(small.model.graph)} operators"
    assert check.figures["operators"] == len(small.model.graph)


def test_each_kind_is_said_once_in_the_order_of_the_inputs(small: Small) -> None:
    table = constant(small.model, [0.0], FLOAT)
    small.append("Max", [table, small.output, small.mask, small.output])
    (failure,) = small.check().failures
    assert failure.endswith(" reads stored numbers and hidden states and the attention mask, and no rule allows that")


def test_an_input_that_is_left_out_between_others_is_not_said(small: Small) -> None:
    node = small.append("Clip", [small.output, None, small.mask])
    assert small.check().failures == (
        f"Clip {node.name} reads hidden states and the attention mask, and no rule allows that",
    )


def test_inputs_that_are_left_out_at_the_end_do_not_count(small: Small) -> None:
    small.append("Clip", [small.output, constant(small.model, 0, FLOAT), None])
    assert small.check().passed


def test_an_operator_without_inputs_reads_nothing(small: Small) -> None:
    nodes = [small.append("RandomNormal", []), small.append("Neg", [None])]
    assert small.check().failures == tuple(
        f"{node.op_type} {node.name} reads nothing, and no rule allows that" for node in nodes
    )


def test_of_one_path_the_first_operator_is_named(small: Small) -> None:
    first = small.refused(small.output)
    second = small.after(first).add("Floor", [first], like=first)
    third = small.after(second).add("Max", [second, small.output], like=first)
    become_output(small.model, third)
    (failure,) = small.check().failures
    assert failure.startswith("Round ")


@pytest.mark.parametrize(("count", "rest"), [(3, ()), (4, ("and 1 more",)), (6, ("and 3 more",))])
def test_three_operators_are_named_in_the_order_of_the_graph(small: Small, count: int, rest: tuple[str, ...]) -> None:
    nodes = [small.append("Round", [small.output]) for _ in range(count)]
    named = tuple(f"Round {node.name} reads hidden states, and no rule allows that" for node in nodes[:3])
    assert small.check().failures == (*named, *rest)


@pytest.mark.parametrize(("kind", "reads"), [("token ids", "ids"), ("the attention mask", "mask")], ids=["ids", "mask"])
def test_the_output_must_be_hidden_states(small: Small, kind: str, reads: str) -> None:
    value: ir.Value = getattr(small, reads)
    become_output(small.model, small.after(small.output).add("Identity", [value], like=value))
    assert small.check().failures == (f"the sentence vectors are {kind}, not computed from hidden states",)


def test_an_output_that_no_operator_computes(small: Small) -> None:
    other = ir.Value(name="other", type=ir.TensorType(FLOAT), shape=ir.Shape([None, 20]))
    small.model.graph.inputs.append(other)
    become_output(small.model, other)
    assert small.check().failures == ("the sentence vectors are nothing, not computed from hidden states",)


def test_an_input_besides_ids_and_mask(small: Small) -> None:
    other = ir.Value(name="other", type=ir.TensorType(FLOAT), shape=ir.Shape([None, 20]))
    small.model.graph.inputs.append(other)
    put_behind(small.model, small.output, "Add", other)
    assert small.check().failures == (
        "the sentence vectors are what was refused before, not computed from hidden states",
    )


def test_one_table_is_looked_up_by_ids(small: Small) -> None:
    table = node_named(small.model, "embeddings.word_embeddings/Gather").inputs[0]
    assert table is not None
    small.after(small.ids).add("Gather", [table, small.ids], FLOAT, [None, None, 12], axis=0)
    assert small.check().failures == ("2 tensors looked up by token ids, and one was expected",)


def test_a_graph_that_does_not_look_at_ids(small: Small) -> None:
    gather = node_named(small.model, "embeddings.word_embeddings/Gather")
    surgery = Surgery(small.model, small.ids)
    extents = [surgery.add("Shape", [small.ids], INT64, [1], start=place, end=place + 1) for place in (0, 1)]
    shape = surgery.add("Concat", extents, INT64, [2], axis=0)
    zeros = surgery.add("Expand", [constant(small.model, 0), shape], INT64, [None, None])
    gather.replace_input_with(1, zeros)
    for node in [node for node in small.model.graph if node.op_type in ("Shape", "Concat", "Expand")]:
        small.model.graph.remove(node)
        small.model.graph.insert_before(gather, node)
    assert small.check().failures == ("0 tensors looked up by token ids, and one was expected",)


def test_what_a_graph_says_of_shapes_is_not_believed(small: Small) -> None:
    """A stored tensor with an axis more moves the batch to the second axis, and the sum reads every row."""
    surgery = small.after(small.output)
    zeros = constant(small.model, [[[0.0]]], FLOAT)
    moved = surgery.add("Add", [small.output, zeros], like=small.output)
    zeros.shape = ir.Shape([1, 1])
    both = surgery.add("ReduceSum", [moved, constant(small.model, [1])], like=small.output, keepdims=0)
    become_output(small.model, surgery.add("Add", [small.output, both], like=small.output))
    (failure,) = small.check().failures
    assert failure.startswith("Add ")


def test_the_graph_is_left_as_it_was(small: Small) -> None:
    add_positions(small)
    graph = small_graph(small_parameters()).with_model(small.model)
    before = graph.to_bytes()
    check_dataflow(graph, 0, 1)
    assert graph.to_bytes() == before
