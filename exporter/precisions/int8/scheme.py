"""What each target's kernels want of int8, and the numbers that int8 is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.errors import BuildError
from exporter.targets import Precision

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Activation:
    """How one activation is quantized: ``q = round(x / smooth / scale) + zero_point``.

    Attributes:
        scale: Step.
        zero_point: What zero becomes; 0 where the type is signed.
        smooth: (channels,) float32, or None for none.
    """

    scale: float
    zero_point: int = 0
    smooth: Array | None = None


@dataclass(frozen=True)
class Weight:
    """A weight in int8, symmetric.

    Attributes:
        values: (inputs, outputs) int8, of the weight with its rows times the activation's ``smooth``.
        scales: (outputs,) float32, one step per output channel.
    """

    values: npt.NDArray[np.int8]
    scales: Array

    def restored(self) -> Array:
        """Return the float32 that the integers stand for."""
        return self.values.astype(np.float32) * self.scales


@dataclass(frozen=True)
class Quantization:
    """Everything that int8 takes, whatever MatMuls it is then used for.

    Attributes:
        activations: By name of the value.
        weights: By name of the initializer.
        biases: (outputs,) float32 by name of the MatMul's node, where it differs from the stored one.
    """

    activations: Mapping[str, Activation]
    weights: Mapping[str, Weight]
    biases: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Scheme:
    """How a target quantizes. Weights are int8, symmetric, one scale per output channel, everywhere.

    Attributes:
        activation: ``INT8`` (symmetric) or ``UINT8`` (with a zero point); one scale per tensor.
        fallback_dtype: Format of what is not int8: ``"fp32"`` or ``"fp16"``.
        speedup: Time of a MatMul in the fallback dtype over its time in int8, by which the search weighs.
        dynamic: Whether an activation's scale is computed from each batch as it comes.
        gathers_int8: Whether rows of an int8 table can be gathered; TensorRT knows int8 only between Q and DQ.
        merges_factors: Whether the engine's file holds two factors in a row as their product. Then neither of them can
            be compared with the checkpoint, so what ends with a factor is not smoothed by another one.
    """

    activation: ir.DataType
    fallback_dtype: str
    speedup: float
    dynamic: bool = False
    gathers_int8: bool = True
    merges_factors: bool = False

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The activation's type in numpy."""
        return np.dtype(self.activation.numpy())

    @property
    def symmetric(self) -> bool:
        """Whether the activation's type is signed and without a zero point."""
        return self.activation == ir.DataType.INT8

    def storable(self, scales: npt.NDArray[np.floating]) -> Array:
        """Round scales to what the graph can hold: in a float16 graph they are float16, and must not become 0."""
        if self.fallback_dtype != "fp16":
            return np.asarray(scales, np.float32)
        return np.asarray(np.maximum(scales, 2.0**-24).astype(np.float16), np.float32)

    def activation_of(self, low: float, high: float, smooth: Array | None = None) -> Activation:
        """Return the steps and zero point of a range that holds 0. -128 is not used where the type is signed."""
        if self.symmetric:
            scale = float(self.storable(np.array(max(-low, high, 1e-6) / 127)))
            return Activation(scale, 0, smooth)
        low, high = min(low, 0.0), max(high, 0.0)
        scale = float(self.storable(np.array(max(high - low, 1e-6) / 255)))
        return Activation(scale, int(np.clip(np.rint(-low / scale), 0, 255)), smooth)

    def weight_of(self, weight: Array) -> Weight:
        """Return (inputs, outputs) float32 in int8, symmetric, one step per output channel."""
        scales = self.storable(np.maximum(np.abs(weight).max(axis=0), 1e-9) / 127)
        return Weight(np.clip(np.rint(weight / scales), -127, 127).astype(np.int8), scales)

    def restored(self, values: Array, how: Activation) -> Array:
        """Return what is left of ``values`` (smoothed already) after quantizing and dequantizing."""
        lowest, highest = (-128, 127) if self.symmetric else (0, 255)
        numbers = np.asarray(values / how.scale, np.float32)  # and in place from here: samples are large
        np.rint(numbers, out=numbers)
        numbers += how.zero_point
        np.clip(numbers, lowest, highest, out=numbers)
        numbers -= how.zero_point
        numbers *= how.scale
        return numbers


# (backend, device) -> scheme. Speedups are a model, one number per target: 3 on CPUs, which is what a whole BERT-base
# gains over float32 by ONNX Runtime on two cores with VNNI (3.60x sentence-transformers where float32 has 1.12x;
# OpenVINO, which uses AMX too, gains 7.0x: benchmarks/results), and on GPUs, where nothing has been measured, the 2
# that data sheets state. As all MatMuls of a target share it, it moves the plot's axis and not the choice.
STATIC = {
    ("onnxruntime", "cpu"): Scheme(ir.DataType.UINT8, "fp32", 3.0),
    ("onnxruntime", "cuda"): Scheme(ir.DataType.INT8, "fp16", 2.0),
    ("openvino", "cpu"): Scheme(ir.DataType.INT8, "fp32", 3.0, merges_factors=True),
    ("tensorrt", "cuda"): Scheme(ir.DataType.INT8, "fp16", 2.0, gathers_int8=False),
    ("tensorrt-rtx", "cuda"): Scheme(ir.DataType.INT8, "fp16", 2.0, gathers_int8=False),
}
DYNAMIC = {("onnxruntime", "cpu"): Scheme(ir.DataType.UINT8, "fp32", 3.0, dynamic=True)}


def scheme_of(precision: str, backend: str, device: str) -> Scheme:
    """Return how a target quantizes.

    Args:
        precision: ``"int8"`` or ``"int8_dynamic"``.
        backend: Key of ``BACKENDS``.
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        BuildError: The target has no kernels for it.
    """
    dynamic = Precision(precision).scales_from_batch
    scheme = (DYNAMIC if dynamic else STATIC).get((backend, device))
    if scheme is None:
        reason = ": only onnxruntime's CPU provider computes scales at run time" if dynamic else ""
        raise BuildError(
            f"{precision} is not supported on {backend} ({device}){reason}",
            next_step="use `precision=int8`" if dynamic else "use `backend=onnxruntime` or `backend=openvino`",
        )
    return scheme
