"""Stored graphs made by hand, for tests of what is read from one: no file, no engine."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.validator.provenance.quantized import Integers, QuantizedMatMul
from exporter.validator.provenance.stored import Node, StoredGraph, Value

Numbers = Any
"""A number, an array, or numbers in lists: whole ones among fractions, which ``npt.ArrayLike`` does not allow."""


def tensor(name: str, numbers: Numbers, dtype: npt.DTypeLike = np.float32) -> Value:
    """Return a stored tensor."""
    array = np.asarray(numbers, dtype)
    return Value(name, array.dtype.name, array.shape, load=lambda: array)


def computed(operator: str, *inputs: Value | None, name: str = "", dtype: str = "float32", **attributes: Any) -> Value:
    """Return the output of a new node, which is called after its operator unless it has a name."""
    node = Node(name or operator, operator, inputs, attributes)
    value = Value(f"{node.name}:", dtype, producer=node)
    node.outputs = (value,)
    return value


def stored_graph(
    output: Value,
    *inputs: Value,
    unread: tuple[Value, ...] = (),
    contract: Mapping[str, str] = MappingProxyType({}),
) -> StoredGraph:
    """Return the graph that computes ``output``; the file holds ``unread`` too."""
    nodes: dict[Node, None] = {}
    stored: dict[Value, None] = {}

    def visit(value: Value) -> None:
        if value.is_stored:
            stored[value] = None
        elif value.producer is not None and value.producer not in nodes:
            for read in value.producer.inputs:
                if read is not None:
                    visit(read)
            nodes[value.producer] = None

    visit(output)
    return StoredGraph("model.onnx", inputs, output, tuple(nodes), (*stored, *unread), contract)


def quantized_matmul(
    integers: Numbers,
    scales: Numbers = 0.01,
    zero_points: Numbers = 0.0,
    *,
    dtype: npt.DTypeLike = np.int8,
    inverse: Value | None = None,
    step: float | None = None,
    largest: float | None = None,
) -> QuantizedMatMul:
    """Return an int8 MatMul whose weight (inputs, outputs) is called ``"w"``."""
    values = tensor("w", integers, dtype)
    weight = Integers(values, np.asarray(scales, np.float64), np.asarray(zero_points, np.float64), (values,))
    product = computed("MatMul", name="layer.0/MatMul")
    assert product.producer is not None
    return QuantizedMatMul(product.producer, product, Value("x", "float32"), inverse, weight, step, largest)


def int8_product(
    x: Value,
    integers: Numbers = ((127, -127), (64, 1)),
    scales: Numbers = (1, 1),
    *,
    name: str = "int8/MatMul",
    inverse: Value | None = None,
) -> Value:
    """Return a static int8 MatMul: the activation is restored in steps of a half, from -50 to 77.5."""
    source = x if inverse is None else computed("Mul", x, inverse, name="smooth")
    steps = (tensor("step", 0.5), tensor("zero", 100, np.uint8))
    quantized = computed("QuantizeLinear", source, *steps, dtype="uint8")
    weight = (tensor("w.int8", integers, np.int8), tensor("w.scales", scales), tensor("w.zeros", [0, 0], np.int8))
    activation, restored = computed("DequantizeLinear", quantized, *steps), computed("DequantizeLinear", *weight)
    return computed("MatMul", activation, restored, name=name)


def int8_rows(
    ids: Value,
    scales: Value,
    mean: Numbers = (10, 20),
    *,
    name: str = "embeddings.word_embeddings/Gather/Add",
) -> Value:
    """Return rows gathered from an int8 table (3, 2) of 127 steps or none."""
    table = tensor("words.int8", [[127, 0], [0, 127], [-127, -127]], np.int8)
    rows = computed("Cast", computed("Gather", table, ids, name="rows", dtype="int8"))
    product = computed("Mul", rows, computed("Gather", scales, ids, name="scales"))
    return computed("Add", product, tensor("mean", mean), name=name)
