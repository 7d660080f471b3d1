"""What the quantizer that takes scales from each batch must leave as it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.surgery import add_constant, make_node
from exporter.precisions.int8.dynamic import quantize_matmuls
from exporter.precisions.int8.matmuls import matmuls_of
from exporter.precisions.int8.scheme import Activation, Quantization
from tests.support.encoders import small_encoder


def test_an_excluded_matmul_reads_the_weight_that_it_shares_as_it_was() -> None:
    """The quantizer would round it for all who read it."""
    graph = small_encoder(shared=True)
    matmuls = matmuls_of(graph)
    quantized, excluded = matmuls[0], matmuls[2]
    assert quantized.weight == excluded.weight
    stored = {name: value.const_value for name, value in graph.model.graph.initializers.items()}
    biases = {matmul.node: _numbers(stored[matmul.weight.replace("weight", "bias")]) for matmul in matmuls}
    activations = {matmul.activation: Activation(scale=1.0) for matmul in matmuls}
    model = quantize_matmuls(
        graph.editable(), matmuls, Quantization(activations, {}, biases), frozenset({quantized.node})
    )
    nodes = {node.name: node for node in model.graph}
    assert [node.op_type for node in model.graph].count("MatMulInteger") == 1
    read = nodes[excluded.node].inputs[1]
    assert read is not None
    np.testing.assert_array_equal(_numbers(read.const_value), _numbers(stored[excluded.weight]))


def test_a_head_stays_the_operator_that_was_proven() -> None:
    """The quantizer would replace Gemm by MatMul and Add, and did so with the shape of a weight that is not square."""
    graph = small_encoder()
    model = graph.editable()
    vector = model.graph.outputs[0]
    weight = add_constant(model, "module.3.weight", np.ones((5, graph.dimension), np.float32))
    bias = add_constant(model, "module.3.bias", np.zeros(5, np.float32))
    head = make_node("Gemm", [vector, weight, bias], "module.3/Gemm", ir.DataType.FLOAT, ["batch", 5], {"transB": 1})
    model.graph.append(head)
    model.graph.outputs[0] = head.outputs[0]
    matmuls = matmuls_of(graph)
    biases = {matmul.node: np.zeros(matmul.outputs, np.float32) for matmul in matmuls}
    activations = {matmul.activation: Activation(scale=1.0) for matmul in matmuls}
    on = frozenset(matmul.node for matmul in matmuls)
    quantized = quantize_matmuls(model, matmuls, Quantization(activations, {}, biases), on)
    (kept,) = [node for node in quantized.graph if node.name == "module.3/Gemm"]
    assert (kept.domain, kept.op_type, kept.attributes["transB"].value) == ("", "Gemm", 1)
    assert kept.inputs[1] is not None
    assert _numbers(kept.inputs[1].const_value).shape == (5, graph.dimension)
    assert set(quantized.opset_imports) == {""}


def _numbers(tensor: ir.TensorProtocol | None) -> np.ndarray:
    assert tensor is not None, "computed, not stored"
    return tensor.numpy()
