"""Write int8 into a graph: QuantizeLinear and DequantizeLinear before every MatMul that computes in it.

::

    y = MatMul(x, W) + b

becomes, with W' in int8 and one scale per output channel ::

    y = MatMul(D(Q(x / smooth)), D(W')) + b'

An activation is quantized once however many MatMuls read it, and a weight is stored once however many MatMuls use it
(ALBERT), each use with the scale of its own activation. Engines recognise the pattern and run it in integers.

Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exporter.graph.passes import remove_unused
from exporter.graph.surgery import add_constant, input_of, make_node, replace_bias
from exporter.precisions.int8.matmuls import MatMul
from exporter.precisions.int8.scheme import Activation, Array, Quantization, Scheme

_FLOAT = ir.DataType.FLOAT


def insert_qdq(
    model: ir.Model, matmuls: Sequence[MatMul], quantization: Quantization, scheme: Scheme, on: frozenset[str]
) -> int:
    """Rewrite the MatMuls named in ``on`` in place; returns how many.

    Args:
        model: The folded float32 model.
        matmuls: All MatMuls of it that could compute in int8.
        quantization: Scales and integers.
        scheme: The target's types.
        on: Names of the MatMuls that compute in int8; the others keep their float32 weight.
    """
    nodes = {str(node.name): node for node in model.graph}
    activations: dict[str, ir.Value] = {}
    weights: dict[str, ir.Value] = {}
    chosen = [matmul for matmul in matmuls if matmul.node in on]
    for matmul in chosen:
        node = nodes[matmul.node]
        if matmul.activation not in activations:
            how = quantization.activations[matmul.activation]
            activations[matmul.activation] = _quantized(model, node, input_of(node), how, scheme)
        if matmul.weight not in weights:
            weights[matmul.weight] = _weight(model, node, matmul, quantization)
        node.replace_input_with(0, activations[matmul.activation])
        node.replace_input_with(1, weights[matmul.weight])
        if matmul.node in quantization.biases:
            set_bias(model, node, matmul, quantization.biases[matmul.node])
    remove_unused(model)
    return len(chosen)


def _quantized(model: ir.Model, before: ir.Node, value: ir.Value, how: Activation, scheme: Scheme) -> ir.Value:
    """Return ``value`` smoothed, quantized and dequantized, computed right before its first reader."""
    name = str(value.name).rstrip(":")
    source = value if how.smooth is None else smoothed(model, before, value, how.smooth)
    scale = add_constant(model, f"{name}/scale", np.array(how.scale, np.float32))
    zero_point = add_constant(model, f"{name}/zero_point", np.array(how.zero_point, scheme.numpy))
    steps = [scale, zero_point]
    quantize = make_node("QuantizeLinear", [source, *steps], f"{name}/Quantize", scheme.activation, value.shape)
    back = make_node("DequantizeLinear", [quantize.outputs[0], *steps], f"{name}/Dequantize", _FLOAT, value.shape)
    model.graph.insert_before(before, [quantize, back])
    return back.outputs[0]


def _weight(model: ir.Model, before: ir.Node, matmul: MatMul, quantization: Quantization) -> ir.Value:
    """Return the dequantized int8 weight, computed right before its first reader."""
    weight = quantization.weights[matmul.weight]
    values = add_constant(model, f"{matmul.weight}.int8", weight.values)
    scales = add_constant(model, f"{matmul.weight}.scales", weight.scales)
    zero_points = add_constant(model, f"{matmul.weight}.zero_points", np.zeros(matmul.outputs, np.int8))
    node = make_node(
        "DequantizeLinear",
        [values, scales, zero_points],
        f"{matmul.weight}/Dequantize",
        _FLOAT,
        weight.values.shape,
        {"axis": 1},
    )
    model.graph.insert_before(before, node)
    return node.outputs[0]


def smoothed(model: ir.Model, before: ir.Node, value: ir.Value, smooth: Array) -> ir.Value:
    """Return ``value`` divided by ``smooth`` (channels,), computed right before ``before``."""
    name = str(value.name).rstrip(":")
    inverse = add_constant(model, f"{name}/smooth", (1 / smooth).astype(np.float32))
    node = make_node("Mul", [value, inverse], f"{name}/Mul.smooth", _FLOAT, value.shape)
    model.graph.insert_before(before, node)
    return node.outputs[0]


def set_bias(model: ir.Model, node: ir.Node, matmul: MatMul, bias: Array) -> None:
    """Give one use of a weight its own bias, with an addition where it has none."""
    constant = add_constant(model, f"{matmul.module}.bias.int8", bias)
    replace_bias(model, node, constant, f"{matmul.module}/Add.int8")
