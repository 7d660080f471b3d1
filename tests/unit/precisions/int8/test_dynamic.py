"""Weights that MatMuls in int8 share with others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

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


def _numbers(tensor: ir.TensorProtocol | None) -> np.ndarray:
    assert tensor is not None, "computed, not stored"
    return tensor.numpy()
