"""ONNX -> StoredGraph."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from exporter.errors import BundleError
from exporter.graph.storage import DATA
from exporter.validator.provenance.stored import Array, Node, StoredGraph, Value

_METADATA = ("max_sequence", "padding")  # what runners heed
_DATA_ATTRIBUTES = {"Cast": {"to", "saturate", "round_mode"}}  # what the type of the output says


def read_onnx(model: bytes | ir.Model, file: str = "model.onnx", weights: bytes | None = None) -> StoredGraph:
    """Read a serialized ``ModelProto``, or a model in memory.

    Tensors are read when they are asked for, so that the file's bytes and one tensor are held at a time.

    Args:
        model: The model.
        file: What messages call it.
        weights: Content of its file of weights, where it has one.

    Raises:
        BundleError: It is no ONNX model, has more than one output, keeps tensors in another file, or has a subgraph.
    """
    if not isinstance(model, bytes):
        return _Reader(model, file, None).read()
    try:
        proto = onnx.load_model_from_string(model)
        _refuse_two_readings(proto, file)
        graph = _Reader(ir.from_proto(proto), file, weights).read()
        # Every operator has the inputs, outputs and attributes that it can have.
        onnx.checker.check_model(model if weights is None else _with_weights_fed(proto))
    except BundleError:
        raise
    except Exception as error:  # protobuf's own, which it does not export, and what onnx-ir makes of bad graphs
        raise BundleError(f"{file}: not an ONNX model", next_step="export the bundle again") from error
    return graph


def _refuse_two_readings(model: onnx.ModelProto, file: str) -> None:
    """Refuse what an engine may read otherwise than this reader.

    That is sparse tensors, one name for two tensors, and two versions of one operator set, whose name may be empty or
    ``ai.onnx``.
    """
    graph = model.graph
    names = [tensor.name for tensor in graph.initializer]
    domains = [operators.domain or "ai.onnx" for operators in model.opset_import]
    sparse = graph.sparse_initializer or any(
        attribute.HasField("sparse_tensor") or attribute.sparse_tensors
        for node in graph.node
        for attribute in node.attribute
    )
    if sparse:
        raise BundleError(f"{file}: it has sparse tensors, which no export writes", next_step="export the bundle again")
    if len(set(domains)) < len(domains):
        raise BundleError(f"{file}: it names an operator set twice", next_step="export the bundle again")
    if len(set(names)) < len(names):
        raise BundleError(f"{file}: two tensors have the same name", next_step="export the bundle again")


def _with_weights_fed(proto: onnx.ModelProto) -> bytes:
    """Return the model with inputs in place of the tensors in its file of weights, which the checker would look for."""
    graph = proto.graph
    external = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in external:
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        graph.initializer.remove(tensor)
    data: bytes = proto.SerializeToString()
    return data


class _Reader:
    def __init__(self, model: ir.Model, file: str, weights: bytes | None) -> None:
        self._model = model
        self._file = file
        self._weights = weights
        self._values: dict[ir.Value, Value] = {}
        self._stored: list[Value] = []

    def read(self) -> StoredGraph:
        graph = self._model.graph
        if len(graph.outputs) != 1:
            raise BundleError(f"{self._file}: {len(graph.outputs)} outputs, and an encoder has one")
        if self._model.functions:
            raise BundleError(f"{self._file}: it holds functions of its own, which a check cannot see through")
        inputs = [value for value in graph.inputs if value.name not in graph.initializers]
        for value in inputs:
            self._values[value] = Value(str(value.name), _dtype(value.dtype))
        for value in graph.initializers.values():
            if value.const_value is None:
                raise BundleError(f"{self._file}: the tensor {value.name} has no content")
            self._values[value] = self._store(str(value.name), value.const_value)
        nodes = [self._node(node) for node in graph if node.op_type != "Constant" or node.domain]
        contract = {f"input {value.name}": f"{_dtype(value.dtype)} {value.shape}" for value in inputs}
        contract |= {f"output {value.name}": f"{_dtype(value.dtype)} {value.shape}" for value in graph.outputs}
        domains = {node.domain for node in graph}
        contract |= {
            f"operator set {domain or 'ai.onnx'}": str(version)
            for domain, version in self._model.graph.opset_imports.items()
            if domain in domains
        }
        contract["IR version"] = str(self._model.ir_version)
        metadata = self._model.metadata_props
        contract |= {f"metadata {name}": metadata[name] for name in _METADATA if name in metadata}
        return StoredGraph(
            file=self._file,
            inputs=tuple(self._values[value] for value in inputs),
            output=self._value(graph.outputs[0]),
            nodes=tuple(nodes),
            stored=tuple(self._stored),
            contract=contract,
        )

    def _value(self, value: ir.Value) -> Value:
        """Return the value, reading it where a ``Constant`` node holds it."""
        if value not in self._values:
            node = value.producer()
            if node is None or node.op_type != "Constant":
                raise BundleError(f"{self._file}: {value.name} is read before it is computed")
            ((_, attribute),) = node.attributes.items()
            self._values[value] = self._store(str(value.name), _tensor(attribute))
        return self._values[value]

    def _store(self, name: str, tensor: ir.TensorProtocol) -> Value:
        shape = tuple(int(size) for size in tensor.shape.numpy())
        load: Callable[[], Array] = partial(_numpy, tensor)
        if isinstance(tensor, ir.ExternalTensor):
            load = self._external(name, tensor, shape)
        stored = Value(name, _dtype(tensor.dtype), shape, load=load)
        self._stored.append(stored)
        return stored

    def _external(self, name: str, tensor: ir.ExternalTensor, shape: tuple[int, ...]) -> Callable[[], Array]:
        """Return what reads a tensor from the file of weights: whole numbers of a type that fill a byte or more."""
        weights = self._weights
        if weights is None or str(tensor.location) != f"{self._file}{DATA}":
            raise BundleError(f"{self._file}: the tensor {name} is kept in another file", next_step="export it again")
        kind, count, offset = tensor.dtype.numpy(), math.prod(shape), tensor.offset or 0
        if tensor.dtype.itemsize < 1 or not 0 <= offset <= len(weights) - count * kind.itemsize:
            raise BundleError(
                f"{self._file}: the tensor {name} ends behind the file of weights", next_step="export it again"
            )
        return lambda: np.frombuffer(weights, kind, count, offset).reshape(shape)

    def _node(self, node: ir.Node) -> Node:
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        attributes = {
            name: self._attribute(node, attribute)
            for name, attribute in node.attributes.items()
            if name not in _DATA_ATTRIBUTES.get(operator, set())
        }
        read = Node(
            str(node.name),
            operator,
            tuple(self._value(value) if value is not None else None for value in node.inputs),
            attributes,
        )
        outputs = []
        for index, value in enumerate(node.outputs):
            dtype = _dtype(value.dtype)
            if operator == "Cast":
                dtype = _dtype(ir.DataType(node.attributes["to"].as_int()))
            outputs.append(Value(str(value.name), dtype, producer=read, index=index))
            self._values[value] = outputs[-1]
        read.outputs = tuple(outputs)
        return read

    def _attribute(self, node: ir.Node, attribute: ir.Attr) -> Any:
        if attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
            raise BundleError(f"{self._file}: {node.name} holds a subgraph, which a check cannot see through")
        if attribute.type == ir.AttributeType.TENSOR:
            return self._store(f"{node.name}.{attribute.name}", attribute.as_tensor()).array()
        value = attribute.value
        if attribute.type == ir.AttributeType.FLOAT:
            return float(np.float32(value))  # as a file holds it; in memory it may have more digits
        return tuple(value) if isinstance(value, (list, tuple)) else value


def _tensor(attribute: ir.Attr) -> ir.TensorProtocol:
    """Return the tensor of a ``Constant`` node, whichever of its attributes holds it."""
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor()
    kinds: dict[ir.AttributeType, Any] = {
        ir.AttributeType.FLOAT: np.float32,
        ir.AttributeType.FLOATS: np.float32,
        ir.AttributeType.INT: np.int64,
        ir.AttributeType.INTS: np.int64,
    }
    return ir.tensor(np.array(attribute.value, kinds[attribute.type]))


def _numpy(tensor: ir.TensorProtocol) -> Array:
    array: Array = tensor.numpy()
    return array


def _dtype(dtype: ir.DataType | None) -> str | None:
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return None
    if dtype == ir.DataType.BFLOAT16:
        return "bfloat16"
    return np.dtype(dtype.numpy()).name
