"""The patterns in which a published graph computes with integers, in ONNX's operators and in OpenVINO's.

::

    static MatMul       MatMul(D(Q(x * inverse)), D(W'))
    dynamic MatMul      Cast(MatMulInteger(q, W')) * (scale of q * scales of W')
    table of vectors    Cast(Gather(W', ids)) * Gather(scales, ids) + mean

with ``q`` from ``DynamicQuantizeLinear(x * inverse)``, and with ``* inverse`` only where the activation is smoothed.
OpenVINO writes ``Q`` as ``Cast(FakeQuantize(x))`` and ``D`` as ``(Cast(q) - zero point) * scale``.

Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.validator.provenance.stored import Array, Node, StoredGraph, Value, made_by, stored_operand

Constant = tuple[Array, Value]
"""Numbers, and the stored tensor that they come from."""

_INTEGERS = {"int8": (-128, 127), "uint8": (0, 255)}


@dataclass(frozen=True, eq=False)
class Integers:
    """A stored tensor of integers and what they stand for: ``(values - zero_points) * scales``.

    Attributes:
        values: int8 or uint8, (inputs, outputs).
        scales: float64, (1, outputs) or one number ().
        zero_points: float64, likewise.
        parts: Every stored tensor that takes part, the integers included.
    """

    values: Value
    scales: npt.NDArray[np.float64]
    zero_points: npt.NDArray[np.float64]
    parts: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class QuantizedMatMul:
    """A MatMul that is computed with integers.

    Attributes:
        node: The node that is named after the module.
        output: Its output as floating-point numbers.
        activation: What is multiplied, before it is smoothed and quantized.
        inverse: The stored vector (inputs,) that the activation is multiplied with to smooth it, or None.
        weight: The integers, (inputs, outputs).
        step: Distance of two neighboring values of the quantized activation; None where each batch has its own.
        largest: Largest magnitude that the quantized activation can hold; None likewise.
    """

    node: Node
    output: Value
    activation: Value
    inverse: Value | None
    weight: Integers
    step: float | None = None
    largest: float | None = None


@dataclass(frozen=True, eq=False)
class QuantizedTable:
    """A table of vectors that is stored with one scale per row, less its mean row.

    Attributes:
        node: The node that adds the mean row.
        output: The gathered vectors.
        indices: Which rows.
        rows: int8 (rows, width).
        scales: (rows, 1) floating-point numbers.
        mean: (width,) floating-point numbers.
    """

    node: Node
    output: Value
    indices: Value
    rows: Value
    scales: Value
    mean: Value

    @property
    def parts(self) -> tuple[Value, ...]:
        """Every stored tensor that takes part."""
        return self.rows, self.scales, self.mean


def quantized_matmuls(graph: StoredGraph) -> Mapping[Value, QuantizedMatMul]:
    """Return every MatMul in integers by its output."""
    found = (_static_matmul(node) or _dynamic_matmul(node) for node in graph.nodes)
    return {matmul.output: matmul for matmul in found if matmul is not None}


def quantized_tables(graph: StoredGraph) -> Mapping[Value, QuantizedTable]:
    """Return every table in integers by its output."""
    found = (_table(node) for node in graph.nodes)
    return {table.output: table for table in found if table is not None}


def _static_matmul(node: Node) -> QuantizedMatMul | None:
    if node.operator != "MatMul" or len(node.inputs) != 2 or node.attributes.get("transpose_b"):
        return None
    weight = _dequantized(node.inputs[1])
    activation = _quantized_activation(node.inputs[0])
    if weight is None or activation is None:
        return None
    source, step, largest = activation
    source, inverse = _smoothed(source, weight)
    return QuantizedMatMul(node, node.outputs[0], source, inverse, weight, step, largest)


def _dequantized(value: Value | None) -> Integers | None:
    """Return the stored integers that ``value`` is made of, or None where it is made of anything else."""
    node = made_by(value, "DequantizeLinear")
    if node is not None:
        values, scales, zero_points = (*node.inputs, None)[:3]
        if values is None or scales is None or not values.is_stored or not scales.is_stored:
            return None
        if zero_points is not None and not zero_points.is_stored:
            return None
        if scales.size > 1 and node.attributes.get("axis", 1) not in {1, -1}:
            return None
        zeros = zero_points.array() if zero_points is not None else np.zeros((), np.int8)
        parts = tuple(part for part in (values, scales, zero_points) if part is not None)
        return _integers(values, scales.array(), zeros, parts)
    restored = _dequantized_by_openvino(value)
    if restored is None or not restored[0].is_stored:
        return None
    integers, (scale, stored_scale), (zero_point, stored_zero_point) = restored
    return _integers(integers, scale, zero_point, (integers, stored_scale, stored_zero_point))


def _dequantized_by_openvino(value: Value | None) -> tuple[Value, Constant, Constant] | None:
    """Return integers, scale and zero point of ``(Cast(integers) - zero point) * scale``."""
    scaled = made_by(value, "Mul")
    difference = made_by(scaled.inputs[0], "Sub") if scaled is not None else None
    cast = made_by(difference.inputs[0], "Cast") if difference is not None else None
    if scaled is None or difference is None or cast is None or cast.inputs[0] is None:
        return None
    scale, zero_point = _constant(scaled.inputs[1]), _constant(difference.inputs[1])
    return (cast.inputs[0], scale, zero_point) if scale is not None and zero_point is not None else None


def _quantized_activation(value: Value | None) -> tuple[Value, float, float] | None:
    """Return (what is quantized, step, largest magnitude) of a value that was quantized and restored."""
    node = made_by(value, "DequantizeLinear")
    quantize = made_by(node.inputs[0], "QuantizeLinear") if node is not None else None
    if node is not None and quantize is not None:
        if quantize.inputs[1:] != node.inputs[1:] or len(node.inputs) != 3:
            return None
        source, scale, zero_point = quantize.inputs
        if source is None or scale is None or zero_point is None or not (scale.is_stored and zero_point.is_stored):
            return None
        if scale.size != 1 or zero_point.size != 1 or zero_point.dtype not in _INTEGERS:
            return None
        return source, *_extent(scale.array().item(), zero_point.array().item(), str(zero_point.dtype))
    return _fake_quantized(value)


def _fake_quantized(value: Value | None) -> tuple[Value, float, float] | None:
    """Return the same for OpenVINO's form, if the limits of its ``FakeQuantize`` agree with scale and zero point."""
    restored = _dequantized_by_openvino(value)
    if restored is None:
        return None
    integers, (scale, _), (zero_point, _) = restored
    rounded = integers.producer
    if rounded is None or rounded.operator != "Cast":
        return None
    fake = rounded.inputs[0].producer if rounded.inputs[0] is not None else None
    if fake is None or not fake.operator.endswith("FakeQuantize") or integers.dtype not in _INTEGERS:
        return None
    stated = [numbers[0] for limit in fake.inputs[1:] if (numbers := _constant(limit)) is not None]
    if fake.attributes.get("levels") != 256 or len(stated) != 4 or fake.inputs[0] is None:
        return None
    if any(numbers.size != 1 for numbers in (scale, zero_point, *stated)):
        return None
    step, zero = float(scale.item()), float(zero_point.item())
    low, high = _INTEGERS[str(integers.dtype)]
    wanted = [(low - zero) * step, (high - zero) * step, low, high]
    if not np.allclose([float(numbers.item()) for numbers in stated], wanted, rtol=1e-5, atol=1e-30):
        return None
    return fake.inputs[0], *_extent(step, int(zero), str(integers.dtype))


def _extent(step: float, zero_point: int, dtype: str) -> tuple[float, float]:
    low, high = _INTEGERS[dtype]
    return step, step * max(zero_point - low, high - zero_point)


def _dynamic_matmul(node: Node) -> QuantizedMatMul | None:
    """Recognise what onnxruntime's dynamic quantizer writes."""
    if node.operator != "Mul" or len(node.inputs) != 2:
        return None
    cast, factors = made_by(node.inputs[0], "Cast"), made_by(node.inputs[1], "Mul")
    matmul = made_by(cast.inputs[0], "MatMulInteger") if cast is not None else None
    if factors is None or matmul is None or len(matmul.inputs) != 4:
        return None
    integers, values, zero_point, zero_points = matmul.inputs
    quantize = integers.producer if integers is not None else None
    scale, scales = factors.inputs
    if quantize is None or quantize.operator != "DynamicQuantizeLinear" or quantize.inputs[0] is None:
        return None
    if (integers, scale, zero_point) != quantize.outputs or values is None or scales is None or zero_points is None:
        return None
    if not (values.is_stored and scales.is_stored and zero_points.is_stored):
        return None
    weight = _integers(values, scales.array(), zero_points.array(), (values, scales, zero_points))
    if weight is None:
        return None
    source, inverse = _smoothed(quantize.inputs[0], weight)
    return QuantizedMatMul(matmul, node.outputs[0], source, inverse, weight)


def _smoothed(value: Value, weight: Integers) -> tuple[Value, Value | None]:
    """Return (x, inverse) where ``value`` is ``x * inverse`` with a stored vector, and (value, None) elsewhere.

    The factor that ends a normalization is no inverse. The name tells the two apart: taken for the other one, neither
    would agree with the checkpoint.
    """
    node = made_by(value, "Mul")
    if node is not None and "Normalization" in node.name.rpartition("/")[2]:
        return value, None
    operands = stored_operand(node) if node is not None else None
    if operands is None or operands[1].size == 1 or operands[1].shape != weight.values.shape[:1]:
        return value, None
    return operands


def _table(node: Node) -> QuantizedTable | None:
    operands = stored_operand(node) if node.operator == "Add" else None
    scaled = made_by(operands[0], "Mul") if operands is not None else None
    if operands is None or scaled is None or len(scaled.inputs) != 2:
        return None
    cast, scales = made_by(scaled.inputs[0], "Cast"), _gathered(scaled.inputs[1])
    rows = _gathered(cast.inputs[0]) if cast is not None else None
    if rows is None or scales is None or rows[1] is not scales[1]:
        return None
    if rows[0].dtype != "int8" or len(rows[0].shape) != 2 or not (scales[0].is_float and operands[1].is_float):
        return None
    if scales[0].shape != (rows[0].shape[0], 1) or operands[1].shape != rows[0].shape[1:]:
        return None
    return QuantizedTable(node, node.outputs[0], rows[1], rows[0], scales[0], operands[1])


def _gathered(value: Value | None) -> tuple[Value, Value] | None:
    """Return (table, indices) of rows that are gathered from a stored table."""
    node = made_by(value, "Gather")
    if node is None or not gathers_rows(node):
        return None
    table, indices = node.inputs[:2]
    return (table, indices) if table is not None and indices is not None and table.is_stored else None


def gathers_rows(node: Node) -> bool:
    """Whether a ``Gather`` takes whole rows: along the first axis, which OpenVINO keeps in a third input."""
    if len(node.inputs) == 3:
        axis = node.inputs[2]
        known = axis is not None and axis.is_stored and not axis.array().any()
        return known and not node.attributes.get("batch_dims", 0)
    return bool(node.attributes.get("axis", 0) == 0)


def _constant(value: Value | None) -> Constant | None:
    """Return (numbers, stored tensor) of a value that is stored, or a cast or a reshape of a stored one."""
    if value is None:
        return None
    if value.is_stored:
        return value.array(), value
    node = value.producer
    if node is None or node.operator not in {"Cast", "Reshape"}:
        return None
    source = _constant(node.inputs[0])
    if source is None or node.operator == "Cast":
        return source
    shape = _constant(node.inputs[1])
    if shape is None or np.prod(shape[0]) != source[0].size:
        return None
    return source[0].reshape(shape[0]), source[1]


def _integers(values: Value, scales: Array, zero_points: Array, parts: tuple[Value, ...]) -> Integers | None:
    """Return the integers of a weight, or None where they do not have one scale per column, or one for all."""
    if values.dtype not in _INTEGERS or len(values.shape) != 2:
        return None
    aligned = [_per_column(array, values.shape[1]) for array in (scales, zero_points)]
    if aligned[0] is None or aligned[1] is None:
        return None
    return Integers(values, aligned[0], aligned[1], parts)


def _per_column(array: Array, columns: int) -> npt.NDArray[np.float64] | None:
    """Return (1, columns) numbers, or one number (); None for any other shape, for example a scale per block."""
    numbers = np.asarray(array, np.float64)
    if numbers.size == 1:
        return numbers.reshape(())
    return numbers.reshape(1, columns) if numbers.shape in {(columns,), (1, columns)} else None
