"""Rules: which operators may read what, and what they compute from it.

A batch is the first axis of every tensor that has one, and no rule lets an operator move or mix that axis. Broadcasting
would move it: what has a batch is read together with tensors of as many axes only, and hidden states have two at least.
Operators and their attributes are those of ONNX (https://onnx.ai/onnx/operators/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.validator.dataflow.kinds import WIDTH_ALONE, Kind

Condition = Callable[[ir.Node], bool]

K = Kind
_SMALLEST_DIVISOR = 1e-6  # below every count and norm: a bound that keeps a division finite
_LOWEST_END = -(2**31)  # below every position: a slice that ends there, backwards, leaves no token out
_NO_BATCH = WIDTH_ALONE | {K.NOTHING, K.SHAPE}
_LEAST_AXES = 2  # of hidden states: the last of them is never the batch
_MASK_AXES = 4  # of an attention mask: ONNX reads one of two as (query, key)
_OTHER_AXES = (
    frozenset(  # these have as many axes as they please, and do not broadcast; Attention has a rule of its own
        {
            "Gather",
            "Reshape",
            "Unsqueeze",
            "Squeeze",
            "ReduceSum",
            "ReduceMean",
            "ReduceMax",
            "ReduceL2",
            "ArgMax",
            "Attention",
        }
    )
)
_EXACT = (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE)
_RANDOM = frozenset({"Bernoulli", "Dropout", "Multinomial"})
_ACTIVATIONS = (
    *("Abs", "Celu", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg"),
    *("Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
)


@dataclass(frozen=True)
class Rule:
    """One way in which operators may be used.

    Attributes:
        operators: Names of ONNX operators.
        reads: What each input must be; several kinds where any of them will do. Trailing inputs that are left out do
            not count.
        gives: What is computed.
        condition: What else must hold of the node.
    """

    operators: tuple[str, ...]
    reads: tuple[frozenset[Kind], ...]
    gives: Kind
    condition: Condition

    def fits(self, node: ir.Node, reads: Sequence[Kind]) -> bool:
        """Whether a node that reads values of these kinds is used in this way."""
        return (
            node.op_type in self.operators
            and len(reads) == len(self.reads)
            and all(kind in allowed for kind, allowed in zip(reads, self.reads, strict=True))
            and self.condition(node)
        )


def kind_of(node: ir.Node, reads: Sequence[Kind], padding_id: int, longest: int) -> Kind | None:
    """Return what a node computes, or None where no rule allows what it reads.

    Args:
        node: The node.
        reads: What each of its inputs is; trailing inputs that are left out are not given.
        padding_id: The token id of padding.
        longest: The longest sequence that the graph takes, in tokens.
    """
    operator = node.op_type
    if node.domain or not reads or operator.startswith("Random") or operator in _RANDOM or _has_subgraph(node):
        return None
    found = set(reads)
    if operator == "Identity":
        return reads[0]
    if found == {K.STORED}:
        return K.STORED
    if operator == "Shape" and reads[0] in (K.IDS, K.MASK):
        return {(0, 1): K.BATCH, (1, 2): K.WIDTH}.get(_extent(node))
    if operator == "Concat" and K.BATCH in found:
        return K.SHAPE if K.BATCH not in reads[1:] and found <= {K.BATCH, K.WIDTH, K.STORED} else None
    if operator == "Concat" and found == {K.STORED, K.WIDTH}:
        return K.EXTENTS
    if _is_a_width(node, found, longest):
        return K.WIDTH
    if found <= WIDTH_ALONE:
        return K.POSITION  # any operator: its numbers are compared at every width
    if operator == "Concat":  # the vectors of several pooling modes
        return K.HIDDEN if found == {K.HIDDEN} and _axis(-1)(node) else None
    rules = (*RULES, _rule("Equal", [K.IDS, K.STORED], K.PADDING, _stored_are(1, padding_id)))
    gives = next((rule.gives for rule in rules if rule.fits(node, reads)), None)
    return gives if _keeps_batch_first(node, reads, gives) else None


def _keeps_batch_first(node: ir.Node, reads: Sequence[Kind], gives: Kind | None) -> bool:
    """Whether the batch stays the first axis, and one of several for hidden states.

    An operator that broadcasts keeps it first where all that has a batch has as many axes as the output.
    """
    rank = _rank(node.outputs[0])
    if gives is K.HIDDEN and (rank is None or rank < _LEAST_AXES):
        return False
    batched = {_rank(value) for value, kind in zip(node.inputs, reads, strict=False) if kind not in _NO_BATCH}
    return node.op_type in _OTHER_AXES or (None not in batched and batched <= {rank})


def _rank(value: ir.Value | None) -> int | None:
    """Return the number of axes of a value, None where it is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def _length(value: ir.Value | None) -> int | None:
    """Return how many numbers a list has, None where it is not known."""
    if value is None or value.shape is None or len(value.shape) != 1:
        return None
    (length,) = value.shape
    return length if isinstance(length, int) else None


def _is_a_width(node: ir.Node, found: set[Kind], longest: int) -> bool:
    """Whether a node computes the padded width, that and one, or what the width may be at most."""
    if node.op_type == "Cast":
        return found == {K.WIDTH} and _counts_exactly(node)
    if node.op_type in ("Squeeze", "Unsqueeze"):
        return found <= {K.WIDTH, K.STORED}
    if node.op_type == "Min":
        return found == {K.WIDTH, K.STORED} and _stored_are(1, longest)(node)
    return node.op_type in ("Add", "Sub") and found == {K.WIDTH, K.STORED} and _stored_are(1, 1)(node)


def _has_subgraph(node: ir.Node) -> bool:
    return any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    )


def _extent(node: ir.Node) -> tuple[int, int]:
    return node.attributes.get_int("start", 0), node.attributes.get_int("end", 2)


# --- conditions ------------------------------------------------------------------------------------------------------


def _stored_numbers(node: ir.Node, index: int) -> npt.NDArray[Any] | None:
    """Return the numbers of an input that is a stored tensor; None for any other."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def _always(_: ir.Node) -> bool:
    return True


def _stored_are(index: int, wanted: int) -> Condition:
    """Whether all numbers of a stored input are ``wanted``."""

    def condition(node: ir.Node) -> bool:
        numbers = _stored_numbers(node, index)
        return numbers is not None and bool(np.all(numbers == wanted))

    return condition


def _axis(*allowed: int, default: int = 0) -> Condition:
    """Whether the attribute ``axis`` is one of these."""

    def condition(node: ir.Node) -> bool:
        return node.attributes.get_int("axis", default) in allowed

    return condition


def _axes(*allowed: int) -> Condition:
    """Whether the axes, a stored second input, are among these."""

    def condition(node: ir.Node) -> bool:
        numbers = _stored_numbers(node, 1)
        return numbers is not None and numbers.size > 0 and bool(np.isin(numbers, allowed).all())

    return condition


def _keeps_rows(node: ir.Node) -> bool:
    """Whether a ``Transpose`` leaves the first axis where it is."""
    order = node.attributes.get_ints("perm", ())
    return len(order) > 0 and order[0] == 0


def _one_row_each(node: ir.Node) -> bool:
    """Whether a ``Reshape`` by stored numbers keeps the first axis: of its size, or of what is left."""
    numbers = _stored_numbers(node, 1)
    return (
        numbers is not None
        and numbers.ndim == 1
        and numbers.size > 0
        and bool(numbers[0] == -1)
        and bool(np.all(numbers[1:] == 1))
    )


def _scalars(*indices: int) -> Condition:
    """Whether these inputs are single stored numbers, where they are given."""

    def condition(node: ir.Node) -> bool:
        given = (index for index in indices if node.inputs[index] is not None)
        return all((found := _stored_numbers(node, index)) is not None and found.size == 1 for index in given)

    return condition


def _reverses_tokens(node: ir.Node) -> bool:
    """Whether a ``Slice`` reverses the order of the tokens, as pooling by the last token does."""
    ends = _stored_numbers(node, 2)
    wanted = {1: -1, 3: 1, 4: -1}  # starts, axes, steps
    return (
        ends is not None
        and bool(np.all(ends <= _LOWEST_END))
        and all(_stored_are(index, number)(node) for index, number in wanted.items())
    )


def _keeps_divisor_finite(node: ir.Node) -> bool:
    numbers = _stored_numbers(node, 1)
    return numbers is not None and bool(np.all(numbers <= _SMALLEST_DIVISOR))


def _rows_of_the_left(node: ir.Node) -> bool:
    return node.attributes.get_int("transA", 0) == 0


def _has_all_axes(node: ir.Node) -> bool:
    """Whether the mask of an ``Attention`` has the axes batch, head, query and key."""
    return _rank(node.inputs[3]) == _MASK_AXES


def _begins_the_shape(node: ir.Node) -> bool:
    """Whether an ``Expand`` has as many axes as its shape has numbers: then the first of them is the first axis."""
    numbers = _length(node.inputs[1])
    return numbers is not None and _rank(node.outputs[0]) == numbers


def _counts_exactly(node: ir.Node) -> bool:
    """Whether a ``Cast`` keeps whole numbers as large as a sequence."""
    return node.attributes.get_int("to", 0) in _EXACT


def _is_truth(node: ir.Node) -> bool:
    """Whether a ``Cast`` asks what is not 0."""
    return node.attributes.get_int("to", 0) == ir.DataType.BOOL


def _is_float(node: ir.Node) -> bool:
    return node.attributes.get_int("to", 0) in (ir.DataType.FLOAT, ir.DataType.DOUBLE)


_INSIDE = (1, 2, 3, -1)  # every axis but the batch's; -1 is never the batch: no tensor with one has a single axis
_TOKENS = (1,)

# --- the rules -------------------------------------------------------------------------------------------------------


def _rule(
    operators: str | tuple[str, ...], reads: Sequence[Kind | tuple[Kind, ...]], gives: Kind, *conditions: Condition
) -> Rule:
    names = (operators,) if isinstance(operators, str) else operators
    allowed = tuple(frozenset({kind} if isinstance(kind, Kind) else kind) for kind in reads)
    return Rule(names, allowed, gives, lambda node: all(condition(node) for condition in conditions or (_always,)))


_ANY_SHAPE = (K.SHAPE, K.EXTENTS, K.STORED)
_ADDED = (K.HIDDEN, K.STORED, K.POSITION, K.SPREAD)
_QUERY_KEY_VALUE = (K.HIDDEN, K.HIDDEN, K.HIDDEN)

_OF_IDS = (
    _rule("Reshape", [K.IDS, K.SHAPE], K.IDS),
    _rule("Gather", [K.STORED, K.IDS], K.HIDDEN, _axis(0)),
    _rule("Not", [K.PADDING], K.PADDING),
    _rule("Cast", [K.PADDING], K.PADDING, _counts_exactly),
    _rule("CumSum", [K.PADDING, K.STORED], K.PLACE, _stored_are(1, 1)),
    _rule("Cast", [K.PLACE], K.PLACE, _counts_exactly),
    _rule("Mul", [K.PLACE, K.PADDING], K.PLACE),
    _rule("Add", [K.PLACE, K.STORED], K.PLACE, _scalars(1)),
    _rule("Gather", [K.STORED, (K.PLACE, K.SPREAD)], K.HIDDEN, _axis(0)),
)

_OF_WIDTH = (_rule("Expand", [(K.STORED, K.POSITION), K.SHAPE], K.SPREAD, _begins_the_shape),)

_OF_MASK = (
    _rule("Not", [K.MASK], K.MASK),
    _rule("Cast", [K.MASK], K.MASK, _counts_exactly),
    _rule("Cast", [K.MASK], K.MASK, _is_truth),
    _rule("Unsqueeze", [K.MASK, K.STORED], K.MASK, _axes(*_INSIDE)),
    _rule("Expand", [K.MASK, _ANY_SHAPE], K.MASK),
    _rule("Equal", [K.MASK, K.STORED], K.MASK, _stored_are(1, 0)),
    _rule("Where", [K.MASK, K.STORED, K.STORED], K.MASK, _scalars(1, 2)),
    _rule("Slice", [K.MASK, K.STORED, K.STORED, K.STORED, K.STORED], K.MASK, _reverses_tokens),
    _rule("ArgMax", [K.MASK], K.COUNT, _axis(1)),
    _rule("ReduceSum", [(K.MASK, K.WEIGHT), K.STORED], K.COUNT, _axes(*_TOKENS)),
    _rule("ReduceMax", [K.MASK, K.STORED], K.EMPTY, _axes(*_TOKENS)),
    _rule("Equal", [K.EMPTY, K.STORED], K.EMPTY, _stored_are(1, 0)),
    _rule("Where", [K.EMPTY, K.WIDTH, K.COUNT], K.COUNT),
    _rule("Cast", [K.COUNT], K.COUNT, _counts_exactly),
    _rule("Sub", [K.WIDTH, K.COUNT], K.COUNT),
    _rule("Sub", [K.COUNT, K.STORED], K.COUNT, _stored_are(1, 1)),
    _rule("Sqrt", [K.COUNT], K.COUNT),
    _rule("Clip", [K.COUNT, K.STORED], K.COUNT, _keeps_divisor_finite),
    _rule(("Unsqueeze", "Squeeze"), [K.COUNT, K.STORED], K.COUNT, _axes(*_INSIDE)),
    _rule("Reshape", [K.COUNT, K.STORED], K.COUNT, _one_row_each),
    _rule("Expand", [K.COUNT, _ANY_SHAPE], K.COUNT),
    _rule("Sub", [K.POSITION, K.COUNT], K.WEIGHT),
    _rule("Mul", [K.MASK, K.WEIGHT], K.WEIGHT),
)

_OF_HIDDEN = (
    _rule(_ACTIVATIONS, [K.HIDDEN], K.HIDDEN),
    _rule("Cast", [K.HIDDEN], K.HIDDEN, _is_float),
    _rule(("Add", "Sub", "Mul", "Div", "MatMul"), [K.HIDDEN, (K.HIDDEN, K.STORED)], K.HIDDEN),
    _rule(("Add", "Sub", "Mul", "Div"), [K.STORED, K.HIDDEN], K.HIDDEN),
    _rule(("Pow", "PRelu", "Min", "Max"), [K.HIDDEN, K.STORED], K.HIDDEN),
    _rule("Clip", [K.HIDDEN, K.STORED], K.HIDDEN, _scalars(1)),
    _rule("Clip", [K.HIDDEN, (K.STORED, K.NOTHING), K.STORED], K.HIDDEN, _scalars(1, 2)),
    _rule(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), [K.HIDDEN, K.STORED], K.ABOVE, _scalars(1)),
    _rule("Where", [K.ABOVE, (K.HIDDEN, K.STORED), (K.HIDDEN, K.STORED)], K.HIDDEN),
    _rule("Add", [K.HIDDEN, _ADDED], K.HIDDEN),
    _rule("Add", [_ADDED, K.HIDDEN], K.HIDDEN),
    _rule("Gemm", [K.HIDDEN, K.STORED], K.HIDDEN, _rows_of_the_left),
    _rule("Gemm", [K.HIDDEN, K.STORED, K.STORED], K.HIDDEN, _rows_of_the_left),
    _rule("LayerNormalization", [K.HIDDEN, K.STORED], K.HIDDEN, _axis(-1, default=-1)),
    _rule("LayerNormalization", [K.HIDDEN, K.STORED, K.STORED], K.HIDDEN, _axis(-1, default=-1)),
    _rule("Softmax", [K.HIDDEN], K.HIDDEN, _axis(-1, default=-1)),
    _rule("Transpose", [K.HIDDEN], K.HIDDEN, _keeps_rows),
    _rule("Reshape", [K.HIDDEN, K.SHAPE], K.HIDDEN),
    _rule("Expand", [K.HIDDEN, _ANY_SHAPE], K.HIDDEN),
    _rule(("Unsqueeze", "Squeeze"), [K.HIDDEN, K.STORED], K.HIDDEN, _axes(*_INSIDE)),
    _rule(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"), [K.HIDDEN, K.STORED], K.HIDDEN, _axes(1, -1)),
)

_OF_HIDDEN_AND_MASK = (
    _rule("Attention", _QUERY_KEY_VALUE, K.HIDDEN),
    _rule("Attention", [*_QUERY_KEY_VALUE, K.MASK], K.HIDDEN, _has_all_axes),
    _rule("Attention", [*_QUERY_KEY_VALUE, K.NOTHING, K.NOTHING, K.NOTHING, K.COUNT], K.HIDDEN),  # length of each row
    _rule("Add", [K.HIDDEN, K.MASK], K.HIDDEN),
    _rule("Mul", [K.HIDDEN, (K.MASK, K.WEIGHT)], K.HIDDEN),
    _rule("Where", [K.MASK, K.STORED, K.HIDDEN], K.HIDDEN, _scalars(1)),
    _rule("Div", [K.HIDDEN, K.COUNT], K.HIDDEN),
    _rule("GatherElements", [K.HIDDEN, K.COUNT], K.HIDDEN, _axis(1)),
    _rule("Gather", [K.HIDDEN, K.STORED], K.HIDDEN, _axis(1), _stored_are(1, 0)),
)

RULES = (*_OF_IDS, *_OF_WIDTH, *_OF_MASK, *_OF_HIDDEN, *_OF_HIDDEN_AND_MASK)
"""Every rule that is not about stored numbers, shapes and the padded width alone: ``kind_of`` decides on those."""
