"""What an export can aim at: number formats, engines and devices, each with the facts that are asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FOLDED_OPSET = 23
"""The ONNX operator set that checkpoints are folded in: the first with an ``Attention`` operator."""
OLDEST_OPSET = 17
"""The lowest operator set that a graph can be lowered to: the first with ``LayerNormalization``."""


class Precision(StrEnum):
    """Number format of a graph. Its output is float32 in every one."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_DYNAMIC = "int8_dynamic"

    @property
    def is_int8(self) -> bool:
        """Whether MatMuls are quantized to int8."""
        return self in {Precision.INT8, Precision.INT8_DYNAMIC}

    @property
    def scales_from_batch(self) -> bool:
        """Whether activation scales are computed from each batch, so that a vector depends on its batch."""
        return self is Precision.INT8_DYNAMIC


class Device(StrEnum):
    """Where an engine or the reference computes."""

    CPU = "cpu"
    CUDA = "cuda"


class Backend(StrEnum):
    """The library that runs an engine."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"

    @property
    def needs_gpu(self) -> bool:
        """Whether its engines run on NVIDIA GPUs only."""
        return self in {Backend.TENSORRT, Backend.TENSORRT_RTX}

    def device(self, asked: Device) -> Device:
        """Return the device of its engines when the user asks for ``asked``."""
        return Device.CUDA if self.needs_gpu else asked


class Padding(StrEnum):
    """Where a row of a batch may be padded.

    ``RIGHT``: only after the tokens, because attention reads the number of ones in each row of the mask. ``ANY``:
    anywhere, because attention reads the mask itself.
    """

    RIGHT = "right"
    ANY = "any"


@dataclass(frozen=True)
class Target:
    """What an engine is built for.

    Attributes:
        precision: Number format of the graph.
        backend: The library that runs the engine.
        device: Where it runs.
        opset: The ONNX operator set that the graph is lowered to; ``FOLDED_OPSET`` where it is not lowered.
    """

    precision: Precision
    backend: Backend
    device: Device
    opset: int = FOLDED_OPSET

    @property
    def is_lowered(self) -> bool:
        """Whether the graph is written in a lower operator set than it was folded in."""
        return self.opset < FOLDED_OPSET

    def __str__(self) -> str:
        name = f"{self.precision} on {self.backend}"
        return f"{name}, opset {self.opset}" if self.is_lowered else name

    @property
    def folder(self) -> str:
        """Name of the folder of its bundle."""
        return f"{self.precision}-{self.backend}"

    @property
    def is_as_folded(self) -> bool:
        """Whether its engine is the folded float32 graph itself."""
        return self == Target(Precision.FP32, Backend.ONNXRUNTIME, Device.CPU)
