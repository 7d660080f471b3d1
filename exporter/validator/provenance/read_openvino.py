"""OpenVINO IR -> StoredGraph, and what OpenVINO makes of an ONNX model -> StoredGraph."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes

from exporter.dependencies import require
from exporter.errors import BundleError, first_sentence
from exporter.runtime.contract import INPUTS
from exporter.validator.provenance.stored import Array, Node, StoredGraph, Value

# OpenVINO's name -> ONNX's, where both mean the same.
_OPERATORS = {"Multiply": "Mul", "Subtract": "Sub", "Convert": "Cast", "ConvertLike": "Cast"}
_DTYPES = {
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "boolean": "bool",
    **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


def read_openvino(xml: bytes, weights: bytes, file: str = "openvino_model.xml") -> StoredGraph:
    """Read an IR from the bytes of its two files.

    Raises:
        BundleError: OpenVINO cannot read them, or the model has several outputs or a subgraph.
        MissingDependencyError: openvino is not installed.
    """
    return _read(require("openvino").Core(), (xml, weights), file)


def read_onnx_by_openvino(model: bytes | Path, max_sequence: int, file: str = "the proven graph") -> StoredGraph:
    """Read what OpenVINO makes of an ONNX model, serialized or in a file, as its backend builds it.

    Args:
        model: The proven graph, after the passes of the OpenVINO target.
        max_sequence: Longest sequence in tokens.
        file: What messages call it.

    Raises:
        BundleError: OpenVINO cannot read it.
        MissingDependencyError: openvino is not installed.
    """
    ov = require("openvino")
    bounds = ov.PartialShape([ov.Dimension(), ov.Dimension(1, max_sequence)])
    return _read(ov.Core(), (model,), file, dict.fromkeys(INPUTS, bounds))


def _read(core: Any, parts: tuple[bytes | Path, ...], file: str, bounds: dict[str, Any] | None = None) -> StoredGraph:
    try:
        model = core.read_model(*parts)
        if bounds is not None:
            model.reshape(bounds)
    except RuntimeError as error:
        raise BundleError(f"{file}: openvino cannot read it: {first_sentence(error)}") from error
    return _graph(model, file)


def _graph(model: Any, file: str) -> StoredGraph:
    if len(model.outputs) != 1:
        raise BundleError(f"{file}: {len(model.outputs)} outputs, and an encoder has one")
    values: dict[tuple[str, int], Value] = {}
    inputs: list[Value] = []
    stored: list[Value] = []
    nodes: list[Node] = []
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind in {"Parameter", "Constant"}:
            values[operation.get_name(), 0] = value = _leaf(operation, kind)
            (inputs if kind == "Parameter" else stored).append(value)
        elif kind == "Result":
            output = values[_source(operation.input(0))]
        elif kind in {"If", "Loop", "TensorIterator"}:
            raise BundleError(f"{file}: {operation.get_friendly_name()} holds a subgraph, which a check cannot see")
        else:
            nodes.append(_node(operation, kind, values))
    contract = {f"input {value.get_any_name()}": _signature(value) for value in model.inputs}
    contract |= {f"output {value.get_any_name()}": _signature(value) for value in model.outputs}
    return StoredGraph(file, tuple(inputs), output, tuple(nodes), tuple(stored), contract)


def _leaf(operation: Any, kind: str) -> Value:
    dtype = _dtype(operation.output(0))
    if kind == "Parameter":
        return Value(operation.output(0).get_any_name(), dtype)
    shape = tuple(int(size) for size in operation.get_output_shape(0))
    return Value(operation.get_friendly_name(), dtype, shape, load=partial(_numpy, operation, dtype))


def _node(operation: Any, kind: str, values: dict[tuple[str, int], Value]) -> Node:
    operator = _OPERATORS.get(kind, f"{operation.get_type_info().version_id}.{kind}")
    sources = [values[_source(value)] for value in operation.inputs()]
    attributes = operation.get_attributes()
    if operator == "Cast":
        sources, attributes = sources[:1], {}
    if operator in {"Mul", "Sub"} and attributes.get("auto_broadcast") == "numpy":
        attributes.pop("auto_broadcast")
    if kind in {"Add", "MatMul", "Gather", "Reshape"}:
        operator = kind
    node = Node(operation.get_friendly_name(), operator, tuple(sources), attributes)
    node.outputs = tuple(
        Value(f"{node.name}:{index}", _dtype(output), producer=node, index=index)
        for index, output in enumerate(operation.outputs())
    )
    values.update({(operation.get_name(), index): value for index, value in enumerate(node.outputs)})
    return node


def _source(value: Any) -> tuple[str, int]:
    output = value.get_source_output()
    return output.get_node().get_name(), output.get_index()


def _numpy(operation: Any, dtype: str) -> Array:
    """Return a constant's numbers; OpenVINO hands bfloat16 out as if it were float16."""
    array: Array = operation.data
    return array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array


def _dtype(output: Any) -> str:
    name = output.get_element_type().get_type_name()
    return _DTYPES.get(name, str(name))


def _signature(value: Any) -> str:
    return f"{_dtype(value)} {value.get_partial_shape()}"
