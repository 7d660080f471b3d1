"""Graph equivalence: the published graph is the proven one, operator for operator, but for recorded differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from exporter.targets import Precision
from exporter.validator.check import Check
from exporter.validator.provenance.bias import judge_correction
from exporter.validator.provenance.matching import coarse, difference
from exporter.validator.provenance.quantized import (
    QuantizedMatMul,
    QuantizedTable,
    gathers_rows,
    quantized_matmuls,
    quantized_tables,
)
from exporter.validator.provenance.stored import Array, Node, StoredGraph, Value, cast_source, stored_operand, uncast
from exporter.validator.provenance.tensors import LARGEST, FloatTensor, MatMulTensor, TableTensor
from exporter.validator.provenance.weights import FLOAT_TYPES

_NAMED = 3  # differences that are named in full

_RECORDED = {  # recorded differences: the name of many, and of one
    "casts": "cast",
    "int8 MatMuls": "int8 MatMul",
    "smoothed activations": "smoothed activation",
    "int8 tables": "int8 table",
    "corrected biases": "corrected bias",
}

Pair = tuple[Value, Value]


def check_graph(proven: StoredGraph, published: StoredGraph, precision: str) -> Check:
    """Compare the published graph with the float32 graph that passed its gate, from the output to the inputs.

    Two graphs are equal where the same operators with the same attributes read the same in the same order, down to
    the inputs and the stored tensors. Recorded differences are: casts between float32 and the precision's type, stored
    numbers rounded to it (a scalar below its lowest number becomes that), and for int8 the MatMuls and tables of
    ``quantized``, with smoothing and with corrected or added biases.

    Args:
        proven: The graph that passed the float32 gate, after the passes of the published one's target.
        published: What is published.
        precision: A key of ``weights.FLOAT_TYPES``.
    """
    return _Comparison(proven, published, precision).check()


class _Comparison:
    def __init__(self, proven: StoredGraph, published: StoredGraph, precision: str) -> None:
        self._proven, self._published = proven, published
        self._types = FLOAT_TYPES[precision]
        quantized = Precision(precision).is_int8
        self._matmuls = quantized_matmuls(published) if quantized else {}
        self._tables = quantized_tables(published) if quantized else {}
        self._order = {node: position for position, node in enumerate(proven.nodes)}
        self._counts: Counter[str] = Counter()
        self._differences: list[tuple[int, str]] = []
        self._structural = False

    def check(self) -> Check:
        self._compare_contracts()
        frontier, seen = [(self._proven.output, self._published.output)], set[Pair]()
        while frontier:
            pair = frontier.pop()
            if pair not in seen:
                seen.add(pair)
                frontier.extend(self._compare(*(self._uncast(value) for value in pair)))
        found = self._in_order()
        failures = found[:_NAMED] + ([f"and {len(found) - _NAMED} more differences"] if len(found) > _NAMED else [])
        return Check("graph", self._coverage(), tuple(failures), {**self._counts, "differences": len(found)})

    def _in_order(self) -> list[str]:
        """Return the differences from the inputs on; from the output back where operators differ.

        Beyond an operator too many or too few, everything towards the inputs is compared with the wrong counterpart.
        """
        return [text for _, text in sorted(self._differences, reverse=self._structural)]

    def _coverage(self) -> str:
        counts = self._counts
        parts = [
            f"{counts['operators']} operators and {counts['tensors']} stored tensors are those of the proven graph"
        ]
        parts += [
            f"{counts[many]} {one if counts[many] == 1 else many}" for many, one in _RECORDED.items() if counts[many]
        ]
        return ", ".join(parts)

    def _differ(self, node: Node | None, text: str, *, structural: bool = False) -> None:
        self._structural |= structural
        self._differences.append((self._order[node] if node is not None else -1, text))

    def _compare_contracts(self) -> None:
        proven, published = self._proven.contract, self._published.contract
        for name in sorted(proven.keys() | published.keys()):
            if proven.get(name) != published.get(name):
                self._differ(None, f"{name}: {published.get(name)}, and the proven graph has {proven.get(name)}")

    def _uncast(self, value: Value) -> Value:
        """Return what a value was before casts between the types that the precision has."""
        while (source := cast_source(value)) is not None:
            if value.dtype not in self._types:
                self._differ(None, f"{value.name} is cast to {value.dtype}")
            self._counts["casts"] += 1
            value = source
        return value

    def _compare(self, proven: Value, published: Value) -> Iterator[Pair]:
        """Compare two values; yield the pairs of values that they are computed from."""
        if proven.is_stored or published.is_stored:
            self._compare_stored(proven, published)
            return
        first, second = proven.producer, published.producer
        if first is None or second is None:
            if first is not second or proven.name != published.name:
                text = f"{_said(published)} is read where the proven graph has {_said(proven)}"
                self._differ(first, text, structural=first is not None or second is not None)
            return
        if published in self._tables and first.operator == "Gather":
            yield from self._compare_table(first, self._tables[published])
        elif published in self._matmuls:
            yield from self._compare_matmul(first, self._matmuls[published], None)
        elif (operands := stored_operand(second)) is not None and uncast(operands[0]) in self._matmuls:
            yield from self._compare_biased(first, second, self._matmuls[self._uncast(operands[0])], operands[1])
        else:
            yield from self._compare_nodes(first, second, proven.index == published.index)

    def _compare_nodes(self, first: Node, second: Node, same_output: bool) -> Iterator[Pair]:
        self._counts["operators"] += 1
        if first.operator != second.operator:
            self._differ(first, f"{second} stands where the proven graph has {first}", structural=True)
            return
        if not same_output or len(first.inputs) != len(second.inputs):
            self._differ(first, f"{second} has other inputs or outputs than {first} of the proven graph")
            return
        for name in sorted(first.attributes.keys() | second.attributes.keys()):
            ours, theirs = first.attributes.get(name), second.attributes.get(name)
            if not _equal(ours, theirs):
                self._differ(first, f"{second}: {name} is {_plain(theirs)}, and the proven graph has {_plain(ours)}")
        if first.operator == "Cast" and not self._same_type(first.outputs[0].dtype, second.outputs[0].dtype):
            self._differ(first, f"{second} casts to {second.outputs[0].dtype}, and {first} to {first.outputs[0].dtype}")
        for ours, theirs in zip(first.inputs, second.inputs, strict=True):
            if ours is not None and theirs is not None:
                yield ours, theirs
            elif ours is not theirs:
                self._differ(first, f"{second} lacks an input that {first} of the proven graph has, or has one more")

    def _same_type(self, first: str | None, second: str | None) -> bool:
        return first == second or (first == "float32" and second in self._types)

    def _compare_stored(self, proven: Value, published: Value) -> None:
        """Compare two stored tensors: equal, or rounded to one of the precision's types."""
        self._counts["tensors"] += 1
        readers = self._proven.readers.get(proven, (None,))
        if not (proven.is_stored and published.is_stored):
            self._differ(
                readers[0], f"{_said(published)} is read where the proven graph has {_said(proven)}", structural=True
            )
        elif proven.shape != published.shape or not self._same_type(proven.dtype, published.dtype):
            self._differ(readers[0], f"{_said(published)}, and the proven graph has {_said(proven)}")
        elif proven.is_float:
            self._compare_floats(readers[0], proven, published)
        elif not np.array_equal(proven.array(), published.array()):
            self._differ(readers[0], f"{_said(published)} holds other numbers than {_said(proven)} of the proven graph")

    def _compare_floats(self, reader: Node | None, proven: Value, published: Value) -> None:
        values, tensor = proven.array(), FloatTensor(published)
        found = difference(tensor, values)
        if not found.count or (proven.size == 1 and not difference(tensor, _clipped(values, published)).count):
            return
        text = f"{_said(published)} is not {_said(proven)} of the proven graph: "
        if proven.size == 1:
            text += f"{float(published.array().item()):g} instead of {float(proven.array().item()):g}"
        else:
            text += f"{found.count:,} of {proven.size:,} numbers differ, first at {found.first}"
        self._differ(reader, text)

    def _compare_table(self, first: Node, table: QuantizedTable) -> Iterator[Pair]:
        """Compare rows gathered from a table with rows gathered from the same table in int8."""
        self._counts["int8 tables"] += 1
        stored, indices = first.inputs[:2]
        if stored is None or indices is None or not stored.is_stored or not gathers_rows(first):
            self._differ(first, f"{table.node} stands where the proven graph has {first}", structural=True)
            return
        self._compare_integers(first, TableTensor(table), stored)
        yield indices, table.indices

    def _compare_matmul(self, first: Node, matmul: QuantizedMatMul, bias: Pair | None) -> Iterator[Pair]:
        """Compare a MatMul with the same MatMul in int8; ``bias`` is (proven, published) of the sum behind it."""
        self._counts["int8 MatMuls"] += 1
        activation, stored = first.inputs if first.operator == "MatMul" else (None, None)
        if activation is None or stored is None or not stored.is_stored:
            self._differ(first, f"{matmul.node} stands where the proven graph has {first}", structural=True)
            return
        weight = MatMulTensor(matmul)
        sound = self._compare_integers(first, weight, stored)
        if bias is not None and sound:
            self._compare_bias(first, bias, matmul, weight, stored)
        self._counts["smoothed activations"] += matmul.inverse is not None
        yield activation, matmul.activation

    def _compare_integers(self, first: Node, tensor: MatMulTensor | TableTensor, stored: Value) -> bool:
        self._counts["tensors"] += 1
        if tensor.shape != stored.shape:
            self._differ(first, f"{tensor.name} {list(tensor.shape)}, and the proven graph has {_said(stored)}")
            return False
        values = stored.array()
        found = difference(tensor, values)
        problem = coarse(tensor, values, stored.name)
        if found.count:
            problem = (
                f"{tensor.name} is not {_said(stored)} of the proven graph in int8: {found.count:,} of {stored.size:,} "
                f"numbers are off by more than half a step, first at {found.first}"
            )
        if problem is not None:
            self._differ(first, problem)
        return problem is None

    def _compare_biased(self, first: Node, second: Node, matmul: QuantizedMatMul, bias: Value) -> Iterator[Pair]:
        """Compare an int8 MatMul and its bias with a MatMul and its bias, or with a MatMul that has none."""
        if first.operator == "MatMul":
            zeros = Value("no bias", "float32", bias.shape, load=lambda: np.zeros(bias.shape, np.float32))
            yield from self._compare_matmul(first, matmul, (zeros, bias))
            return
        operands = stored_operand(first)
        multiplied = self._uncast(operands[0]).producer if operands is not None else None
        if second.operator != "Add" or first.operator != "Add" or operands is None or multiplied is None:
            yield from self._compare_nodes(first, second, same_output=True)
            return
        self._counts["operators"] += 1
        yield from self._compare_matmul(multiplied, matmul, (operands[1], bias))

    def _compare_bias(
        self, first: Node, bias: Pair, matmul: QuantizedMatMul, weight: MatMulTensor, stored: Value
    ) -> None:
        self._counts["tensors"] += 1
        proven, published = bias
        if proven.shape != published.shape or published.dtype not in self._types:
            self._differ(first, f"{_said(published)}, and the proven graph has {_said(proven)}")
            return
        if difference(FloatTensor(published), proven.array()).count == 0:
            return
        self._counts["corrected biases"] += 1
        found = judge_correction(
            published.name, published.array(), proven.array(), matmul, weight, stored.array(), proven.name
        )
        if found.problem is not None:
            self._differ(first, found.problem)


def _clipped(values: Array, like: Value) -> Array:
    """Return finite numbers within what a type holds: an additive mask is the lowest number of its type."""
    limit = np.float64(LARGEST[str(like.dtype)])
    return np.where(np.isinf(values), values, np.clip(values, -limit, limit))


def _equal(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.array_equal(np.asarray(first), np.asarray(second))
    return first == second


def _plain(attribute: object) -> str:
    return f"{attribute:g}" if isinstance(attribute, float) else str(attribute)


def _said(value: Value) -> str:
    """Return a value in words."""
    if value.is_stored:
        return f"{value.name} ({value.dtype} {list(value.shape)})"
    return str(value.producer) if value.producer is not None else f"the input {value.name}"
