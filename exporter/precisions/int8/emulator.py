"""The float32 graph with int8 switched on and off MatMul by MatMul: the same sessions judge every assignment.

Building an engine for each assignment that a search looks at would take longer than the measuring. Here each MatMul ::

    y = x W + b          becomes          y = D(Q(x / smooth)) W' + b'          where it is in int8

with Q and D of the target's types. What it reads, W' and b' are fed anew at every run. W' is the weight as int8 gives
it back. Sums are float32's where an engine has integers: the two differ by rounding of float32. Weights are fed as
(outputs, inputs), as PyTorch has them in memory: so no copy of them is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.graph import Graph
from exporter.graph.storage import to_bytes
from exporter.graph.surgery import input_of, make_node, replace_bias
from exporter.precisions.int8.matmuls import MatMul, matmuls_of
from exporter.precisions.int8.scheme import Activation, Array, Quantization, Scheme
from exporter.precisions.int8.segments import Values, cut, opened
from exporter.runtime.contract import INPUTS, OUTPUT

_CONTRIB = "com.microsoft"  # ONNX Runtime's own operators

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass
class Prefix:
    """What the float32 graph has computed of some batches before one segment: runs go on from there.

    The values of one segment per batch are in memory, of two while it moves on, whatever the number of layers.

    Attributes:
        batches: Token batches.
        segment: The next segment.
        values: By batch, what this segment and later ones read.
    """

    batches: Sequence[Batch]
    segment: int = 0
    values: list[Values] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with the token ids."""
        self.begin()

    def begin(self) -> None:
        """Go back to the first segment."""
        self.segment, self.values = 0, [_ids(batch) for batch in self.batches]


@dataclass(frozen=True)
class _Switched:
    """What int8 changes in a run.

    Attributes:
        feeds: Weight and bias of every MatMul, by the names of the graph's inputs.
        activations: How what a MatMul reads is quantized, by its node; MatMuls in float32 are left out.
    """

    feeds: Values
    activations: dict[str, Activation]


class Emulator:
    """The float32 graph with switches.

    Attributes:
        matmuls: What can be switched to int8, in the order of computation.
    """

    def __init__(self, graph: Graph, scheme: Scheme) -> None:
        self.matmuls = matmuls_of(graph)
        self._scheme = scheme
        model = graph.editable()
        stored = {name: value.const_value for name, value in model.graph.initializers.items() if value.const_value}
        self._weights: dict[str, Array] = {p.weight: stored[p.weight].numpy() for p in self.matmuls}
        self._biases = {matmul.node: _feed(model, matmul) for matmul in self.matmuls}
        model.graph.opset_imports[_CONTRIB] = 1
        self._segments, self._stored = cut(model, {_operand(p.node): p.activation for p in self.matmuls})
        self._in = [[p for p in self.matmuls if _operand(p.node) in segment.inputs] for segment in self._segments]
        self._fake_quantization = opened(to_bytes(_fake_quantization(scheme, model.graph.opset_imports[""])))

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
        switched = self._switched(quantization, on)
        return np.concatenate([self._values(_ids(batch), switched)[OUTPUT] for batch in batches])

    def run_after(self, prefix: Prefix, quantization: Quantization, on: frozenset[str]) -> Array:
        """Encode the batches of ``prefix`` as ``run`` does, to the same bits, and compute only what it has not.

        The prefix is moved to the first MatMul in int8. Where MatMuls are tried alone in the order of computation, it
        moves through the graph once.
        """
        first = next((number for number, there in enumerate(self._in) if any(p.node in on for p in there)), 0)
        if first < prefix.segment:
            prefix.begin()
        in_float32 = self._switched(None, frozenset())
        prefix.values = [self._values(known, in_float32, prefix.segment, first) for known in prefix.values]
        prefix.segment = first
        switched = self._switched(quantization, on)
        return np.concatenate([self._values(known, switched, first)[OUTPUT] for known in prefix.values])

    def look(
        self,
        batches: Iterable[Batch],
        values: tuple[str, ...],
        quantization: Quantization | None = None,
        on: frozenset[str] = frozenset(),
    ) -> Iterator[dict[str, Array]]:
        """Yield, per batch, what chosen activations hold: (tokens, channels) float32.

        Padding is left out, but where scales come from each batch as it is: there it is in the batch.
        """
        switched = self._switched(quantization, on)
        for batch in batches:
            kept = self._kept(batch)
            found: dict[str, Array] = {}
            known = _ids(batch)
            for number in range(len(self._segments)):
                known = self._values(known, switched, number, number + 1)
                found |= {name: known[name][kept] for name in values if name in known and name not in found}
            yield {name: found[name] for name in values}

    def tokens_looked_at(self, batch: Batch) -> int:
        """Return how many rows ``look`` yields for a batch."""
        return int(self._kept(batch).sum())

    def _kept(self, batch: Batch) -> npt.NDArray[np.bool_]:
        return np.ones(batch[1].shape, bool) if self._scheme.dynamic else batch[1].astype(bool)

    def _values(self, known: Values, switched: _Switched, first: int = 0, stop: int | None = None) -> Values:
        """Run some segments on what the segments before them have computed; return what later ones read."""
        for segment, matmuls in list(zip(self._segments, self._in, strict=True))[first:stop]:
            read = self._operands(known, matmuls, switched)
            known = known | segment.run(known | read | switched.feeds | self._stored)
            known = {name: array for name, array in known.items() if name in segment.read_later}
        return known

    def _operands(self, known: Values, matmuls: Sequence[MatMul], switched: _Switched) -> Values:
        """Return what MatMuls read, by the names of their inputs: activations, or what int8 leaves of them."""
        quantized: Values = {}
        for matmul in matmuls:
            if matmul.node in switched.activations and matmul.activation not in quantized:
                how = switched.activations[matmul.node]
                quantized[matmul.activation] = self._fake_quantized(known[matmul.activation], how)
        return {
            _operand(matmul.node): (quantized if matmul.node in switched.activations else known)[matmul.activation]
            for matmul in matmuls
        }

    def _fake_quantized(self, values: Array, how: Activation) -> Array:
        """Return (..., channels) float32 after smoothing, quantizing and dequantizing."""
        smooth = np.ones(values.shape[-1], np.float32) if how.smooth is None else how.smooth
        feeds: Values = {"values": values, "inverse": (1 / smooth).astype(np.float32)}
        if not self._scheme.dynamic:
            feeds["scale"] = np.array(how.scale, np.float32)
            feeds["zero_point"] = np.array(how.zero_point, self._scheme.numpy)
        restored: Array = self._fake_quantization.run(None, feeds)[0]
        return restored

    def _switched(self, quantization: Quantization | None, on: frozenset[str]) -> _Switched:
        feeds: Values = {}
        activations: dict[str, Activation] = {}
        restored: dict[str, Array] = {}
        for matmul in self.matmuls:
            weight, bias = self._weights[matmul.weight], self._biases[matmul.node]
            if quantization is not None and matmul.node in on:
                activations[matmul.node] = quantization.activations[matmul.activation]
                if matmul.weight not in restored:
                    restored[matmul.weight] = quantization.weights[matmul.weight].restored()
                weight = restored[matmul.weight]
                bias = quantization.biases.get(matmul.node, bias)
            feeds[f"{matmul.node}/weight"] = weight.T
            feeds[f"{matmul.node}/bias"] = bias
        return _Switched(feeds, activations)


def _ids(batch: Batch) -> Values:
    return dict(zip(INPUTS, batch, strict=True))


def _operand(node: str) -> str:
    """Return the name of the input that a MatMul reads instead of its activation."""
    return f"{node}/operand"


def _feed(model: ir.Model, matmul: MatMul) -> Array:
    """Make inputs of all that a MatMul reads, in place; returns its stored bias, (outputs,) float32."""
    node = next(node for node in model.graph if node.name == matmul.node)
    activation = input_of(node)
    node.replace_input_with(0, _input(model, _operand(matmul.node), activation.shape))
    weight_shape = ir.Shape((matmul.outputs, matmul.inputs))
    node.replace_input_with(1, _input(model, f"{matmul.node}/weight", weight_shape))
    node.op_type, node.domain = "FusedMatMul", _CONTRIB
    node.attributes["transB"] = ir.AttrInt64("transB", 1)
    bias = _input(model, f"{matmul.node}/bias", ir.Shape((matmul.outputs,)))
    stored = replace_bias(model, node, bias, f"{matmul.node}/Add")
    return np.zeros(matmul.outputs, np.float32) if stored is None else stored


def _input(model: ir.Model, name: str, shape: ir.Shape | None) -> ir.Value:
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs.append(value)
    return value


def _fake_quantization(scheme: Scheme, opset: int) -> ir.Model:
    """Return the model that smooths, quantizes and dequantizes: (..., channels) float32 to the same shape."""
    float32 = ir.DataType.FLOAT
    values = ir.Value(name="values", type=ir.TensorType(float32))
    inverse = ir.Value(name="inverse", shape=ir.Shape(("channels",)), type=ir.TensorType(float32))
    smoothed = make_node("Mul", [values, inverse], "Mul", float32, None)
    inputs = [values, inverse]
    if scheme.dynamic:
        integers = ir.node("DynamicQuantizeLinear", smoothed.outputs, num_outputs=3, name="Quantize")
        for output, dtype in zip(integers.outputs, (scheme.activation, float32, scheme.activation), strict=True):
            output.type = ir.TensorType(dtype)
        scale, zero_point = integers.outputs[1:]
    else:
        scale = ir.Value(name="scale", shape=ir.Shape(()), type=ir.TensorType(float32))
        zero_point = ir.Value(name="zero_point", shape=ir.Shape(()), type=ir.TensorType(scheme.activation))
        inputs += [scale, zero_point]
        integers = make_node(
            "QuantizeLinear", [smoothed.outputs[0], scale, zero_point], "Quantize", scheme.activation, None
        )
    back = make_node("DequantizeLinear", [integers.outputs[0], scale, zero_point], "Dequantize", float32, None)
    graph = ir.Graph(inputs, back.outputs, nodes=[smoothed, integers, back], opset_imports={"": opset}, name="quantize")
    return ir.Model(graph, ir_version=10)
