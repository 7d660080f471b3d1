"""What is asked of a stored graph: who reads a value, what the vectors are computed from, what a node's terms are."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.validator.provenance.stored import Node, Value, blocks, made_by, reached, stored_operand, uncast
from tests.support.stored_graphs import computed, stored_graph, tensor


class TestValue:
    def test_a_stored_tensor_is_read_anew_by_every_call(self) -> None:
        made: list[np.ndarray] = []

        def load() -> np.ndarray:
            made.append(np.zeros((2, 3)))
            return made[-1]

        value = Value("w", "float64", (2, 3), load)
        assert value.is_stored
        assert value.size == 6
        assert value.array() is made[0]
        assert value.array() is made[1]

    def test_an_input_is_the_only_output_of_nothing(self) -> None:
        value = Value("input_ids", "int64")
        assert not value.is_stored
        assert (value.shape, value.size, value.producer, value.index) == ((), 1, None, 0)

    def test_what_is_computed_has_no_numbers(self) -> None:
        with pytest.raises(ValueError, match=r"^x is computed, not stored$"):
            Value("x", "float32").array()

    @pytest.mark.parametrize(
        ("dtype", "is_float"),
        [
            *((name, True) for name in ("float16", "bfloat16", "float32", "float64")),
            *((name, False) for name in ("int8", "int64", "bool", "float8e4m3fn", None)),
        ],
    )
    def test_floating_point_types(self, dtype: str | None, is_float: bool) -> None:
        assert Value("x", dtype).is_float == is_float


def test_a_node_is_said_by_operator_and_name() -> None:
    node = Node("layer.0/MatMul", "MatMul", ())
    assert str(node) == "MatMul layer.0/MatMul"
    assert (node.attributes, node.outputs) == ({}, ())


class TestGraph:
    def test_the_readers_of_a_value_are_in_the_order_of_the_nodes(self) -> None:
        x, w = Value("x", "float32"), tensor("w", [1, 2])
        square = computed("Mul", x, x, None)
        total = computed("Add", square, w)
        product = computed("Mul", total, w, name="last")
        graph = stored_graph(product, x, unread=(unread := tensor("spare", [1]),))
        readers = {value.name: [node.name for node in nodes] for value, nodes in graph.readers.items()}
        assert readers == {"x": ["Mul", "Mul"], "w": ["Add", "last"], "Mul:": ["Add"], "Add:": ["last"]}
        assert unread not in graph.readers

    def test_what_the_vectors_are_computed_from(self) -> None:
        x, w, spare = Value("x", "float32"), tensor("w", [1, 2]), tensor("spare", [1])
        total = computed("Add", x, w, None)
        output = computed("Mul", total, total)
        computed("Neg", total, spare)
        assert reached(stored_graph(output, x, unread=(spare,))) == {x, w, total, output}


class TestCasts:
    INTEGERS = Value("ids", "int64")
    HALF = Value("h", "float16")

    def test_casts_between_floats_are_left_out(self) -> None:
        product = computed("MatMul", self.HALF)
        cast = computed("Cast", computed("Cast", product, dtype="float16"))
        assert uncast(cast) is product
        assert uncast(product) is product
        assert uncast(self.HALF) is self.HALF
        assert made_by(cast, "MatMul") is product.producer
        assert made_by(product, "MatMul") is product.producer

    @pytest.mark.parametrize(
        "cast",
        [
            computed("Cast", INTEGERS),
            computed("Cast", HALF, dtype="int64"),
            computed("Cast", INTEGERS, dtype="int32"),
            computed("Cast", None),
            computed("Identity", HALF),
        ],
        ids=["from integers", "to integers", "between integers", "of nothing", "no cast"],
    )
    def test_other_casts_are_operators(self, cast: Value) -> None:
        assert cast.producer is not None
        assert uncast(cast) is cast
        assert made_by(cast, cast.producer.operator) is cast.producer

    @pytest.mark.parametrize("value", [None, HALF, tensor("w", [1]), computed("Add", HALF)])
    def test_what_another_operator_computes_is_not_made_by_it(self, value: Value | None) -> None:
        assert made_by(value, "MatMul") is None


class TestOperands:
    X, W = Value("x", "float32"), tensor("w", [1, 2])

    @pytest.mark.parametrize(
        ("inputs", "expected"),
        [
            ((X, W), (X, W)),
            ((W, X), (X, W)),
            ((X, X), None),
            ((W, W), None),
            ((X, None), None),
            ((W, None), None),
            ((None, W), None),
            ((None, X), None),
            ((None, None), None),
            ((W,), None),
            ((X, W, W), None),
            ((), None),
        ],
    )
    def test_one_of_two_is_stored(self, inputs: tuple[Value | None, ...], expected: tuple[Value, Value] | None) -> None:
        assert stored_operand(Node("n", "Add", inputs)) == expected


@pytest.mark.parametrize(
    ("shape", "numbers", "expected"),
    [
        ((), 4, [slice(None)]),
        ((0,), 4, []),
        ((5,), 2, [slice(0, 2), slice(2, 4), slice(4, 6)]),
        ((4,), 4, [slice(0, 4)]),
        ((3, 2, 2), 8, [slice(0, 2), slice(2, 4)]),
        ((2, 100), 8, [slice(0, 1), slice(1, 2)]),
        ((3, 0), 2, [slice(0, 2), slice(2, 4)]),
    ],
)
def test_a_block_has_as_many_rows_as_hold_so_many_numbers(
    shape: tuple[int, ...], numbers: int, expected: list[slice]
) -> None:
    assert list(blocks(shape, numbers)) == expected


def test_a_block_holds_65536_numbers() -> None:
    assert list(blocks((2**16 + 1,))) == [slice(0, 2**16), slice(2**16, 2**17)]
