"""StoredGraph: what a published file holds, in one form for ONNX and OpenVINO.

Operators have ONNX's names where the two engines' meanings are the same (``Mul``, ``Sub``, ``Cast``), and the engine's
own otherwise. The target type of a ``Cast`` is the type of its output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclass(eq=False)
class Value:
    """An edge of the graph: an input, a stored tensor, or what a node computes.

    Attributes:
        name: As the file has it.
        dtype: numpy's name of the type, ``"bfloat16"`` and ``"bool"`` included; None where the file does not state it.
        shape: Of a stored tensor.
        load: Reads a stored tensor; None for what is computed and for inputs.
        producer: The node that computes it.
        index: Which of the producer's outputs it is.
    """

    name: str
    dtype: str | None
    shape: tuple[int, ...] = ()
    load: Callable[[], Array] | None = None
    producer: Node | None = None
    index: int = 0

    @property
    def is_stored(self) -> bool:
        """Whether it is a tensor in the file."""
        return self.load is not None

    @property
    def is_float(self) -> bool:
        """Whether its type is known to be a floating-point type."""
        return self.dtype in FLOATS

    @property
    def size(self) -> int:
        """How many numbers a stored tensor has."""
        return math.prod(self.shape)

    def array(self) -> Array:
        """Return the numbers of a stored tensor. They are read anew by every call: a large model is held once."""
        if self.load is None:
            raise ValueError(f"{self.name} is computed, not stored")
        return self.load()


@dataclass(eq=False)
class Node:
    """One operation.

    Attributes:
        name: As the file has it, for example ``"layer.3.attention.self.query/MatMul"``.
        operator: Its type, with the domain or the operator set in front where that is not the default.
        inputs: What it reads; None for an optional input that is left out.
        attributes: Plain Python values and numpy arrays.
        outputs: What it computes.
    """

    name: str
    operator: str
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Value, ...] = ()

    def __str__(self) -> str:
        return f"{self.operator} {self.name}"


@dataclass(eq=False)
class StoredGraph:
    """What a published file computes.

    Attributes:
        file: What it was read from, for messages.
        inputs: In the file's order.
        output: The sentence vectors.
        nodes: In an order in which they can be computed.
        stored: Every tensor in the file, read by a node or not.
        contract: What else the file states: operator sets, shapes of inputs, metadata.
    """

    file: str
    inputs: tuple[Value, ...]
    output: Value
    nodes: tuple[Node, ...]
    stored: tuple[Value, ...]
    contract: Mapping[str, str]

    @cached_property
    def readers(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    found.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in found.items()}


def reached(graph: StoredGraph) -> frozenset[Value]:
    """Return every value that the sentence vectors are computed from, themselves included."""
    found: set[Value] = set()
    frontier = [graph.output]
    while frontier:
        value = frontier.pop()
        if value not in found:
            found.add(value)
            if value.producer is not None:
                frontier.extend(read for read in value.producer.inputs if read is not None)
    return frozenset(found)


def made_by(value: Value | None, operator: str) -> Node | None:
    """Return the node that computes ``value`` if it is an ``operator``, with casts between float types left out."""
    value = uncast(value) if value is not None else None
    node = value.producer if value is not None else None
    return node if node is not None and node.operator == operator else None


def uncast(value: Value) -> Value:
    """Return what ``value`` was before casts from one floating-point type to another."""
    while (source := cast_source(value)) is not None:
        value = source
    return value


def cast_source(value: Value) -> Value | None:
    """Return what is cast to ``value``, or None where that is no cast from one floating-point type to another."""
    node = value.producer
    source = node.inputs[0] if node is not None and node.operator == "Cast" else None
    return source if source is not None and source.is_float and value.is_float else None


def stored_operand(node: Node) -> tuple[Value, Value] | None:
    """Return (computed, stored) of an operation of two values, one of which is stored and the other is not."""
    first, second = node.inputs if len(node.inputs) == 2 else (None, None)
    if first is None or second is None or first.is_stored == second.is_stored:
        return None
    return (second, first) if first.is_stored else (first, second)


def blocks(shape: tuple[int, ...], numbers: int = 2**16) -> Iterator[slice]:
    """Yield slices of the first axis that hold about so many numbers: what a comparison looks at in one step."""
    if not shape:
        yield slice(None)
        return
    width = math.prod(shape[1:])
    step = max(1, numbers // max(1, width))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)
