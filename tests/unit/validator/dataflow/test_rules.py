"""Every rule with a node that fits it, every condition with one that does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir
import pytest

from exporter.validator.dataflow.kinds import WIDTH_ALONE, Kind
from exporter.validator.dataflow.rules import RULES, kind_of

K = Kind
PADDING_ID, LONGEST = 7, 64
BOOL, FLOAT, DOUBLE, INT32, INT64 = (
    getattr(ir.DataType, name) for name in ("BOOL", "FLOAT", "DOUBLE", "INT32", "INT64")
)
LOWEST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Read:
    """One input: its kind, its axes, and its numbers where they are stored in the graph."""

    kind: Kind
    rank: int | None = 3
    numbers: np.ndarray | None = None
    length: int | None = None  # of a list

    def value(self, name: str) -> ir.Value:
        if self.numbers is not None:
            tensor = ir.tensor(self.numbers, name=name)
            return ir.Value(name=name, const_value=tensor, shape=ir.Shape(self.numbers.shape))
        if self.length is not None:
            return ir.Value(name=name, shape=ir.Shape([self.length]))
        return ir.Value(name=name, shape=None if self.rank is None else ir.Shape([None] * self.rank))


@dataclass(frozen=True)
class Use:
    """A node, and what it should compute; None where no rule allows it."""

    operator: str
    reads: tuple[Read, ...]
    gives: Kind | None
    rank: int | None = 3
    attributes: Mapping[str, int | float | str | Sequence[int]] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(read.kind for read in self.reads)

    def node(self) -> ir.Node:
        values = [
            None if read.kind is K.NOTHING else read.value(f"input.{place}") for place, read in enumerate(self.reads)
        ]
        node = ir.node(self.operator, values, dict(self.attributes))
        node.outputs[0].shape = None if self.rank is None else ir.Shape([None] * self.rank)
        return node

    def found(self) -> Kind | None:
        return kind_of(self.node(), self.kinds, PADDING_ID, LONGEST)

    def __str__(self) -> str:
        reads = ", ".join(
            read.kind.name if read.numbers is None else f"{read.kind.name} {read.numbers.tolist()}"
            for read in self.reads
        )
        rest = "".join(f" {name}={value}" for name, value in self.attributes.items())
        return f"{self.operator}({reads}){rest} rank {self.rank}"


def stored(*numbers: float, shape: Sequence[int] | None = None) -> Read:
    """A stored list, or a stored tensor of this shape."""
    return Read(K.STORED, None, np.array(numbers).reshape([len(numbers)] if shape is None else shape))


def scalar(number: float) -> Read:
    return stored(number, shape=[])


def of(kind: Kind, rank: int | None = 3) -> Read:
    return Read(kind, rank)


def shape(length: int, kind: Kind = K.SHAPE) -> Read:
    return Read(kind, 1, None, length)


def use(
    operator: str,
    reads: Sequence[Kind | Read],
    gives: Kind | None,
    rank: int | None = 3,
    **attributes: int | float | str | Sequence[int],
) -> Use:
    given = tuple(read if isinstance(read, Read) else Read(read) for read in reads)
    return Use(operator, given, gives, rank, attributes)


WEIGHT, BIAS = stored(*range(12), shape=[4, 3]), stored(1, 2, 3)
IDS, MASK, COUNT, HIDDEN = (of(kind, 2) for kind in (K.IDS, K.MASK, K.COUNT, K.HIDDEN))
ALL_AXES = of(K.MASK, 4)
BACKWARDS = (stored(-1), stored(LOWEST), stored(1), stored(-1))
ACTIVATIONS = (
    *("Abs", "Celu", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg"),
    *("Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"),
)
COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
ANY_SHAPE = (shape(3), shape(3, K.OTHER_SHAPE), stored(1, 1, 4))
SMALLEST = scalar(1e-9)

BELOW_EVERY_SCORE = (float("-inf"), -3.4e38, -1e30)

FITS = [
    # token ids
    use("Reshape", [IDS, shape(2)], K.IDS, 2),
    use("Gather", [WEIGHT, IDS], K.HIDDEN, axis=0),
    use("Gather", [WEIGHT, IDS], K.HIDDEN),
    use("Equal", [IDS, scalar(PADDING_ID)], K.PADDING, 2),
    use("Not", [K.PADDING], K.PADDING),
    *(
        use("Cast", [kind], kind, to=to)
        for kind in (K.PADDING, K.COUNTED_POSITION, K.COUNT)
        for to in (INT32, INT64, FLOAT, DOUBLE)
    ),
    use("CumSum", [of(K.PADDING, 2), scalar(1)], K.COUNTED_POSITION, 2),
    use("Mul", [K.COUNTED_POSITION, K.PADDING], K.COUNTED_POSITION),
    use("Add", [K.COUNTED_POSITION, scalar(3)], K.COUNTED_POSITION),
    *(use("Gather", [WEIGHT, of(kind, 2)], K.HIDDEN, axis=0) for kind in (K.COUNTED_POSITION, K.WIDTH_PER_ROW)),
    # the padded width
    *(use("Expand", [read, shape(3)], K.WIDTH_PER_ROW) for read in (WEIGHT, of(K.POSITION, 2))),
    *(use("Unsqueeze", [K.WIDTH_PER_ROW, stored(axis)], K.WIDTH_PER_ROW, 4) for axis in (1, 2, -1)),
    # the attention mask
    use("Not", [MASK], K.MASK, 2),
    *(use("Cast", [MASK], K.MASK, 2, to=to) for to in (BOOL, INT32, INT64, FLOAT, DOUBLE)),
    *(use("Unsqueeze", [MASK, stored(*axes)], K.MASK, 2 + len(axes)) for axes in ((1,), (2,), (-1,), (1, 2), (2, 3))),
    *(use("Expand", [K.MASK, read], K.MASK) for read in ANY_SHAPE),
    use("Equal", [MASK, scalar(0)], K.MASK, 2),
    *(use("Where", [MASK, scalar(0), stored(score)], K.MASK, 2) for score in BELOW_EVERY_SCORE),
    *(use("Where", [ALL_AXES, of(K.POSITION, 4), scalar(score)], K.MASK, 4) for score in BELOW_EVERY_SCORE),
    use("And", [ALL_AXES, of(K.POSITION, 4)], K.MASK, 4),
    use("Mul", [ALL_AXES, ALL_AXES], K.MASK, 4),
    *(use("Squeeze", [ALL_AXES, stored(*axes)], K.MASK, 4 - len(axes)) for axes in ((1,), (-2,), (1, 2))),
    use("Slice", [MASK, *BACKWARDS], K.MASK, 2),
    use("ArgMax", [MASK], K.COUNT, 1, axis=1, keepdims=0),
    *(use("ReduceSum", [kind, stored(1)], K.COUNT, 2, keepdims=0) for kind in (K.MASK, K.WEIGHT)),
    use("ReduceMax", [MASK, stored(1)], K.ROW_IS_EMPTY, 1, keepdims=0),
    use("ReduceMax", [MASK], K.ROW_IS_EMPTY, 1, axes=[1], keepdims=0),  # below opset 18
    use("Cast", [of(K.ROW_IS_EMPTY, 1)], K.ROW_IS_EMPTY, 1, to=BOOL),
    use("Equal", [of(K.ROW_IS_EMPTY, 1), scalar(0)], K.ROW_IS_EMPTY, 1),
    use("Where", [of(K.ROW_IS_EMPTY, 1), of(K.WIDTH, 0), of(K.COUNT, 1)], K.COUNT, 1),
    use("Sub", [of(K.WIDTH, 0), of(K.COUNT, 1)], K.COUNT, 1),
    use("Sub", [of(K.COUNT, 1), scalar(1)], K.COUNT, 1),
    use("Sqrt", [COUNT], K.COUNT, 2),
    use("Clip", [COUNT, SMALLEST], K.COUNT, 2),
    use("Clip", [COUNT, scalar(1e-6)], K.COUNT, 2),
    *(use(operator, [COUNT, stored(1)], K.COUNT) for operator in ("Unsqueeze", "Squeeze")),
    *(use("Reshape", [of(K.COUNT, 1), stored(*to)], K.COUNT, len(to)) for to in ((-1,), (-1, 1), (-1, 1, 1))),
    *(use("Expand", [K.COUNT, read], K.COUNT) for read in ANY_SHAPE),
    use("Sub", [of(K.POSITION), K.COUNT], K.WEIGHT),
    use("Mul", [K.MASK, K.WEIGHT], K.WEIGHT),
    # hidden states
    *(use(operator, [K.HIDDEN], K.HIDDEN) for operator in ACTIVATIONS),
    *(use("Cast", [K.HIDDEN], K.HIDDEN, to=to) for to in (FLOAT, DOUBLE)),
    *(
        use(name, [K.HIDDEN, read], K.HIDDEN)
        for name in ("Add", "Sub", "Mul", "Div", "MatMul")
        for read in (of(K.HIDDEN), WEIGHT)
    ),
    *(use(operator, [BIAS, K.HIDDEN], K.HIDDEN) for operator in ("Add", "Sub", "Mul", "Div")),
    *(use(operator, [K.HIDDEN, BIAS], K.HIDDEN) for operator in ("Pow", "PRelu", "Min", "Max")),
    use("Clip", [K.HIDDEN, scalar(0)], K.HIDDEN),
    use("Clip", [K.HIDDEN, scalar(0), scalar(6)], K.HIDDEN),
    use("Clip", [K.HIDDEN, K.NOTHING, scalar(6)], K.HIDDEN),
    *(use(operator, [K.HIDDEN, scalar(0)], K.COMPARISON) for operator in COMPARISONS),
    *(
        use("Where", [K.COMPARISON, first, second], K.HIDDEN)
        for first in (of(K.HIDDEN), scalar(0))
        for second in (of(K.HIDDEN), scalar(0))
    ),
    *(use("Add", [K.HIDDEN, read], K.HIDDEN) for read in (of(K.POSITION, 2), of(K.WIDTH_PER_ROW))),
    *(use("Add", [read, K.HIDDEN], K.HIDDEN) for read in (of(K.POSITION, 2), of(K.WIDTH_PER_ROW))),
    use("Gemm", [HIDDEN, WEIGHT], K.HIDDEN, 2),
    use("Gemm", [HIDDEN, WEIGHT, BIAS], K.HIDDEN, 2, transB=1),
    use("LayerNormalization", [K.HIDDEN, BIAS], K.HIDDEN, axis=-1),
    use("LayerNormalization", [K.HIDDEN, BIAS, BIAS], K.HIDDEN),
    use("RMSNormalization", [K.HIDDEN, BIAS], K.HIDDEN, axis=-1),
    *(use("Mul", [of(K.HIDDEN, 4), of(kind, 4)], K.HIDDEN, 4) for kind in (K.POSITION, K.WIDTH_PER_ROW)),
    use("RotaryEmbedding", [of(K.HIDDEN, 4), *[of(K.WIDTH_PER_ROW)] * 2], K.HIDDEN, 4),
    *(use("Slice", [K.HIDDEN, stored(0), stored(4), stored(axis)], K.HIDDEN) for axis in (1, 2, -1, -2)),
    use("Slice", [K.HIDDEN, stored(0), stored(4), stored(2), stored(1)], K.HIDDEN),
    *(use("Split", [K.HIDDEN], K.HIDDEN, axis=axis, num_outputs=2) for axis in (1, 2, -1)),
    use("Split", [K.HIDDEN, stored(1, 2)], K.HIDDEN, axis=-1),
    use("Softmax", [K.HIDDEN], K.HIDDEN),
    use("Softmax", [K.HIDDEN], K.HIDDEN, axis=-1),
    use("Transpose", [K.HIDDEN], K.HIDDEN, perm=[0, 2, 1]),
    use("Reshape", [HIDDEN, shape(3)], K.HIDDEN),
    *(use("Expand", [K.HIDDEN, read], K.HIDDEN) for read in ANY_SHAPE),
    *(
        use(operator, [K.HIDDEN, stored(axis)], K.HIDDEN)
        for operator, axes in (("Unsqueeze", (1, 2, 3, -1)), ("Squeeze", (1, 2, -1, -2)))
        for axis in axes
    ),
    *(
        use(operator, [K.HIDDEN, stored(axis)], K.HIDDEN, 2, keepdims=0)
        for operator in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2")
        for axis in (1, -1)
    ),
    *(
        use(operator, [K.HIDDEN], K.HIDDEN, 2, axes=[axis], keepdims=0)  # below opset 18
        for operator in ("ReduceMean", "ReduceMax", "ReduceL2")
        for axis in (1, -1)
    ),
    use("Concat", [HIDDEN, HIDDEN], K.HIDDEN, 2, axis=-1),
    # both
    use("Attention", [K.HIDDEN] * 3, K.HIDDEN),
    use("Attention", [K.HIDDEN, K.HIDDEN, K.HIDDEN, ALL_AXES], K.HIDDEN),
    use("Attention", [*[K.HIDDEN] * 3, *[K.NOTHING] * 3, of(K.COUNT, 1)], K.HIDDEN),
    use("Add", [K.HIDDEN, K.MASK], K.HIDDEN),
    *(use("Mul", [K.HIDDEN, kind], K.HIDDEN) for kind in (K.MASK, K.WEIGHT)),
    *(use("Where", [K.MASK, scalar(score), K.HIDDEN], K.HIDDEN) for score in BELOW_EVERY_SCORE),
    use("Div", [K.HIDDEN, K.COUNT], K.HIDDEN),
    use("GatherElements", [K.HIDDEN, K.COUNT], K.HIDDEN, axis=1),
    *(use("GatherElements", [of(K.HIDDEN, 4), of(K.WIDTH_PER_ROW, 4)], K.HIDDEN, 4, axis=axis) for axis in (-1, 3)),
    use("Gather", [K.HIDDEN, scalar(0)], K.HIDDEN, 2, axis=1),
]

SHAPES = [
    *(use("Shape", [read], K.BATCH, 1, start=0, end=1) for read in (IDS, MASK)),
    *(use("Shape", [read], K.WIDTH, 1, start=1, end=2) for read in (IDS, MASK)),
    use("Shape", [MASK], K.BATCH, 1, end=1),
    use("Shape", [MASK], K.WIDTH, 1, start=1),
    use("Concat", [K.BATCH, K.WIDTH], K.SHAPE, 1, axis=0),
    use("Concat", [K.BATCH, stored(1), K.WIDTH], K.SHAPE, 1, axis=0),
    use("Concat", [K.BATCH], K.SHAPE, 1, axis=0),
    use("Concat", [stored(1), K.WIDTH], K.OTHER_SHAPE, 1, axis=0),
    *(use(operator, [K.WIDTH, scalar(1)], K.WIDTH) for operator in ("Add", "Sub")),
    *(use("Cast", [K.WIDTH], K.WIDTH, to=to) for to in (INT32, INT64, FLOAT, DOUBLE)),
    *(use(operator, [K.WIDTH, stored(0)], K.WIDTH) for operator in ("Squeeze", "Unsqueeze")),
    use("Squeeze", [K.WIDTH], K.WIDTH),
    use("Min", [K.WIDTH, scalar(LONGEST)], K.WIDTH),
    *(use("Identity", [kind], kind) for kind in Kind if kind is not K.NOTHING),
    *(use(operator, [BIAS, BIAS], K.STORED) for operator in ("Concat", "Equal", "MatMul", "Gather")),
]

# What depends on the padded width and on nothing else may be computed in any way: it is compared at every width.
POSITIONS = [
    use("Range", [scalar(0), K.WIDTH, scalar(1)], K.POSITION),
    use("Equal", [K.WIDTH, scalar(57)], K.POSITION),
    use("Where", [K.POSITION, K.POSITION, scalar(1)], K.POSITION),
    use("Concat", [K.WIDTH, K.WIDTH], K.POSITION, axis=0),
    *(use(operator, [K.WIDTH, scalar(2)], K.POSITION) for operator in ("Add", "Sub")),
    *(use(operator, [scalar(1), K.WIDTH], K.POSITION) for operator in ("Add", "Sub", "Min")),
    use("Min", [K.WIDTH, scalar(LONGEST - 1)], K.POSITION),
    use("Mul", [K.WIDTH, scalar(1)], K.POSITION),
    use("Add", [K.WIDTH, K.WIDTH], K.POSITION),
    use("Squeeze", [K.POSITION, stored(0)], K.POSITION),
    use("Cast", [K.OTHER_SHAPE], K.POSITION, to=INT64),
    *(use("Cast", [K.WIDTH], K.POSITION, to=to) for to in (BOOL, ir.DataType.INT8, ir.DataType.FLOAT16)),
    use("Reshape", [K.POSITION, K.OTHER_SHAPE], K.POSITION),
]

COMPUTED = of(K.STORED)  # stored numbers went in: which came out is not known

REFUSED = [
    # token ids
    *(use("Gather", [WEIGHT, of(kind, 2)], None, axis=1) for kind in (K.IDS, K.COUNTED_POSITION, K.WIDTH_PER_ROW)),
    *(use("Equal", [IDS, scalar(number)], None, 2) for number in (PADDING_ID + 1, 0, 1)),
    use("Equal", [IDS, stored(PADDING_ID, 9)], None, 2),
    use("Equal", [IDS, COMPUTED], None),
    use("Equal", [scalar(PADDING_ID), IDS], None, 2),
    *(use(operator, [IDS, scalar(PADDING_ID)], None, 2) for operator in (*COMPARISONS, "Mul", "Mod")),
    use("Equal", [IDS, IDS], None, 2),
    *(use("CumSum", [of(K.PADDING, 2), scalar(axis)], None, 2) for axis in (0, -1)),
    *(use("Add", [of(K.COUNTED_POSITION, 2), read], None, 2) for read in (stored(1, 2), COMPUTED)),
    *(
        use("Cast", [kind], None, to=to)
        for kind in (K.PADDING, K.COUNTED_POSITION, K.COUNT)
        for to in (ir.DataType.INT8, BOOL)
    ),
    *(use("Cast", [kind], None) for kind in (K.PADDING, K.COUNTED_POSITION, K.COUNT, K.MASK, K.HIDDEN)),
    use("Cast", [IDS], None, 2, to=FLOAT),
    # the padded width
    use("Expand", [WEIGHT, Read(K.SHAPE, None)], None, None),
    use("Expand", [WEIGHT, of(K.SHAPE, 2)], None, 2),
    use("Expand", [WEIGHT, Read(K.SHAPE, 1)], None, 1),
    use("Expand", [of(K.POSITION, 4), shape(3)], None, 4),
    use("Expand", [WEIGHT, shape(3)], None, 4),
    *(use("Unsqueeze", [K.WIDTH_PER_ROW, read], None, 4) for read in (stored(0), stored(0, 1), COMPUTED)),
    # the attention mask
    use("Cast", [MASK], None, 2, to=ir.DataType.FLOAT16),
    use("Cast", [MASK], None, 2, to=ir.DataType.INT8),
    *(use("Unsqueeze", [MASK, read], None) for read in (stored(0), stored(0, 1), COMPUTED, stored(shape=[0]))),
    *(use("Equal", [MASK, read], None, 2) for read in (scalar(1), stored(0, 1), COMPUTED)),
    use("Where", [MASK, BIAS, scalar(0)], None, 2),
    *(use("Where", [MASK, scalar(0), scalar(score)], None, 2) for score in (0, -30, -1e29, 3e38)),
    *(use("Where", [MASK, scalar(other), scalar(-3e38)], None, 2) for other in (1, -3e38)),
    *(use("Where", [ALL_AXES, of(K.POSITION, 4), scalar(score)], None, 4) for score in (-30, -1e29)),
    use("Where", [MASK, scalar(0), BIAS], None, 2),
    use("Where", [of(K.MASK), COMPUTED, scalar(0)], None),
    *(
        use(
            "Slice",
            [MASK, *(stored(number) if place == index else read for place, read in enumerate(BACKWARDS))],
            None,
            2,
        )
        for index, number in ((0, -2), (0, 0), (1, -57), (1, 0), (2, 0), (2, -1), (3, -2), (3, 1))
    ),
    *(use("Slice", [MASK, stored(-1), read, stored(1), stored(-1)], None, 2) for read in (COMPUTED, stored(LOWEST, 0))),
    *(use("ArgMax", [MASK], None, 1, **axis) for axis in ({}, {"axis": 0}, {"axis": -1})),
    *(
        use(operator, [kind, stored(axis)], None, 2)
        for operator, kind in (("ReduceSum", K.MASK), ("ReduceSum", K.WEIGHT), ("ReduceMax", K.MASK))
        for axis in (0, -1, 2)
    ),
    use("ReduceSum", [MASK], None, 2),
    use("ReduceMax", [MASK], None, 0, keepdims=0),
    *(use("ReduceMax", [MASK], None, 1, axes=[*numbers], keepdims=0) for numbers in ((0,), (0, 1), (-2,), (2,))),
    *(use("Cast", [of(K.ROW_IS_EMPTY, 1)], None, 1, to=to) for to in (INT32, FLOAT)),
    use("Equal", [of(K.ROW_IS_EMPTY, 1), scalar(1)], None, 1),
    *(use("Sub", [of(K.COUNT, 1), read], None, 1) for read in (scalar(2), COMPUTED)),
    use("Sub", [COUNT, COUNT], None, 2),
    *(use("Equal", [COUNT, scalar(number)], None, 2) for number in (0, 57)),
    *(use(operator, [COUNT, scalar(57)], None, 2) for operator in COMPARISONS),
    *(use("Clip", [COUNT, read], None, 2) for read in (scalar(1e-5), scalar(56), stored(0, 1), COMPUTED)),
    *(use(operator, [COUNT, stored(0)], None) for operator in ("Unsqueeze", "Squeeze")),
    *(use("Reshape", [COUNT, stored(*to)], None) for to in ((1, -1), (57, 1), (-1, 2), (-1, 1, 2), ())),
    use("Reshape", [COUNT, stored(-1, 1, shape=[1, 2])], None),
    use("Reshape", [COUNT, scalar(-1)], None),
    use("Reshape", [COUNT, COMPUTED], None),
    # hidden states
    *(use("Cast", [K.HIDDEN], None, to=to) for to in (INT64, BOOL, ir.DataType.FLOAT16)),
    use("MatMul", [WEIGHT, K.HIDDEN], None),
    *(use(operator, [K.HIDDEN, K.HIDDEN], None) for operator in ("Pow", "PRelu", "Min", "Max", "Equal", *COMPARISONS)),
    use("Equal", [K.HIDDEN, scalar(0)], None),
    *(use("Clip", [K.HIDDEN, read], None) for read in (BIAS, COMPUTED)),
    use("Clip", [K.HIDDEN, BIAS, scalar(6)], None),
    use("Clip", [K.HIDDEN, scalar(0), BIAS], None),
    use("Clip", [K.HIDDEN, K.NOTHING, COMPUTED], None),
    *(use(operator, [K.HIDDEN, read], None) for operator in COMPARISONS for read in (BIAS, COMPUTED)),
    *(use("Gemm", [HIDDEN, *rest], None, 2, transA=1) for rest in ([WEIGHT], [WEIGHT, BIAS])),
    *(use("LayerNormalization", [K.HIDDEN, *[BIAS] * count], None, axis=axis) for count in (1, 2) for axis in (0, 1)),
    *(use("Softmax", [K.HIDDEN], None, axis=axis) for axis in (0, 1)),
    *(use("Transpose", [K.HIDDEN], None, perm=order) for order in ([1, 0, 2], [2, 1, 0])),
    use("Transpose", [K.HIDDEN], None),
    *(use("Reshape", [HIDDEN, read], None) for read in (shape(3, K.OTHER_SHAPE), stored(-1, 1), shape(3, K.POSITION))),
    *(
        use(operator, [K.HIDDEN, stored(*axes)], None)
        for operator in ("Unsqueeze", "Squeeze")
        for axes in ((0,), (1, 0), (-3,))
    ),
    use("Unsqueeze", [K.HIDDEN, stored(-4)], None),
    use("RMSNormalization", [K.HIDDEN, BIAS], None, axis=1),
    *(
        use("Mul", [of(K.HIDDEN, rank), of(kind, rank)], None, rank)
        for rank in (2, 3)
        for kind in (K.POSITION, K.WIDTH_PER_ROW)
    ),
    *(use("RotaryEmbedding", [of(K.HIDDEN, 4), *[of(kind)] * 2], None, 4) for kind in (K.POSITION, K.STORED, K.HIDDEN)),
    *(use("Slice", [K.HIDDEN, stored(0), stored(4), read], None) for read in (stored(0), stored(-3), COMPUTED)),
    *(use("Slice", [K.HIDDEN, stored(0), stored(4), stored(*axes), stored(1)], None) for axes in ((0,), (1, 0), ())),
    use("Slice", [K.HIDDEN, stored(0), stored(4)], None),
    *(use("Split", [K.HIDDEN], None, axis=axis, num_outputs=2) for axis in (0, -3)),
    use("Split", [K.HIDDEN], None, num_outputs=2),
    use("And", [ALL_AXES, ALL_AXES], None, 4),
    use("Where", [ALL_AXES, of(K.POSITION, 4), BIAS], None, 4),
    use("Squeeze", [K.HIDDEN], None),
    *(
        use(operator, [K.HIDDEN, stored(*axes)], None, 2)
        for operator in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2")
        for axes in ((0,), (0, 1), (2,), (-2,), (-3,), ())
    ),
    use("ReduceMean", [K.HIDDEN], None, 2),
    *(
        use(operator, [K.HIDDEN], None, 2, axes=[*numbers], keepdims=0)
        for operator in ("ReduceMean", "ReduceMax", "ReduceL2")
        for numbers in ((0,), (0, 1), (2,), (-2,), (-3,))
    ),
    *(use("Concat", [HIDDEN, HIDDEN], None, 2, axis=axis) for axis in (0, 1)),
    use("Concat", [HIDDEN, HIDDEN], None, 2),
    *(use("Concat", [HIDDEN, of(kind, 2)], None, 2, axis=-1) for kind in Kind if kind not in (K.HIDDEN, K.NOTHING)),
    # both
    *(use("Attention", [*[K.HIDDEN] * 3, of(K.MASK, rank)], None) for rank in (2, 3, 5, None)),
    use("Where", [of(K.MASK), BIAS, K.HIDDEN], None),
    *(use("Where", [K.MASK, scalar(score), K.HIDDEN], None) for score in (0, -30, -1e29, 3e38)),
    use("Where", [K.MASK, stored(-3e38, -3e38, shape=[2]), K.HIDDEN], None),
    use("Where", [of(K.MASK), COMPUTED, K.HIDDEN], None),
    use("Where", [K.MASK, K.HIDDEN, scalar(0)], None),
    *(use("GatherElements", [K.HIDDEN, K.COUNT], None, **axis) for axis in ({}, {"axis": 0}, {"axis": 2})),
    *(
        use("GatherElements", [of(K.HIDDEN, 4), of(K.WIDTH_PER_ROW, rank)], None, 4, axis=axis)
        for rank, axis in ((4, 0), (4, 1), (4, 2), (4, -4), (3, 3), (None, 3))
    ),
    use("GatherElements", [of(K.HIDDEN, 3), of(K.WIDTH_PER_ROW, 3)], None, 3, axis=-1),
    *(use("GatherElements", [of(K.HIDDEN, 4), of(kind, 4)], None, 4, axis=3) for kind in (K.POSITION, K.STORED, K.IDS)),
    *(use("Squeeze", [ALL_AXES, stored(*axes)], None, 3) for axes in ((0,), (-4,), (1, 0), ())),
    use("Mul", [ALL_AXES, of(K.MASK, 3)], None, 4),
    *(use("Gather", [K.HIDDEN, scalar(0)], None, 2, **axis) for axis in ({}, {"axis": 0}, {"axis": 2})),
    use("Gather", [K.HIDDEN, scalar(57)], None, 2, axis=1),
    use("Gather", [K.HIDDEN, COMPUTED], None, 2, axis=1),
    use("Div", [K.COUNT, K.HIDDEN], None),
    # shapes
    *(
        use("Shape", [of(kind)], None, 1, start=0, end=1)
        for kind in Kind
        if kind not in {*WIDTH_ALONE, K.NOTHING, K.IDS, K.MASK}
    ),
    *(
        use("Shape", [IDS], None, 1, **ends)
        for ends in ({}, {"start": 0, "end": 2}, {"start": -2, "end": -1}, {"end": -1})
    ),
    *(
        use("Concat", [*first, K.BATCH], None, 1, axis=0)
        for first in ([K.WIDTH], [stored(1)], [K.BATCH], [K.BATCH, stored(1)])
    ),
    *(use("Concat", [K.BATCH, kind], None, 1, axis=0) for kind in Kind if kind not in (K.NOTHING, K.WIDTH, K.STORED)),
    *(use(operator, [K.BATCH, scalar(57)], None, 1) for operator in ("Equal", "Add", "Sub", "Min", *COMPARISONS)),
    *(use("Cast", [kind], None, 1, to=FLOAT) for kind in (K.BATCH, K.SHAPE)),
    *(use(operator, [K.BATCH], None, 0) for operator in ("Squeeze", "Not")),
    *(use("Gather", [K.SHAPE, scalar(index)], None, 0) for index in (0, 1)),
    *(use("Range", [scalar(0), kind, scalar(1)], None, 1) for kind in (K.BATCH, K.COUNT)),
    # operators that no rule has
    *(use(name, [K.HIDDEN], None) for name in ("Round", "Floor", "Shrink", "IsNaN", "NonZero", "Flatten", "Hardmax")),
    *(
        use(name, [K.HIDDEN, K.HIDDEN], None)
        for name in ("Einsum", "GatherND", "GatherElements", "Gather", "ScatterND", "Mod")
    ),
]


def other_axes(read: Read) -> Read:
    return replace(read, rank=(read.rank or 0) + 1)


# These broadcast nothing.
OF_OTHER_AXES = {
    *("Gather", "Reshape", "Unsqueeze", "Squeeze", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ArgMax"),
    *("Attention", "Concat"),
}
ROWS = {*Kind} - WIDTH_ALONE - {K.NOTHING, K.SHAPE, K.BATCH, K.REFUSED}
ALIGNED = [fit for fit in FITS if fit.operator not in OF_OTHER_AXES and ROWS & set(fit.kinds)]


@pytest.mark.parametrize("case", [*FITS, *SHAPES, *POSITIONS], ids=str)
def test_a_node_that_fits(case: Use) -> None:
    assert case.found() is case.gives


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_a_node_that_no_rule_allows(case: Use) -> None:
    assert case.found() is None


@pytest.mark.parametrize("index", range(len(RULES)))
def test_every_rule_is_tried(index: int) -> None:
    assert any(RULES[index].fits(case.node(), case.kinds) for case in FITS)


@pytest.mark.parametrize("case", FITS, ids=str)
def test_no_input_may_be_of_another_kind(case: Use) -> None:
    allowed = {(fit.operator, fit.kinds) for fit in (*FITS, *SHAPES)}
    for place, read in enumerate(case.reads):
        for kind in Kind:
            other = replace(case, reads=(*case.reads[:place], replace(read, kind=kind), *case.reads[place + 1 :]))
            if (case.operator, other.kinds) in allowed or set(other.kinds) <= WIDTH_ALONE or kind is K.NOTHING:
                continue
            assert other.found() is None, other


@pytest.mark.parametrize("case", [case for case in FITS if case.operator != "Concat"], ids=str)
def test_no_input_may_be_added_or_left_out(case: Use) -> None:
    allowed = {(fit.operator, fit.kinds) for fit in FITS}
    for kind in (K.HIDDEN, K.COUNT, K.BATCH, K.STORED):
        more = replace(case, reads=(*case.reads, of(kind)))
        assert (case.operator, more.kinds) in allowed or more.found() is None, more
    fewer = replace(case, reads=case.reads[:-1])
    if fewer.reads and not set(fewer.kinds) <= WIDTH_ALONE and (case.operator, fewer.kinds) not in allowed:
        assert fewer.found() is None


@pytest.mark.parametrize("case", FITS, ids=str)
def test_only_operators_of_onnx_without_a_subgraph(case: Use) -> None:
    node = case.node()
    node.domain = "com.microsoft"
    assert kind_of(node, case.kinds, PADDING_ID, LONGEST) is None
    for attribute in (ir.AttrGraph("body", ir.Graph([], [], nodes=[])), ir.AttrGraphs("body", [])):
        node = case.node()
        node.attributes["body"] = attribute
        assert kind_of(node, case.kinds, PADDING_ID, LONGEST) is None


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniform", "Bernoulli", "Dropout", "Multinomial"])
@pytest.mark.parametrize("kind", [K.STORED, K.WIDTH, K.POSITION, K.HIDDEN])
def test_no_random_operator(operator: str, kind: Kind) -> None:
    assert use(operator, [kind], None).found() is None


@pytest.mark.parametrize("operator", ["Constant", "RandomNormal", "Concat", "Identity"])
def test_no_operator_without_an_input(operator: str) -> None:
    assert use(operator, [], None).found() is None


@pytest.mark.parametrize("case", ALIGNED, ids=str)
def test_broadcasting_must_not_move_the_batch(case: Use) -> None:
    for rank in {None, 1, (case.rank or 0) + 1} - {case.rank}:
        assert replace(case, rank=rank).found() is None, rank
    for place, read in enumerate(case.reads):
        if read.kind in ROWS:
            for other in (other_axes(read), replace(read, rank=None)):
                reads = (*case.reads[:place], other, *case.reads[place + 1 :])
                assert replace(case, reads=reads).found() is None, reads


@pytest.mark.parametrize(
    "case", [case for case in FITS if case.gives is K.HIDDEN and case.operator != "Concat"], ids=str
)
def test_hidden_states_have_an_axis_besides_the_batch(case: Use) -> None:
    """Else the last axis is the batch, and ``Softmax`` or a sum over it reads other rows."""
    reads = tuple(replace(read, rank=1) if read.kind in ROWS else read for read in case.reads)
    assert replace(case, rank=1, reads=reads).found() is None
    assert replace(case, rank=None).found() is None
