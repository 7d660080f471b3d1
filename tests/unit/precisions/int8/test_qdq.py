from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.graph.surgery import input_of
from exporter.precisions.int8.calibrate import quantize
from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.observer import observe
from exporter.precisions.int8.qdq import insert_qdq
from exporter.precisions.int8.scheme import STATIC, Scheme
from tests.support.encoders import INNER, WIDTH, numbers, small_encoder, word_tokenizer
from tests.support.graphs import ops
from tests.support.surgery import stored_array

BATCHES = TokenBatches(numbers(20), word_tokenizer())


def written(graph: Graph, scheme: Scheme, kept: int = 0) -> ir.Model:
    emulator = Emulator(graph, scheme)
    quantization = quantize(emulator, scheme, observe(emulator, BATCHES), "minmax", {})
    model = graph.editable()
    on = frozenset(matmul.node for matmul in emulator.matmuls[kept:])
    insert_qdq(model, emulator.matmuls, quantization, scheme, on)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def computes(node: ir.Node, index: int) -> str:
    """Return the operator that computes an input of a node."""
    producer = input_of(node, index).producer()
    assert producer is not None
    return producer.op_type


@pytest.mark.parametrize(("target", "dtype"), [("openvino", ir.DataType.INT8), ("onnxruntime", ir.DataType.UINT8)])
def test_every_matmul_reads_int8_and_the_target_s_activations(target: str, dtype: ir.DataType) -> None:
    model = written(small_encoder(), STATIC[target, "cpu"])
    assert ops(model).count("QuantizeLinear") == 4
    assert ops(model).count("DequantizeLinear") == 8
    zero_points = {input_of(node, 2).dtype for node in model.graph if node.op_type == "QuantizeLinear"}
    assert zero_points == {dtype}
    matmuls = [node for node in model.graph if node.op_type == "MatMul" and "head.weight" not in str(node.inputs)]
    assert all(computes(node, index) == "DequantizeLinear" for node in matmuls for index in (0, 1))


def test_a_shared_weight_is_stored_once_and_each_use_has_its_own_scale() -> None:
    model = written(small_encoder(layers=3, shared=True), STATIC["openvino", "cpu"])
    stored = [value for value in model.graph.initializers.values() if value.dtype == ir.DataType.INT8]
    large = [value for value in stored if stored_array(value).size == WIDTH * INNER]
    assert len(large) == 2
    scales = [float(stored_array(node.inputs[1])) for node in model.graph if node.op_type == "QuantizeLinear"]
    assert len(scales) == 6
    assert len(set(scales)) == 6


def test_an_excluded_matmul_keeps_its_weight() -> None:
    model = written(small_encoder(), STATIC["openvino", "cpu"], kept=1)
    assert ops(model).count("QuantizeLinear") == 3
    assert "layer0.ffn.weight" in model.graph.initializers
    assert "layer1.ffn.weight" not in model.graph.initializers
    kept = next(node for node in model.graph if node.name == "layer.0.ffn/MatMul")
    assert computes(kept, 0) == "LayerNormalization"


def test_a_matmul_without_a_bias_gets_one_to_make_up_for_the_mean() -> None:
    graph = small_encoder()
    model = graph.editable()
    for node in list(model.graph):
        if node.name == "layer.0.ffn/Add":
            node.outputs[0].replace_all_uses_with(input_of(node))
            model.graph.remove(node, safe=True)
    bare = graph.with_model(model)
    changed = written(bare, STATIC["openvino", "cpu"])
    (reader,) = next(node for node in changed.graph if node.name == "layer.0.ffn/MatMul").outputs[0].consumers()
    assert reader.op_type == "Add"
    assert np.isfinite(stored_array(reader.inputs[1])).all()
