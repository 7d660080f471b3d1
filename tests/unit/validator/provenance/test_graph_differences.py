"""What the comparison of two graphs says: each difference in full, which of them first, and what was compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from exporter.validator.check import Check
from exporter.validator.provenance.graph import check_graph
from exporter.validator.provenance.stored import Node, Value
from tests.support.stored_graphs import computed, int8_product, int8_rows, stored_graph, tensor

X, Y, IDS = Value("x", "float32"), Value("y", "float32"), Value("ids", "int64")


def compared(proven: Value, published: Value, precision: str = "fp32") -> Check:
    return check_graph(stored_graph(proven, X, Y, IDS), stored_graph(published, X, Y, IDS), precision)


def linear(x: Value, dtype: npt.DTypeLike = np.float32) -> Value:
    product = computed("MatMul", x, tensor("w", [[1, 2], [3, 4]], dtype))
    return computed("Add", product, tensor("b", [1, 2], dtype))


def casts(value: Value, *dtypes: str) -> Value:
    for dtype in dtypes:
        value = computed("Cast", value, name=f"cast.{dtype}", dtype=dtype)
    return value


def outputs(count: int) -> tuple[Value, ...]:
    """Return the outputs of one node."""
    node = Node("Split", "Split", (X,))
    node.outputs = tuple(Value(f"Split:{index}", "float32", producer=node, index=index) for index in range(count))
    return node.outputs


def both(make: Callable[..., Value], *inputs: Any, **changes: tuple[Any, Any]) -> tuple[Value, Value]:
    """Return the same in both graphs but for ``changes``: (proven, published) of each."""
    first, second = ({name: values[side] for name, values in changes.items()} for side in (0, 1))
    return make(*inputs, **first), make(*inputs, **second)


class TestEqualGraphs:
    def test_operators_and_tensors_are_counted(self) -> None:
        assert compared(linear(X), linear(X)) == Check(
            "graph",
            "2 operators and 2 stored tensors are those of the proven graph",
            (),
            {"operators": 2, "tensors": 2, "differences": 0},
        )

    def test_what_two_nodes_read_is_compared_once(self) -> None:
        first, second = (computed("Mul", value, value) for value in (linear(X), linear(X)))
        assert compared(first, second).figures == {"operators": 3, "tensors": 2, "differences": 0}

    def test_casts_of_both_graphs_are_counted(self) -> None:
        proven = casts(computed("Neg", X), "float16", "float32")
        published = casts(linear(casts(X, "float16"), np.float16), "float32")
        check = compared(linear(X), published, "fp16")
        assert check.coverage == "2 operators and 2 stored tensors are those of the proven graph, 2 casts"
        assert check.figures == {"operators": 2, "tensors": 2, "casts": 2, "differences": 0}
        assert compared(proven, computed("Neg", X), "fp16").figures == {"operators": 1, "casts": 2, "differences": 0}

    @pytest.mark.parametrize(
        ("proven", "published", "precision"),
        [
            (X, X, "fp32"),
            (tensor("w", [1, 2]), tensor("v", [1, 2]), "fp32"),
            (tensor("w", np.zeros((0, 2))), tensor("w", np.zeros((0, 2))), "fp32"),
            (tensor("w", [1, 2], np.int64), tensor("w", [1, 2], np.int64), "fp32"),
            (tensor("w", [1, 2]), tensor("w", [1, 2], np.float16), "fp16"),
            (tensor("w", [1, 2]), tensor("w", [1, 2], ml_dtypes.bfloat16), "bf16"),
            (computed("Neg", X, None), computed("Neg", X, None), "fp32"),
            (outputs(2)[1], outputs(2)[1], "fp32"),
            (*both(computed, "Neg", X, to=(np.ones(2), [1, 1])), "fp32"),
            (*both(computed, "Cast", IDS, dtype=("float32", "float16")), "fp16"),
        ],
    )
    def test_they_pass(self, proven: Value, published: Value, precision: str) -> None:
        assert compared(proven, published, precision).failures == ()


W, INTEGERS = tensor("w", [1, 2]), tensor("n", [1, 2], np.int64)
NEG = computed("Neg", X)
LOWEST = float(np.finfo(np.float32).min)

DIFFERENCES: list[tuple[Value, Value, str, str]] = [
    (NEG, computed("Abs", X), "fp32", "Abs Abs stands where the proven graph has Neg Neg"),
    (
        computed("Sum", X),
        computed("Sum", X, X),
        "fp32",
        "Sum Sum has other inputs or outputs than Sum Sum of the proven graph",
    ),
    (
        outputs(2)[0],
        outputs(2)[1],
        "fp32",
        "Split Split has other inputs or outputs than Split Split of the proven graph",
    ),
    *(
        (*both(computed, "Neg", X, axis=values), "fp32", f"Neg Neg: axis is {said}")
        for values, said in (
            ((1, 2), "2, and the proven graph has 1"),
            ((None, 2), "2, and the proven graph has None"),
            ((1e-5, 1e-12), "1e-12, and the proven graph has 1e-05"),
            ((np.ones(2), np.ones(3)), "[1. 1. 1.], and the proven graph has [1. 1.]"),
            ((np.ones(2), "no"), "no, and the proven graph has [1. 1.]"),
            (("tanh", np.ones(2)), "[1. 1.], and the proven graph has tanh"),
        )
    ),
    (computed("Neg", X, axis=1), NEG, "fp32", "Neg Neg: axis is None, and the proven graph has 1"),
    (NEG, computed("Neg", X, axis=1), "fp32", "Neg Neg: axis is 1, and the proven graph has None"),
    (
        *both(computed, "Cast", IDS, dtype=("float32", "float16")),
        "fp32",
        "Cast Cast casts to float16, and Cast Cast to float32",
    ),
    (
        *both(computed, "Cast", IDS, dtype=("float16", "float32")),
        "fp16",
        "Cast Cast casts to float32, and Cast Cast to float16",
    ),
    (
        computed("Clip", X, Y),
        computed("Clip", X, None),
        "fp32",
        "Clip Clip lacks an input that Clip Clip of the proven graph has, or has one more",
    ),
    (
        computed("Clip", X, None),
        computed("Clip", X, Y),
        "fp32",
        "Clip Clip lacks an input that Clip Clip of the proven graph has, or has one more",
    ),
    (NEG, casts(NEG, "float64"), "fp32", "cast.float64: is cast to float64"),
    (NEG, casts(NEG, "bfloat16", "float32"), "fp16", "cast.bfloat16: is cast to bfloat16"),
    (X, Y, "fp32", "the input y is read where the proven graph has the input x"),
    (X, NEG, "fp32", "Neg Neg is read where the proven graph has the input x"),
    (NEG, X, "fp32", "the input x is read where the proven graph has Neg Neg"),
    (W, NEG, "fp32", "Neg Neg is read where the proven graph has w (float32 [2])"),
    (NEG, W, "fp32", "w (float32 [2]) is read where the proven graph has Neg Neg"),
    (W, tensor("v", [1, 2, 3]), "fp32", "v (float32 [3]), and the proven graph has w (float32 [2])"),
    (W, tensor("v", [1, 2], np.float16), "fp32", "v (float16 [2]), and the proven graph has w (float32 [2])"),
    (tensor("v", [1, 2], np.float16), W, "fp16", "w (float32 [2]), and the proven graph has v (float16 [2])"),
    (
        INTEGERS,
        tensor("m", [1, 3], np.int64),
        "fp32",
        "m (int64 [2]) holds other numbers than n (int64 [2]) of the proven graph",
    ),
    (
        W,
        tensor("v", [0, 3]),
        "fp32",
        "v (float32 [2]) is not w (float32 [2]) of the proven graph: 2 of 2 numbers differ, first at (0,)",
    ),
    (
        tensor("w", np.zeros((40, 50))),
        tensor("v", np.eye(40, 50, -1)),
        "fp32",
        "v (float32 [40, 50]) is not w (float32 [40, 50]) of the proven graph: 39 of 2,000 numbers differ, "
        "first at (1, 0)",
    ),
    (
        tensor("half", 0.5),
        tensor("third", 1 / 3),
        "fp32",
        "third (float32 []) is not half (float32 []) of the proven graph: 0.333333 instead of 0.5",
    ),
]


@pytest.mark.parametrize(
    ("proven", "published", "precision", "said"), DIFFERENCES, ids=[said for *_, said in DIFFERENCES]
)
def test_a_difference_is_said_in_full(proven: Value, published: Value, precision: str, said: str) -> None:
    check = compared(proven, published, precision)
    assert check.failures == (said,)
    assert check.figures["differences"] == 1


class TestLowestNumbers:
    """An additive mask is the lowest number of its type."""

    @pytest.mark.parametrize(
        ("number", "dtype", "becomes", "precision", "equal"),
        [
            (LOWEST, np.float16, -65504, "fp16", True),
            (-LOWEST, np.float16, 65504, "fp16", True),
            (LOWEST, np.float16, -65472, "fp16", False),
            (-np.inf, np.float16, -np.inf, "fp16", True),
            (-np.inf, np.float16, -65504, "fp16", False),
            (-1.0, np.float16, -65504, "fp16", False),
            (LOWEST, ml_dtypes.bfloat16, -(2.0**127) * (2 - 2**-7), "bf16", True),
            (LOWEST, np.float32, -65504, "fp16", False),
        ],
    )
    def test_one_beyond_those_of_the_type_becomes_the_last(
        self, number: float, dtype: npt.DTypeLike, becomes: float, precision: str, equal: bool
    ) -> None:
        check = compared(tensor("lowest", number), tensor("lowest", becomes, dtype), precision)
        assert check.passed == equal

    def test_a_tensor_of_several_is_rounded(self) -> None:
        check = compared(tensor("w", [LOWEST, 1]), tensor("w", [-65504, 1], np.float16), "fp16")
        assert check.failures == (
            "w (float16 [2]) is not w (float32 [2]) of the proven graph: 1 of 2 numbers differ, first at (0,)",
        )

    def test_float64_differs_as_other_types_do(self) -> None:
        check = compared(tensor("w", 1.0, np.float64), tensor("w", 2.0, np.float64))
        assert check.failures == ("w (float64 []) is not w (float64 []) of the proven graph: 2 instead of 1",)


class TestOrder:
    @staticmethod
    def chain(*axes: int) -> Value:
        value = X
        for index, axis in enumerate(axes):
            value = computed("Neg", value, name=f"{index}", axis=axis)
        return value

    @pytest.mark.parametrize(
        ("wrong", "more"), [(3, ()), (4, ("and 1 more differences",)), (5, ("and 2 more differences",))]
    )
    def test_three_are_named_from_the_inputs_on(self, wrong: int, more: tuple[str, ...]) -> None:
        check = compared(self.chain(*[0] * wrong), self.chain(*[1] * wrong))
        named = tuple(f"Neg {index}: axis is 1, and the proven graph has 0" for index in range(3))
        assert check.failures == named + more
        assert check.figures["differences"] == wrong

    @pytest.mark.parametrize(
        ("proven", "published", "structural"),
        [
            (NEG, computed("Abs", X), True),
            (NEG, X, True),
            (computed("Neg", W), computed("Neg", X), True),
            (computed("Neg", X), computed("Neg", Y), False),
            (computed("Neg", W), computed("Neg", tensor("w", [1, 3])), False),
            (computed("Neg", X, axis=1), NEG, False),
            (computed("Sum", X), computed("Sum", X, X), False),
        ],
        ids=["operator", "input for a node", "input for a tensor", "input", "numbers", "attribute", "inputs"],
    )
    def test_from_the_output_back_where_operators_differ(
        self, proven: Value, published: Value, structural: bool
    ) -> None:
        """What is behind an operator too many is compared with the wrong counterpart."""
        failures = compared(
            computed("Concat", proven, self.chain(0)), computed("Concat", published, self.chain(1))
        ).failures
        last = "Neg 0: axis is 1, and the proven graph has 0"
        assert len(failures) == 2
        assert failures.index(last) == (0 if structural else 1)

    def test_a_node_for_an_input_is_in_the_wrong_place_too(self) -> None:
        proven, published = computed("Concat", X, self.chain(0)), computed("Concat", NEG, self.chain(1))
        assert compared(proven, published).failures == (
            "Neg 0: axis is 1, and the proven graph has 0",
            "Neg Neg is read where the proven graph has the input x",
        )


def test_the_contract_is_compared_by_name() -> None:
    proven = stored_graph(NEG, X, contract={"input x": "float32", "operator set ai.onnx": "23", "same": "1"})
    published = stored_graph(NEG, X, contract={"input x": "float16", "metadata padding": "right", "same": "1"})
    assert check_graph(proven, published, "fp32").failures == (
        "input x: float16, and the proven graph has float32",
        "metadata padding: right, and the proven graph has None",
        "operator set ai.onnx: None, and the proven graph has 23",
    )


WEIGHT = [[127, -127], [64.25, 1]]
PROVEN = computed("MatMul", X, tensor("w", WEIGHT))
GATHER = computed("Gather", tensor("words", [[137, 20], [10, 147], [-117, -107]]), IDS)


def product(x: Value = X, **options: Any) -> Value:
    return int8_product(x, name="int8", **options)


def table(factor: float = 1) -> Value:
    return int8_rows(IDS, tensor("scales", [[factor], [1], [1]]), name="int8")


INT8_DIFFERENCES: list[tuple[Value, Value, str]] = [
    (NEG, product(), "MatMul int8 stands where the proven graph has Neg Neg"),
    (
        computed("Add", NEG, tensor("b", [1, 2])),
        computed("Add", product(), tensor("b", [1, 2])),
        "MatMul int8 stands where the proven graph has Neg Neg",
    ),
    (computed("MatMul", X, Y), product(), "MatMul int8 stands where the proven graph has MatMul MatMul"),
    (
        computed("MatMul", None, tensor("w", WEIGHT)),
        product(),
        "MatMul int8 stands where the proven graph has MatMul MatMul",
    ),
    (computed("MatMul", X, None), product(), "MatMul int8 stands where the proven graph has MatMul MatMul"),
    (
        computed("MatMul", X, tensor("w", [[1, 2]])),
        product(),
        "w.int8 [2, 2], and the proven graph has w (float32 [1, 2])",
    ),
    (
        PROVEN,
        product(integers=((127, -127), (63, 3))),
        "w.int8 is not w (float32 [2, 2]) of the proven graph in int8: 2 of 4 numbers are off by more than "
        "half a step, first at (1, 0)",
    ),
    (
        computed("MatMul", X, tensor("w", [[0.25, 0], [0, 0]])),
        product(integers=((0, 0), (0, 0))),
        "w.int8 (int8 [2, 2]) has larger steps than int8 needs for w: half a step of it proves nothing",
    ),
    (PROVEN, product(Y), "the input y is read where the proven graph has the input x"),
    (
        computed("Add", PROVEN, tensor("b", [1, 2])),
        computed("Add", product(), tensor("b.int8", [1, 1000])),
        "b.int8 differs from b by 998 at 1, and the rounding of its MatMul explains 191",
    ),
    (
        PROVEN,
        computed("Add", product(), tensor("b.int8", [1, 1000])),
        "b.int8 differs from no bias by 1e+03 at 1, and the rounding of its MatMul explains 191",
    ),
    (
        computed("Add", PROVEN, tensor("b", [1, 2])),
        computed("Add", product(), tensor("b.int8", [1])),
        "b.int8 (float32 [1]), and the proven graph has b (float32 [2])",
    ),
    (
        computed("Add", PROVEN, tensor("b", [1, 2])),
        computed("Add", product(), tensor("b.int8", [1, 2], np.float64)),
        "b.int8 (float64 [2]), and the proven graph has b (float32 [2])",
    ),
    (
        PROVEN,
        computed("Add", product(), tensor("b.int8", [1, 2], np.float64)),
        "b.int8 (float64 [2]), and the proven graph has no bias (float32 [2])",
    ),
    (
        computed("Add", PROVEN, tensor("b", [1, 2])),
        computed("Add", product(scales=(1, 1.02)), tensor("b.int8", [1, 1000])),
        "w.int8 is not w (float32 [2, 2]) of the proven graph in int8: 1 of 4 numbers are off by more than "
        "half a step, first at (0, 1)",
    ),
    (
        computed("Gather", Y, IDS),
        table(),
        "Add int8 stands where the proven graph has Gather Gather",
    ),
    (
        computed("Gather", None, IDS),
        table(),
        "Add int8 stands where the proven graph has Gather Gather",
    ),
    (
        computed("Gather", tensor("words", [[1, 2]]), None),
        table(),
        "Add int8 stands where the proven graph has Gather Gather",
    ),
    (
        computed("Gather", tensor("words", [[1, 2]]), IDS, axis=1),
        table(),
        "Add int8 stands where the proven graph has Gather Gather",
    ),
    (
        computed("Gather", tensor("words", [[1, 2]]), IDS),
        table(),
        "words.int8 [3, 2], and the proven graph has words (float32 [1, 2])",
    ),
    (
        GATHER,
        table(factor=1.01),
        "words.int8 is not words (float32 [3, 2]) of the proven graph in int8: 1 of 6 numbers are off by more "
        "than half a step, first at (0, 0)",
    ),
    (NEG, table(), "Add int8 stands where the proven graph has Neg Neg"),
]


class TestInt8:
    def test_a_product(self) -> None:
        assert compared(PROVEN, product(), "int8") == Check(
            "graph",
            "0 operators and 1 stored tensors are those of the proven graph, 1 int8 MatMul",
            (),
            {"int8 MatMuls": 1, "tensors": 1, "smoothed activations": 0, "differences": 0},
        )

    def test_a_smoothed_product_with_a_corrected_bias(self) -> None:
        proven = computed("Add", PROVEN, tensor("b", [1, 2]))
        published = computed("Add", product(inverse=tensor("smooth", [1, 1])), tensor("b.int8", [1.5, 2]))
        assert compared(proven, published, "int8") == Check(
            "graph",
            "1 operators and 2 stored tensors are those of the proven graph, 1 int8 MatMul, 1 smoothed activation, "
            "1 corrected bias",
            (),
            {
                "operators": 1,
                "int8 MatMuls": 1,
                "tensors": 2,
                "corrected biases": 1,
                "smoothed activations": 1,
                "differences": 0,
            },
        )

    def test_a_table(self) -> None:
        assert compared(GATHER, table(), "int8") == Check(
            "graph",
            "0 operators and 1 stored tensors are those of the proven graph, 1 int8 table",
            (),
            {"int8 tables": 1, "tensors": 1, "differences": 0},
        )

    def test_a_bias_that_is_added_where_there_was_none(self) -> None:
        check = compared(PROVEN, computed("Add", product(), tensor("b", [1, 2])), "int8")
        assert check.failures == ()
        assert check.figures["corrected biases"] == 1
        check = compared(PROVEN, computed("Add", product(), tensor("b", [0, 0])), "int8")
        assert check.failures == ()
        assert "corrected biases" not in check.figures

    @pytest.mark.parametrize("operator", ["Mul", "Sub", "Max"])
    def test_another_operation_of_a_product_and_a_tensor(self, operator: str) -> None:
        def graph(multiplied: Value, number: float, operator: str = operator) -> Value:
            return computed(operator, multiplied, tensor("half", number))

        assert compared(graph(PROVEN, 0.5), graph(product(), 0.5), "int8").failures == ()
        assert compared(graph(PROVEN, 0.25), graph(product(), 0.5), "int8").failures == (
            "half (float32 []) is not half (float32 []) of the proven graph: 0.5 instead of 0.25",
        )
        assert compared(graph(PROVEN, 0.5, "Add"), graph(product(), 0.5), "int8").failures == (
            f"{operator} {operator} stands where the proven graph has Add Add",
        )

    def test_a_sum_of_a_product_and_a_tensor_in_place_of_a_sum_of_two_products(self) -> None:
        proven = computed("Add", PROVEN, computed("MatMul", Y, tensor("v", WEIGHT)))
        check = compared(proven, computed("Add", product(), tensor("b", [1, 2])), "int8")
        assert check.failures == ("b (float32 [2]) is read where the proven graph has MatMul MatMul",)

    def test_a_bias_in_place_of_one_on_an_input(self) -> None:
        proven = computed("Add", X, tensor("b", [1, 2]))
        check = compared(proven, computed("Add", product(), tensor("b", [1, 2])), "int8")
        assert check.failures == ("MatMul int8 is read where the proven graph has the input x",)

    @pytest.mark.parametrize(("proven", "published", "said"), INT8_DIFFERENCES)
    def test_a_difference_is_said_in_full(self, proven: Value, published: Value, said: str) -> None:
        assert compared(proven, published, "int8").failures == (said,)

    @pytest.mark.parametrize(
        ("proven", "published"), [(NEG, product()), (computed("Gather", Y, IDS), table())], ids=["product", "table"]
    )
    def test_another_operator_is_named_last(self, proven: Value, published: Value) -> None:
        failures = compared(
            computed("Concat", proven, computed("Neg", X, name="0", axis=0)),
            computed("Concat", published, computed("Neg", X, name="0", axis=1)),
            "int8",
        ).failures
        assert failures[0] == "Neg 0: axis is 1, and the proven graph has 0"
        assert len(failures) == 2

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_int8_is_none_of_another_precision(self, precision: str) -> None:
        assert not compared(PROVEN, product(), precision).passed
        assert not compared(GATHER, table(), precision).passed


@pytest.mark.parametrize(
    ("proven", "published", "precision", "said"),
    [*DIFFERENCES, *((proven, published, "int8", said) for proven, published, said in INT8_DIFFERENCES)],
)
def test_a_difference_has_the_place_of_the_node_of_the_proven_graph(
    proven: Value, published: Value, precision: str, said: str
) -> None:
    """Between those of the nodes before and after it; what is wrong with an input or a cast has none."""

    def among_others(value: Value, axis: int) -> Value:
        first, last = (computed("Neg", X, name=name, axis=axis) for name in ("first", "last"))
        return computed("Concat", first, computed("Neg", value), last)

    failures = compared(among_others(proven, 0), among_others(published, 1), precision).failures
    assert len(failures) == 3
    assert said in failures
    has_none = said.endswith("the input x") or "is cast to" in said
    assert (failures[1] == said) != has_none
