"""Rules: which operators may read what, and what they compute from it.

A batch is the first axis of every tensor that has one, and no rule lets an operator move or mix that axis. Broadcasting
would move it, so an operator may read a tensor with a batch only together with tensors of the same rank. Hidden states
have two axes at least.
Operators and their attributes are those of ONNX (https://onnx.ai/onnx/operators/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporter.validator.dataflow.conditions import (
    INSIDE,
    TOKENS,
    Condition,
    always,
    axes,
    axis,
    begins_the_shape,
    counts_exactly,
    has_all_axes,
    has_heads,
    inside,
    is_float,
    is_truth,
    keeps_divisor_finite,
    keeps_rows,
    masks_out,
    one_row_each,
    rank_of,
    reverses_tokens,
    rotates_each_row,
    rows_of_the_left,
    scalars,
    splits_inside,
    stored_are,
)
from exporter.validator.dataflow.kinds import WIDTH_ALONE, Kind

K = Kind
_NO_BATCH = WIDTH_ALONE | {K.NOTHING, K.SHAPE}
_LEAST_AXES = 2  # of hidden states: the last of them is never the batch
# These do not broadcast: the number of their axes may change. Attention has a rule of its own.
_NO_BROADCAST = frozenset(
    {
        *("ArgMax", "Attention", "Gather", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum"),
        *("Reshape", "RotaryEmbedding", "Squeeze", "Unsqueeze"),
    }
)
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
        return K.OTHER_SHAPE
    if _is_a_width(node, found, longest):
        return K.WIDTH
    if found <= WIDTH_ALONE:
        return K.POSITION  # any operator: its numbers are compared at every width
    if operator == "Concat":  # the vectors of several pooling modes
        return K.HIDDEN if found == {K.HIDDEN} and axis(-1)(node) else None
    rules = (*RULES, _rule("Equal", [K.IDS, K.STORED], K.PADDING, stored_are(1, padding_id)))
    gives = next((rule.gives for rule in rules if rule.fits(node, reads)), None)
    return gives if _keeps_batch_first(node, reads, gives) else None


def _keeps_batch_first(node: ir.Node, reads: Sequence[Kind], gives: Kind | None) -> bool:
    """Whether the batch stays the first axis, and one of several for hidden states.

    An operator that broadcasts keeps it first where all that has a batch has as many axes as the output.
    """
    rank = rank_of(node.outputs[0])
    if gives is K.HIDDEN and (rank is None or rank < _LEAST_AXES):
        return False
    batched = {rank_of(value) for value, kind in zip(node.inputs, reads, strict=False) if kind not in _NO_BATCH}
    return node.op_type in _NO_BROADCAST or (None not in batched and batched <= {rank})


def _is_a_width(node: ir.Node, found: set[Kind], longest: int) -> bool:
    """Whether a node computes the padded width, that and one, or what the width may be at most."""
    if node.op_type == "Cast":
        return found == {K.WIDTH} and counts_exactly(node)
    if node.op_type in ("Squeeze", "Unsqueeze"):
        return found <= {K.WIDTH, K.STORED}
    if node.op_type == "Min":
        return found == {K.WIDTH, K.STORED} and stored_are(1, longest)(node)
    return node.op_type in ("Add", "Sub") and found == {K.WIDTH, K.STORED} and stored_are(1, 1)(node)


def _has_subgraph(node: ir.Node) -> bool:
    return any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    )


def _extent(node: ir.Node) -> tuple[int, int]:
    return node.attributes.get_int("start", 0), node.attributes.get_int("end", 2)


# --- the rules -------------------------------------------------------------------------------------------------------


def _rule(
    operators: str | tuple[str, ...], reads: Sequence[Kind | tuple[Kind, ...]], gives: Kind, *conditions: Condition
) -> Rule:
    names = (operators,) if isinstance(operators, str) else operators
    allowed = tuple(frozenset({kind} if isinstance(kind, Kind) else kind) for kind in reads)
    return Rule(names, allowed, gives, lambda node: all(condition(node) for condition in conditions or (always,)))


_ANY_SHAPE = (K.SHAPE, K.OTHER_SHAPE, K.STORED)
_ADDED = (K.HIDDEN, K.STORED, K.POSITION, K.WIDTH_PER_ROW)
_QUERY_KEY_VALUE = (K.HIDDEN, K.HIDDEN, K.HIDDEN)

_OF_IDS = (
    _rule("Reshape", [K.IDS, K.SHAPE], K.IDS),
    _rule("Gather", [K.STORED, K.IDS], K.HIDDEN, axis(0)),
    _rule("Not", [K.PADDING], K.PADDING),
    _rule("Cast", [K.PADDING], K.PADDING, counts_exactly),
    _rule("CumSum", [K.PADDING, K.STORED], K.COUNTED_POSITION, stored_are(1, 1)),
    _rule("Cast", [K.COUNTED_POSITION], K.COUNTED_POSITION, counts_exactly),
    _rule("Mul", [K.COUNTED_POSITION, K.PADDING], K.COUNTED_POSITION),
    _rule("Add", [K.COUNTED_POSITION, K.STORED], K.COUNTED_POSITION, scalars(1)),
    _rule("Gather", [K.STORED, (K.COUNTED_POSITION, K.WIDTH_PER_ROW)], K.HIDDEN, axis(0)),
)

_OF_WIDTH = (
    _rule("Expand", [(K.STORED, K.POSITION), K.SHAPE], K.WIDTH_PER_ROW, begins_the_shape),
    _rule("Unsqueeze", [K.WIDTH_PER_ROW, K.STORED], K.WIDTH_PER_ROW, axes(*INSIDE)),
)

_OF_MASK = (
    _rule("Not", [K.MASK], K.MASK),
    _rule("Cast", [K.MASK], K.MASK, counts_exactly),
    _rule("Cast", [K.MASK], K.MASK, is_truth),
    _rule("Unsqueeze", [K.MASK, K.STORED], K.MASK, axes(*INSIDE)),
    _rule("Squeeze", [K.MASK, K.STORED], K.MASK, inside(1)),
    _rule("Mul", [K.MASK, K.MASK], K.MASK),
    _rule("Expand", [K.MASK, _ANY_SHAPE], K.MASK),
    _rule("Equal", [K.MASK, K.STORED], K.MASK, stored_are(1, 0)),
    _rule("Where", [K.MASK, K.STORED, K.STORED], K.MASK, scalars(1), stored_are(1, 0), masks_out(2)),
    _rule("Where", [K.MASK, K.POSITION, K.STORED], K.MASK, masks_out(2)),  # biases of attention by distance
    _rule("And", [K.MASK, K.POSITION], K.MASK),  # causal attention, or that of neighbors
    _rule("Slice", [K.MASK, K.STORED, K.STORED, K.STORED, K.STORED], K.MASK, reverses_tokens),
    _rule("ArgMax", [K.MASK], K.COUNT, axis(1)),
    _rule("ReduceSum", [(K.MASK, K.WEIGHT), K.STORED], K.COUNT, axes(*TOKENS)),
    _rule("ReduceMax", [K.MASK, K.STORED], K.ROW_IS_EMPTY, axes(*TOKENS)),
    _rule("ReduceMax", [K.MASK], K.ROW_IS_EMPTY, axes(*TOKENS)),
    _rule("Cast", [K.ROW_IS_EMPTY], K.ROW_IS_EMPTY, is_truth),
    _rule("Equal", [K.ROW_IS_EMPTY, K.STORED], K.ROW_IS_EMPTY, stored_are(1, 0)),
    _rule("Where", [K.ROW_IS_EMPTY, K.WIDTH, K.COUNT], K.COUNT),
    _rule("Cast", [K.COUNT], K.COUNT, counts_exactly),
    _rule("Sub", [K.WIDTH, K.COUNT], K.COUNT),
    _rule("Sub", [K.COUNT, K.STORED], K.COUNT, stored_are(1, 1)),
    _rule("Sqrt", [K.COUNT], K.COUNT),
    _rule("Clip", [K.COUNT, K.STORED], K.COUNT, keeps_divisor_finite),
    _rule(("Unsqueeze", "Squeeze"), [K.COUNT, K.STORED], K.COUNT, axes(*INSIDE)),
    _rule("Reshape", [K.COUNT, K.STORED], K.COUNT, one_row_each),
    _rule("Expand", [K.COUNT, _ANY_SHAPE], K.COUNT),
    _rule("Sub", [K.POSITION, K.COUNT], K.WEIGHT),
    _rule("Mul", [K.MASK, K.WEIGHT], K.WEIGHT),
)

_OF_HIDDEN = (
    _rule(_ACTIVATIONS, [K.HIDDEN], K.HIDDEN),
    _rule("Cast", [K.HIDDEN], K.HIDDEN, is_float),
    _rule(("Sub", "Mul", "Div", "MatMul"), [K.HIDDEN, (K.HIDDEN, K.STORED)], K.HIDDEN),
    _rule("Mul", [K.HIDDEN, (K.POSITION, K.WIDTH_PER_ROW)], K.HIDDEN, has_heads),  # rotations, written out
    _rule(("Sub", "Mul", "Div"), [K.STORED, K.HIDDEN], K.HIDDEN),
    _rule(("Pow", "PRelu", "Min", "Max"), [K.HIDDEN, K.STORED], K.HIDDEN),
    _rule("Clip", [K.HIDDEN, K.STORED], K.HIDDEN, scalars(1)),
    _rule("Clip", [K.HIDDEN, (K.STORED, K.NOTHING), K.STORED], K.HIDDEN, scalars(1, 2)),
    _rule(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), [K.HIDDEN, K.STORED], K.COMPARISON, scalars(1)),
    _rule("Where", [K.COMPARISON, (K.HIDDEN, K.STORED), (K.HIDDEN, K.STORED)], K.HIDDEN),
    _rule("Add", [K.HIDDEN, _ADDED], K.HIDDEN),
    _rule("Add", [_ADDED, K.HIDDEN], K.HIDDEN),
    _rule("Gemm", [K.HIDDEN, K.STORED], K.HIDDEN, rows_of_the_left),
    _rule("Gemm", [K.HIDDEN, K.STORED, K.STORED], K.HIDDEN, rows_of_the_left),
    _rule("LayerNormalization", [K.HIDDEN, K.STORED], K.HIDDEN, axis(-1, default=-1)),
    _rule("LayerNormalization", [K.HIDDEN, K.STORED, K.STORED], K.HIDDEN, axis(-1, default=-1)),
    _rule("RMSNormalization", [K.HIDDEN, K.STORED], K.HIDDEN, axis(-1, default=-1)),
    _rule("RotaryEmbedding", [K.HIDDEN, K.WIDTH_PER_ROW, K.WIDTH_PER_ROW], K.HIDDEN, rotates_each_row),
    _rule("Slice", [K.HIDDEN, *[K.STORED] * 4], K.HIDDEN, inside(3)),
    _rule("Slice", [K.HIDDEN, *[K.STORED] * 3], K.HIDDEN, inside(3)),
    _rule("Split", [K.HIDDEN], K.HIDDEN, splits_inside),
    _rule("Split", [K.HIDDEN, K.STORED], K.HIDDEN, splits_inside),
    _rule("Softmax", [K.HIDDEN], K.HIDDEN, axis(-1, default=-1)),
    _rule("Transpose", [K.HIDDEN], K.HIDDEN, keeps_rows),
    _rule("Reshape", [K.HIDDEN, K.SHAPE], K.HIDDEN),
    _rule("Expand", [K.HIDDEN, _ANY_SHAPE], K.HIDDEN),
    _rule("Unsqueeze", [K.HIDDEN, K.STORED], K.HIDDEN, axes(*INSIDE)),
    _rule("Squeeze", [K.HIDDEN, K.STORED], K.HIDDEN, inside(1)),
    _rule(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2"), [K.HIDDEN, K.STORED], K.HIDDEN, axes(1, -1)),
    _rule(("ReduceMean", "ReduceMax", "ReduceL2"), [K.HIDDEN], K.HIDDEN, axes(1, -1)),
)

_OF_HIDDEN_AND_MASK = (
    _rule("Attention", _QUERY_KEY_VALUE, K.HIDDEN),
    _rule("Attention", [*_QUERY_KEY_VALUE, K.MASK], K.HIDDEN, has_all_axes),
    _rule("Attention", [*_QUERY_KEY_VALUE, K.NOTHING, K.NOTHING, K.NOTHING, K.COUNT], K.HIDDEN),  # length of each row
    _rule("Add", [K.HIDDEN, K.MASK], K.HIDDEN),
    _rule("Mul", [K.HIDDEN, (K.MASK, K.WEIGHT)], K.HIDDEN),
    _rule("Where", [K.MASK, K.STORED, K.HIDDEN], K.HIDDEN, masks_out(1)),
    _rule("Div", [K.HIDDEN, K.COUNT], K.HIDDEN),
    _rule("GatherElements", [K.HIDDEN, K.COUNT], K.HIDDEN, axis(1)),
    _rule("GatherElements", [K.HIDDEN, K.WIDTH_PER_ROW], K.HIDDEN, axis(-1, 3), has_heads),  # scores by distance
    _rule("Gather", [K.HIDDEN, K.STORED], K.HIDDEN, axis(1), stored_are(1, 0)),
)

RULES = (*_OF_IDS, *_OF_WIDTH, *_OF_MASK, *_OF_HIDDEN, *_OF_HIDDEN_AND_MASK)
"""Every rule that is not about stored numbers, shapes and the padded width alone: ``kind_of`` decides on those."""
