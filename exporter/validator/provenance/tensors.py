"""What a file holds in place of a parameter, and how far it may be from it.

=================  =============================================================================================
floating point     exactly the parameter rounded to the stored type, bit for bit
int8 MatMul        ``|inverse * (W' - z) * scale - W| <= inverse * scale / 2``
int8 table         ``|W' * scale + mean - W| <= scale / 2``
=================  =============================================================================================

Where scales, means or inverses are stored in float16, the rounding of that one number is allowed on top. A number that
is not finite is always wrong.

Half a step proves something only where the steps are small. A column's scale may be no larger than its largest smoothed
weight divided by 127, and the largest integer of a row (an input channel) no smaller than 1/64 of what it would be
without smoothing. Sound exports keep 1/20 (all-MiniLM-L6-v2) to 1/3 (small ALBERT) of it. What still passes: a row that
keeps one integer of 2, and loses every weight that is smaller than a quarter of its largest one.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.validator.provenance.quantized import QuantizedMatMul, QuantizedTable
from exporter.validator.provenance.stored import Array, Value, blocks

Mask = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]

_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)
LARGEST = {kind.numpy().name: float(kind.max) for kind in _FLOATS}
_RELATIVE_ROUNDING = {kind.numpy().name: float(kind.eps) / 2 for kind in _FLOATS}
_BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_HALF = 0.5 * (1 + 1e-4)  # a step; the quantizer divides in float32, which moves 127 by some 1e-5
_COARSER = 1.01  # than the largest weight divided by 127: scales are rounded, to float16 in a float16 graph
_FINEST_LOST = 64  # a row's largest integer without smoothing, divided by the one with smoothing
_SMALLEST_STEP = 2.0**-24  # the smallest number of float16, which a scale of zeros becomes
_QUIET = np.errstate(all="ignore")  # a damaged scale may be 0, infinite or no number: it is found as a difference


class Tensor(Protocol):
    """A weight in a file.

    Attributes:
        name: As the file has it.
        kind: How its numbers are related to a parameter's, for the summary.
        shape: Of the weight as the engine computes with it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    def compare(self, values: npt.NDArray[np.float32], rows: slice) -> tuple[Mask, float]:
        """Compare rows of this tensor with those of a parameter.

        Returns:
            Where the numbers are not what the parameter's may become, and the largest distance in steps elsewhere.
        """
        ...

    def restored(self, rows: slice) -> Float64:
        """Return the numbers that the engine computes with."""
        ...

    def too_coarse(self, values: npt.NDArray[np.float32]) -> bool:
        """Whether the steps are larger than the parameter calls for, so that half a step proves nothing."""
        ...


class FloatTensor:
    """A tensor of floating-point numbers."""

    def __init__(self, value: Value) -> None:
        self.name, self.shape = value.name, value.shape
        self.kind = str(value.dtype)
        self._array = value.array()

    def compare(self, values: npt.NDArray[np.float32], rows: slice) -> tuple[Mask, float]:
        """Return where the bits are not those of the rounded parameter, and 0."""
        mine, rounded = self._block(self._array, rows), round_to(self._block(values, rows), self._array.dtype)
        return np.asarray(_bits(mine) != _bits(rounded)), 0.0

    def restored(self, rows: slice) -> Float64:
        """Return the stored numbers."""
        return self._block(self._array, rows).astype(np.float64)

    def too_coarse(self, values: npt.NDArray[np.float32]) -> bool:  # noqa: ARG002 - there are no steps
        """Return False."""
        return False

    @staticmethod
    def _block(array: Array, rows: slice) -> Array:
        return array[rows] if array.ndim else array.reshape(1)


class MatMulTensor:
    """The int8 weight of a MatMul, with the smoothing of its activation undone."""

    def __init__(self, matmul: QuantizedMatMul) -> None:
        weight, inverse = matmul.weight, matmul.inverse
        self.name, self.shape = weight.values.name, weight.values.shape
        self.kind = "int8"
        self._integers = weight.values.array()
        self._zero_points, self._scales = weight.zero_points, weight.scales
        self._inverse: Float64 = np.ones((self.shape[0], 1))
        self._rounding = 0.0
        if inverse is not None:
            self._inverse = inverse.array().astype(np.float64).reshape(-1, 1)
            self._rounding = _RELATIVE_ROUNDING[str(inverse.dtype)]

    @_QUIET
    def compare(self, values: npt.NDArray[np.float32], rows: slice) -> tuple[Mask, float]:
        """Return where the distance is more than half a step, and the largest one elsewhere."""
        wanted = values[rows].astype(np.float64)
        steps = np.abs(self._inverse[rows] * self._scales)
        distance = np.abs(self.restored(rows) - wanted)
        wrong = _beyond(distance, _HALF * steps + self._rounding * np.abs(wanted))
        return wrong, _largest(distance / steps, ~wrong)

    @_QUIET
    def restored(self, rows: slice) -> Float64:
        """Return ``inverse * (W' - z) * scale``."""
        return np.asarray(self._inverse[rows] * self.smoothed(rows))

    @_QUIET
    def smoothed(self, rows: slice) -> Float64:
        """Return ``(W' - z) * scale``: what the smoothed activation is multiplied with."""
        return np.asarray((self._integers[rows] - self._zero_points) * self._scales)

    @_QUIET
    def errors(self, values: npt.NDArray[np.float32], rows: slice) -> Float64:
        """Return ``(W' - z) * scale - W / inverse``: what rounding did to the smoothed weight."""
        return np.asarray(self.smoothed(rows) - values[rows] / self._inverse[rows])

    @_QUIET
    def too_coarse(self, values: npt.NDArray[np.float32]) -> bool:
        """Whether a column's scale is larger than the column calls for, or smoothing has made a row too coarse."""
        smoothed, plain = np.zeros((1, self.shape[1])), np.zeros((1, self.shape[1]))
        for rows in blocks(self.shape):
            smoothed = np.maximum(smoothed, np.abs(values[rows] / self._inverse[rows]).max(axis=0))
            plain = np.maximum(plain, np.abs(values[rows]).max(axis=0))
        if not (np.abs(self._scales) <= _COARSER * smoothed / 127 + _SMALLEST_STEP).all():
            return True
        steps = np.maximum(plain, np.finfo(np.float32).tiny) / 127
        return any(self._lost(values, rows, steps) for rows in blocks(self.shape))

    def _lost(self, values: npt.NDArray[np.float32], rows: slice, steps: Float64) -> bool:
        """Whether the integers of a row are far smaller than without smoothing, where a column has one of ``steps``."""
        integers = np.abs(self._integers[rows] - self._zero_points).max(axis=1)
        without = np.rint(np.abs(values[rows]) / steps).max(axis=1)
        return bool((_FINEST_LOST * integers < without).any())


class TableTensor:
    """An int8 table of vectors with one scale per row, less its mean row."""

    def __init__(self, table: QuantizedTable) -> None:
        self.name, self.shape = table.rows.name, table.rows.shape
        self.kind = "int8"
        self._integers, self._scales, self._mean = (part.array() for part in table.parts)

    @_QUIET
    def compare(self, values: npt.NDArray[np.float32], rows: slice) -> tuple[Mask, float]:
        """Return where the distance is more than half a step, and the largest one elsewhere."""
        scales = self._scales[rows].astype(np.float64)
        distance = np.abs(self.restored(rows) - values[rows])
        allowed = (
            _HALF * scales + np.abs(self._integers[rows] * rounding_of(self._scales[rows])) + rounding_of(self._mean)
        )
        wrong = _beyond(distance, allowed)
        return wrong, _largest(distance / scales, ~wrong)

    @_QUIET
    def restored(self, rows: slice) -> Float64:
        """Return ``W' * scale + mean``."""
        scales, mean = self._scales[rows].astype(np.float64), self._mean.astype(np.float64)
        return np.asarray(self._integers[rows] * scales + mean)

    @_QUIET
    def too_coarse(self, values: npt.NDArray[np.float32]) -> bool:
        """Whether a row's scale is larger than its largest distance from the parameter's mean row divided by 127."""
        mean = values.mean(axis=0, dtype=np.float64)
        for rows in blocks(self.shape):
            largest = np.abs(values[rows] - mean).max(axis=1, keepdims=True)
            if not (self._scales[rows] <= _COARSER * largest / 127 + _SMALLEST_STEP).all():
                return True
        return False


def round_to(values: Array, dtype: np.dtype[np.generic]) -> Array:
    """Return float32 numbers rounded to the nearest number of another floating-point type, ties to even."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _bits(array: Array) -> Array:
    """Return the numbers' bits: 0 and -0 are two, and a NaN is equal to itself."""
    return array.view(_BITS[array.dtype.itemsize])


def rounding_of(array: Array) -> Float64:
    """Return by how much rounding to the stored type may have moved each number."""
    if array.dtype == np.float32:
        return np.zeros(array.shape)  # computed and stored in float32
    return np.spacing(np.abs(array)).astype(np.float64) / 2


def _beyond(distance: Float64, allowed: Float64) -> Mask:
    """Return where a distance is larger than allowed, or not finite."""
    return np.asarray(~(np.isfinite(distance) & (distance <= allowed)))


def _largest(values: Float64, where: Mask) -> float:
    return float(np.max(values, initial=0.0, where=where & np.isfinite(values)))
