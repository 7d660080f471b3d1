"""int8 with scales from each batch as it comes, by onnxruntime's own quantizer. For its CPU provider only."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from exporter.calibration import TokenBatches
from exporter.dependencies import require
from exporter.graph import Graph
from exporter.graph.passes import remove_unused
from exporter.graph.surgery import add_constant
from exporter.precisions import Conversion, ConversionRequest
from exporter.precisions.int8 import conversion
from exporter.precisions.int8.matmuls import MatMul
from exporter.precisions.int8.plan import Plan
from exporter.precisions.int8.qdq import set_bias, smoothed
from exporter.precisions.int8.scheme import Quantization
from exporter.precisions.int8.search import Assignment
from exporter.precisions.int8.static import decisions
from exporter.targets import Precision

# Without it the quantizer logs a warning that the graph should be optimized first, which is no concern of users'.
_PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}

_HIDDEN = ("korsbert.hidden", "HiddenGemm")  # domain and operator


check = conversion.check


def prepare(request: ConversionRequest) -> Conversion:
    """Calibrate, and search for the MatMuls that can be int8."""
    return conversion.prepare(request, convert)


def convert(plan: Plan, assignment: Assignment, batches: TokenBatches) -> Graph:  # noqa: ARG001 - nothing is audited
    """Return the plan's graph with ``assignment`` in int8, its outliers moved into weights first."""
    on = frozenset(matmul.node for matmul in plan.matmuls) - assignment.excluded
    converted = quantize_matmuls(plan.graph.editable(), plan.matmuls, plan.calibrated.quantization, on)
    return plan.graph.with_model(converted, precision=Precision.INT8_DYNAMIC, decisions=decisions(plan, assignment))


def quantize_matmuls(
    model: ir.Model, matmuls: Sequence[MatMul], quantization: Quantization, on: frozenset[str]
) -> ir.Model:
    """Return ``model`` with the MatMuls named in ``on`` in int8, by scales that are computed from each batch.

    Args:
        model: The folded float32 model; it is rewritten.
        matmuls: All MatMuls of it.
        quantization: How activations are smoothed, and biases; weights are the quantizer's own.
        on: Nodes of the MatMuls that compute in int8: one at least, as the quantizer takes none for all.
    """
    if not on:
        raise ValueError("no MatMul is to be in int8")
    _prepare(model, matmuls, quantization, on)
    model.metadata_props.update(_PREPROCESSED)
    quantizer = require("onnxruntime.quantization")
    with tempfile.TemporaryDirectory(prefix="korsbert-") as scratch:
        target = Path(scratch) / "model.onnx"
        with _without_its_advice():
            quantizer.quantize_dynamic(
                _with_gemms_hidden(model),
                target,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=quantizer.QuantType.QInt8,
                nodes_to_quantize=sorted(on),
            )
        converted = ir.load(target)
        for value in converted.graph.initializers.values():  # the file goes with the folder
            if value.const_value is not None:
                value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
    for node in converted.graph:
        if (node.domain, node.op_type) == _HIDDEN:
            node.domain, node.op_type = "", "Gemm"
    converted.opset_imports.pop(_HIDDEN[0], None)
    for key in _PREPROCESSED:
        converted.metadata_props.pop(key, None)
    return converted


def _with_gemms_hidden(model: ir.Model) -> onnx.ModelProto:
    """Return a model whose ``Gemm`` operators have another name.

    The quantizer would replace each of them by MatMul and Add, with a weight that is transposed, the heads of a
    checkpoint among them: the graph would no longer be the one that was proven.
    """
    proto = ir.to_proto(model)
    for node in proto.graph.node:
        if node.op_type == "Gemm":
            node.domain, node.op_type = _HIDDEN
    proto.opset_import.add(domain=_HIDDEN[0], version=1)
    return proto


@contextmanager
def _without_its_advice() -> Iterator[None]:
    """Keep the quantizer's advice about a step that korsbert has done already from the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _prepare(model: ir.Model, matmuls: Sequence[MatMul], quantization: Quantization, on: frozenset[str]) -> None:
    """Set the biases, divide each activation that is smoothed by its scales, and multiply the weights that read it."""
    nodes = {str(node.name): node for node in model.graph}
    activations: dict[str, ir.Value] = {}
    weights: dict[str, ir.Value] = {}
    for matmul in matmuls:
        if matmul.node in on:
            set_bias(model, nodes[matmul.node], matmul, quantization.biases[matmul.node])
        smooth = quantization.activations[matmul.activation].smooth
        node = nodes[matmul.node]
        source, weight = node.inputs
        if matmul.node not in on or smooth is None or source is None or weight is None or weight.const_value is None:
            continue
        if matmul.activation not in activations:
            activations[matmul.activation] = smoothed(model, node, source, smooth)
        if matmul.weight not in weights:
            array = weight.const_value.numpy() * smooth[:, None]
            weights[matmul.weight] = add_constant(model, f"{matmul.weight}.smoothed", array)
        node.replace_input_with(0, activations[matmul.activation])
        node.replace_input_with(1, weights[matmul.weight])
    _keep_exact_for_others(model, [nodes[name] for name in sorted(on)])
    remove_unused(model)


def _keep_exact_for_others(model: ir.Model, quantized: Sequence[ir.Node]) -> None:
    """Give MatMuls in int8 a copy of a weight that other nodes read too: the quantizer would round it for all."""
    copies: dict[ir.Value, ir.Value] = {}
    for node in quantized:
        weight = node.inputs[1]
        if weight is None or weight.const_value is None or set(weight.consumers()) <= set(quantized):
            continue
        if weight not in copies:
            copies[weight] = add_constant(model, f"{weight.name}.copy", weight.const_value.numpy())
        node.replace_input_with(1, copies[weight])
