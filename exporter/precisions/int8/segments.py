"""A graph cut into segments, each a session of its own: a run can begin at any of them with values that are known.

A segment ends where an activation has been computed that MatMuls of the next one read. Whoever runs the segments
chooses what these MatMuls read: the activation, or what int8 leaves of it. Layers repeat the same nodes. So weights,
biases and vectors are inputs, names are numbers, and equal segments share one session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from exporter.graph.storage import to_bytes
from exporter.runtime.contract import OUTPUT
from exporter.runtime.session import open_on_cpu, session_options

_LARGE_BYTES = 2**20

Values = dict[str, npt.NDArray[Any]]
"""Arrays by the names that the graph has for them."""


@dataclass(frozen=True)
class Segment:
    """Consecutive nodes of a graph.

    Attributes:
        session: Computes them; its inputs and outputs are called by numbers.
        inputs: Names in the graph of what they read, in the order of the session's inputs.
        outputs: Names of what they compute and later segments read, in the order of the session's outputs.
        read_later: Names of everything that later segments read, whoever computed it.
    """

    session: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    read_later: frozenset[str]

    def run(self, values: Mapping[str, npt.NDArray[Any]]) -> Values:
        """Return what the nodes compute from ``values``, by name."""
        feeds = {str(number): values[name] for number, name in enumerate(self.inputs)}
        return dict(zip(self.outputs, self.session.run(None, feeds), strict=True))


def cut(model: ir.Model, operands: Mapping[str, str]) -> tuple[list[Segment], Values]:
    """Cut a graph into segments.

    Args:
        model: The graph. It is read only.
        operands: By the name of a graph's input, the name of the activation that it stands for: the segment that reads
            the input begins after the activation.

    Returns:
        The segments in the order of computation, and the stored vectors, matrices and tables that they read.
    """
    stored: Values = {}
    groups = list(_grouped(model.graph, operands))
    sessions: dict[bytes, Any] = {}
    segments = []
    read_later = {OUTPUT}
    for nodes in reversed(groups):
        computed = [value for node in nodes for value in node.outputs]
        outputs = [value for value in computed if value.name in read_later]
        inputs = _inputs_of(nodes)
        content = to_bytes(_renamed(model, nodes, inputs, outputs))
        if content not in sessions:
            sessions[content] = opened(content)
        names = tuple(str(value.name) for value in inputs)
        stored |= {str(value.name): value.const_value.numpy() for value in inputs if value.const_value is not None}
        segments.append(
            Segment(sessions[content], names, tuple(str(value.name) for value in outputs), frozenset(read_later))
        )
        read_later -= {str(value.name) for value in computed}
        read_later.update(operands.get(name, name) for name in names)
    return segments[::-1], stored


def _is_fed(value: ir.Value) -> bool:
    """Whether a stored tensor becomes an input.

    Shapes, axes and single numbers stay: kernels are chosen by them. Large tables do not, whatever their type: a
    session would hold a copy.
    """
    tensor = value.const_value
    if tensor is None:
        return False
    return tensor.nbytes >= _LARGE_BYTES or (tensor.dtype == ir.DataType.FLOAT and tensor.size > 1)


def _grouped(graph: ir.Graph, operands: Mapping[str, str]) -> Iterator[list[ir.Node]]:
    """Yield the nodes of each segment: a new one begins where an operand's activation was computed in the last one."""
    nodes: list[ir.Node] = []
    computed: set[str | None] = set()
    for node in graph:
        if any(operands.get(str(value.name)) in computed for value in node.inputs if value is not None):
            yield nodes
            nodes, computed = [], set()
        nodes.append(node)
        computed.update(value.name for value in node.outputs)
    yield nodes


def _inputs_of(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    """Return what nodes read and do not compute, in the order of use; what stays stored is not among it."""
    computed = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    return [value for value in read if value not in computed and (not value.is_initializer() or _is_fed(value))]


def _renamed(
    model: ir.Model, nodes: Sequence[ir.Node], inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]
) -> ir.Model:
    """Return a model of these nodes whose names are numbers: segments that compute the same give equal models."""
    new: dict[ir.Value, ir.Value] = {}

    def renamed(value: ir.Value) -> ir.Value:
        new[value] = ir.Value(name=str(len(new)), shape=value.shape, type=value.type)
        return new[value]

    graph_inputs = [renamed(value) for value in inputs]
    constants: list[ir.Value] = []
    copies: list[ir.Node] = []
    for node in nodes:
        for value in node.inputs:
            if value is not None and value not in new and value.const_value is not None:
                constants.append(renamed(value))
                constants[-1].const_value = ir.tensor(value.const_value.numpy(), name=constants[-1].name)
        copies.append(
            ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else new[value] for value in node.inputs],
                list(node.attributes.values()),
                outputs=[renamed(value) for value in node.outputs],
                name=str(len(copies)),
            )
        )
    graph = ir.Graph(
        graph_inputs,
        [new[value] for value in outputs],
        nodes=copies,
        initializers=constants,
        opset_imports=model.graph.opset_imports,
        name="segment",
    )
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def opened(content: bytes) -> Any:
    """Open a serialized model on the CPU, as one of several sessions that take turns."""
    options = session_options()
    # Each session has threads of its own, which wait in a loop for its next run: they would take the cores from the
    # session of the next segment.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return open_on_cpu(content, {}, options)
