"""EngineFacts: what a backend records about an engine when it builds one, and reads when it opens the engine."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from exporter.engines.tensorrt.profiles import Profile
from exporter.targets import OLDEST_OPSET, Padding


class EngineFacts(BaseModel):
    """The facts of one engine. A manifest holds only those that the backend has recorded.

    Attributes:
        version: Version of TensorRT or TensorRT-RTX that built the engine.
        compute_capability: Compute capability of the only GPUs that can open the engine, ``"9.0"`` for example; None if
            it is not bound to one.
        gpu: Name of the GPU that the engine was built on, or None.
        driver: Version of that GPU's driver, or None.
        version_compatible: Whether newer versions of TensorRT open the engine too.
        padding: Where rows may be padded.
        lengths: Whether attention reads the length of each row instead of a mask.
        opset: The ONNX operator set of the graph, for ONNX Runtime; None in bundles that do not state it.
        ir_version: The version of the ONNX file format, likewise.
        unbiased_norms: Whether the graph has a LayerNormalization without a bias.
        shape_nodes: Names of the graph's nodes that compute shapes, which ONNX Runtime keeps on the CPU.
        profiles: TensorRT's optimization profiles, the narrowest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # In the order of the JSON, which the seals of manifests depend on.
    version: str | None = None
    compute_capability: str | None = None
    gpu: str | None = None
    driver: str | None = None
    version_compatible: bool = False
    padding: Padding = Padding.ANY
    shape_nodes: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    lengths: bool = False
    opset: int | None = Field(default=None, ge=OLDEST_OPSET)
    ir_version: int | None = None
    unbiased_norms: bool = False

    @property
    def right_padded(self) -> bool:
        """Whether rows must be padded on the right."""
        return self.padding is Padding.RIGHT

    @model_serializer(mode="wrap")
    def _recorded(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}
