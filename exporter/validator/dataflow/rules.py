"""Rules: which operators may read what, and what they compute from it.

A batch is the first axis of every tensor that has one, and no rule lets an operator move or mix that axis. Operators
and their attributes are those of ONNX (https://onnx.ai/onnx/operators/).
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
    if operator == "Equal" and tuple(reads) == (K.IDS, K.STORED):
        return K.PADDING if _stored_are(1, padding_id)(node) else None
    return next((rule.gives for rule in RULES if rule.fits(node, reads)), None)


def _is_a_width(node: ir.Node, found: set[Kind], longest: int) -> bool:
    """Whether a node computes the padded width, that and one, or what the width may be at most."""
    if node.op_type in ("Cast", "Squeeze", "Unsqueeze"):
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
    return numbers is not None and numbers.ndim == 1 and bool(numbers[0] == -1) and bool(np.all(numbers[1:] == 1))


def _scalars(node: ir.Node) -> bool:
    """Whether every stored input is a single number."""
    numbers = (_stored_numbers(node, index) for index in range(len(node.inputs)))
    return all(found is None or found.size == 1 for found in numbers)


def _reverses_tokens(node: ir.Node) -> bool:
    """Whether a ``Slice`` reverses the order of the tokens, as pooling by the last token does."""
    wanted = {1: -1, 3: 1, 4: -1}  # starts, axes, steps
    return all(_stored_are(index, number)(node) for index, number in wanted.items())


def _keeps_divisor_finite(node: ir.Node) -> bool:
    numbers = _stored_numbers(node, 1)
    return numbers is not None and bool(np.all(numbers <= _SMALLEST_DIVISOR))


def _rows_of_the_left(node: ir.Node) -> bool:
    return node.attributes.get_int("transA", 0) == 0


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
_OPTIONAL_MASK: tuple[tuple[Kind | tuple[Kind, ...], ...], ...] = (
    (),
    (K.MASK,),
    (K.NOTHING, K.NOTHING, K.NOTHING, K.COUNT),  # attention by the length of each row
)

_OF_IDS = (
    _rule("Reshape", [K.IDS, K.SHAPE], K.IDS),
    _rule("Gather", [K.STORED, K.IDS], K.HIDDEN, _axis(0)),
    _rule(("Not", "Cast"), [K.PADDING], K.PADDING),
    _rule("CumSum", [K.PADDING, K.STORED], K.PLACE, _stored_are(1, 1)),
    _rule("Cast", [K.PLACE], K.PLACE),
    _rule("Mul", [K.PLACE, K.PADDING], K.PLACE),
    _rule("Add", [K.PLACE, K.STORED], K.PLACE, _scalars),
    _rule("Gather", [K.STORED, (K.PLACE, K.SPREAD)], K.HIDDEN, _axis(0)),
)

_OF_WIDTH = (_rule("Expand", [(K.STORED, K.POSITION), K.SHAPE], K.SPREAD),)

_OF_MASK = (
    _rule(("Not", "Cast"), [K.MASK], K.MASK),
    _rule("Unsqueeze", [K.MASK, K.STORED], K.MASK, _axes(*_INSIDE)),
    _rule("Expand", [K.MASK, _ANY_SHAPE], K.MASK),
    _rule("Equal", [K.MASK, K.STORED], K.MASK, _stored_are(1, 0)),
    _rule("Where", [K.MASK, K.STORED, K.STORED], K.MASK, _scalars),
    _rule("Slice", [K.MASK, K.STORED, K.STORED, K.STORED, K.STORED], K.MASK, _reverses_tokens),
    _rule("ArgMax", [K.MASK], K.COUNT, _axis(1)),
    _rule("ReduceSum", [(K.MASK, K.WEIGHT), K.STORED], K.COUNT, _axes(*_TOKENS)),
    _rule("ReduceMax", [K.MASK, K.STORED], K.EMPTY, _axes(*_TOKENS)),
    _rule("Equal", [K.EMPTY, K.STORED], K.EMPTY, _stored_are(1, 0)),
    _rule("Where", [K.EMPTY, K.WIDTH, K.COUNT], K.COUNT),
    _rule("Cast", [K.COUNT], K.COUNT),
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
    _rule("Clip", [K.HIDDEN, K.STORED], K.HIDDEN, _scalars),
    _rule("Clip", [K.HIDDEN, (K.STORED, K.NOTHING), K.STORED], K.HIDDEN, _scalars),
    _rule(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), [K.HIDDEN, K.STORED], K.ABOVE, _scalars),
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
    *(_rule("Attention", [K.HIDDEN, K.HIDDEN, K.HIDDEN, *mask], K.HIDDEN) for mask in _OPTIONAL_MASK),
)

_OF_HIDDEN_AND_MASK = (
    _rule("Add", [K.HIDDEN, K.MASK], K.HIDDEN),
    _rule("Mul", [K.HIDDEN, (K.MASK, K.WEIGHT)], K.HIDDEN),
    _rule("Where", [K.MASK, K.STORED, K.HIDDEN], K.HIDDEN, _scalars),
    _rule("Div", [K.HIDDEN, K.COUNT], K.HIDDEN),
    _rule("GatherElements", [K.HIDDEN, K.COUNT], K.HIDDEN, _axis(1)),
    _rule("Gather", [K.HIDDEN, K.STORED], K.HIDDEN, _axis(1), _stored_are(1, 0)),
)

RULES = (*_OF_IDS, *_OF_WIDTH, *_OF_MASK, *_OF_HIDDEN, *_OF_HIDDEN_AND_MASK)
"""Every rule that is not about stored numbers, shapes and the padded width alone: ``kind_of`` decides on those."""
