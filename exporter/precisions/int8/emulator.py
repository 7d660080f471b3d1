"""The float32 graph with int8 switched on and off by its inputs: one session judges every assignment.

Building an engine for each assignment that a search looks at would take longer than the measuring. Here each MatMul ::

    y = x W + b          becomes          y = where(on, D(Q(x / smooth)), x) W' + b'

with Q and D of the target's types, and ``on``, the scales, W' and b' fed anew at every run. W' is the weight as it is
or as int8 gives it back. Sums are float32's where an engine has integers: the two differ by rounding of float32.
Weights are fed as (outputs, inputs), as PyTorch has them in memory: so no copy of them is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.graph import Graph
from exporter.graph.passes import remove_unused
from exporter.graph.storage import open_model
from exporter.graph.surgery import input_of, make_node, replace_bias
from exporter.precisions.int8.matmuls import MatMul, matmuls_of
from exporter.precisions.int8.scheme import Activation, Array, Quantization, Scheme
from exporter.runtime.contract import INPUTS, OUTPUT

_LARGE_BYTES = 2**20
_CONTRIB = "com.microsoft"  # ONNX Runtime's own operators

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class Emulator:
    """One session over the float32 graph with switches.

    Attributes:
        matmuls: What can be switched to int8, in the order of computation.
    """

    def __init__(self, graph: Graph, scheme: Scheme) -> None:
        self.matmuls = matmuls_of(graph)
        self._scheme = scheme
        model = graph.editable()
        stored = {name: value.const_value for name, value in model.graph.initializers.items() if value.const_value}
        self._weights: dict[str, Array] = {p.weight: stored[p.weight].numpy() for p in self.matmuls}
        self._channels = {p.activation: p.inputs for p in self.matmuls}
        self._biases: dict[str, Array] = {}
        _install_switches(model, self.matmuls, scheme, self._biases)
        self._tables = _feed_large(model)
        self._session = open_model(model)

    def weight(self, name: str) -> Array:
        """Return a stored weight, (inputs, outputs) float32."""
        return self._weights[name]

    def bias(self, matmul: MatMul) -> Array:
        """Return the stored bias of a MatMul, (outputs,) float32."""
        return self._biases[matmul.node]

    def run(
        self,
        batches: Iterable[Batch],
        quantization: Quantization | None = None,
        on: frozenset[str] = frozenset(),
    ) -> Array:
        """Encode every batch: (rows, dimension) float32, in the order of the batches.

        Args:
            batches: Token batches.
            quantization: Scales and integers; may be None where nothing is switched on.
            on: Names of the MatMuls that compute in int8.
        """
        feeds = self._feeds(quantization, on)
        return np.concatenate([self._session.run([OUTPUT], feeds | _ids(batch))[0] for batch in batches])

    def look(
        self,
        batches: Iterable[Batch],
        values: tuple[str, ...],
        quantization: Quantization | None = None,
        on: frozenset[str] = frozenset(),
    ) -> Iterator[dict[str, Array]]:
        """Yield, per batch, what chosen edges hold: (tokens, channels) float32.

        Padding is left out, but where scales come from each batch as it is: there it is in the batch.
        """
        feeds = self._feeds(quantization, on)
        for batch in batches:
            kept = self._kept(batch)
            found = dict(zip(values, self._session.run(list(values), feeds | _ids(batch)), strict=True))
            for name in found:
                found[name] = found[name][kept]  # one by one: each array is freed as its copy takes its place
            yield found

    def tokens_looked_at(self, batch: Batch) -> int:
        """Return how many rows ``look`` yields for a batch."""
        return int(self._kept(batch).sum())

    def _kept(self, batch: Batch) -> npt.NDArray[np.bool_]:
        return np.ones(batch[1].shape, bool) if self._scheme.dynamic else batch[1].astype(bool)

    def _feeds(self, quantization: Quantization | None, on: frozenset[str]) -> dict[str, npt.NDArray[np.generic]]:
        feeds: dict[str, npt.NDArray[np.generic]] = dict(self._tables)
        for name, channels in self._channels.items():
            how = quantization.activations[name] if quantization is not None else Activation(1.0)
            if not self._scheme.dynamic:
                feeds[f"{name}/scale"] = np.array(how.scale, np.float32)
                feeds[f"{name}/zero_point"] = np.array(how.zero_point, self._scheme.numpy)
            smooth = np.ones(channels, np.float32) if how.smooth is None else how.smooth
            feeds[f"{name}/inverse"] = (1 / smooth).astype(np.float32)
        restored: dict[str, Array] = {}
        for matmul in self.matmuls:
            switched = matmul.node in on and quantization is not None
            feeds[f"{matmul.node}/on"] = np.array(switched)
            weight = self._weights[matmul.weight]
            bias = self._biases[matmul.node]
            if switched and quantization is not None:
                if matmul.weight not in restored:
                    restored[matmul.weight] = quantization.weights[matmul.weight].restored()
                weight = restored[matmul.weight]
                bias = quantization.biases.get(matmul.node, bias)
            feeds[f"{matmul.node}/weight"] = weight.T
            feeds[f"{matmul.node}/bias"] = bias
        return feeds


def _feed_large(model: ir.Model) -> dict[str, npt.NDArray[np.generic]]:
    """Turn what is large and still stored, tables of vectors, into inputs: a session would hold copies of it."""
    fed: dict[str, npt.NDArray[np.generic]] = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _LARGE_BYTES:
            continue
        fed[name] = tensor.numpy()
        model.graph.initializers.pop(name)
        value.shape, value.type, value.const_value = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype), None
        model.graph.inputs.append(value)
    return fed


def _ids(batch: Batch) -> dict[str, npt.NDArray[np.int64]]:
    return dict(zip(INPUTS, batch, strict=True))


def _install_switches(model: ir.Model, matmuls: tuple[MatMul, ...], scheme: Scheme, biases: dict[str, Array]) -> None:
    """Rewrite every MatMul of ``model`` that could compute in int8 in place, and collect the stored biases by node."""
    nodes = {str(node.name): node for node in model.graph}
    quantized: dict[str, ir.Value] = {}
    for matmul in matmuls:
        node = nodes[matmul.node]
        activation = input_of(node)
        if matmul.activation not in quantized:
            new = _fake_quantized(model, activation, matmul.inputs, scheme)
            model.graph.insert_before(node, new)
            quantized[matmul.activation] = new[-1].outputs[0]
        on = _input(model, f"{matmul.node}/on", ir.DataType.BOOL, ())
        chosen = make_node(
            "Where", [on, quantized[matmul.activation], activation], f"{matmul.node}/Where", ir.DataType.FLOAT, None
        )
        model.graph.insert_before(node, chosen)
        node.replace_input_with(0, chosen.outputs[0])
        shape = (matmul.outputs, matmul.inputs)
        node.replace_input_with(1, _input(model, f"{matmul.node}/weight", ir.DataType.FLOAT, shape))
        node.op_type, node.domain = "FusedMatMul", _CONTRIB
        node.attributes["transB"] = ir.AttrInt64("transB", 1)
        biases[matmul.node] = _switch_bias(model, node, matmul)
    values = {str(value.name): value for node in nodes.values() for value in node.outputs}
    seen = dict.fromkeys(values[matmul.activation] for matmul in matmuls)
    model.graph.opset_imports[_CONTRIB] = 1
    model.graph.outputs.extend(value for value in seen if value not in model.graph.outputs)
    remove_unused(model)


def _switch_bias(model: ir.Model, node: ir.Node, matmul: MatMul) -> Array:
    """Feed the bias of a MatMul as an input, with an addition where it has none; returns the stored one."""
    fed = _input(model, f"{matmul.node}/bias", ir.DataType.FLOAT, (matmul.outputs,))
    stored = replace_bias(model, node, fed, f"{matmul.node}/Add")
    return np.zeros(matmul.outputs, np.float32) if stored is None else stored


def _fake_quantized(model: ir.Model, value: ir.Value, channels: int, scheme: Scheme) -> list[ir.Node]:
    """Return the nodes that smooth, quantize and dequantize ``value``."""
    name, shape, float32 = str(value.name), value.shape, ir.DataType.FLOAT
    inverse = _input(model, f"{name}/inverse", float32, (channels,))
    smoothed = make_node("Mul", [value, inverse], f"{name}/Mul", float32, shape)
    if scheme.dynamic:
        integers = ir.node("DynamicQuantizeLinear", smoothed.outputs, num_outputs=3, name=f"{name}/Quantize")
        for output, dtype in zip(integers.outputs, (scheme.activation, float32, scheme.activation), strict=True):
            output.type = ir.TensorType(dtype)
        scale, zero_point = integers.outputs[1:]
    else:
        scale = _input(model, f"{name}/scale", float32, ())
        zero_point = _input(model, f"{name}/zero_point", scheme.activation, ())
        steps = [smoothed.outputs[0], scale, zero_point]
        integers = make_node("QuantizeLinear", steps, f"{name}/Quantize", scheme.activation, shape)
    back = make_node("DequantizeLinear", [integers.outputs[0], scale, zero_point], f"{name}/Dequantize", float32, shape)
    return [smoothed, integers, back]


def _input(model: ir.Model, name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
    model.graph.inputs.append(value)
    return value
