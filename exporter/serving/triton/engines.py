"""What an engine in a repository really has: its inputs and outputs, its extents, what it was built with.

Read from the engine itself where its own library is installed, and from the bundle's manifest where one lies beside it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.bundle import MANIFEST, Bundle, Manifest
from exporter.bundle.manifest import read_manifest
from exporter.dependencies import require
from exporter.errors import InputError, first_line
from exporter.runtime.contract import INPUTS, OUTPUT

# The file each backend of Triton opens, unless default_model_filename says otherwise.
MODEL_FILES = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "openvino": "model.xml",
    "python": "model.py",
}
PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}

_ONNX_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(bfloat16)": "TYPE_BF16",
    "tensor(double)": "TYPE_FP64",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int8)": "TYPE_INT8",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(bool)": "TYPE_BOOL",
    "tensor(string)": "TYPE_STRING",
}
_OPENVINO_TYPES = {
    "f32": "TYPE_FP32",
    "f16": "TYPE_FP16",
    "bf16": "TYPE_BF16",
    "f64": "TYPE_FP64",
    "i64": "TYPE_INT64",
    "i32": "TYPE_INT32",
    "i16": "TYPE_INT16",
    "i8": "TYPE_INT8",
    "u64": "TYPE_UINT64",
    "u32": "TYPE_UINT32",
    "u16": "TYPE_UINT16",
    "u8": "TYPE_UINT8",
    "boolean": "TYPE_BOOL",
    "string": "TYPE_STRING",
}
# A plan begins with this tag and a version of its own format, 0 so far; TensorRT's version stands in bytes 24 to 27
# (NVIDIA/TensorRT, samples/common/sampleEngines.cpp, printPlanVersion).
_PLAN_TAG, _PLAN_FORMAT, _PLAN_HEADER = 0x74727466, 0, "<II16x4B"


@dataclass(frozen=True)
class Tensor:
    """An input or output: Triton's name of its type, and its extents with the batch; -1 where any is allowed."""

    data_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineFacts:
    """What an engine has.

    Attributes:
        inputs: By name.
        outputs: By name.
        manifest: Of the bundle it came from, where one lies beside it.
        tensorrt: Version a plan was built with, read from the plan.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    manifest: Manifest | None = None
    tensorrt: str | None = None


def read_engine(backend: str, version: Path, file: str) -> EngineFacts | None:
    """Return what the engine in a version folder has; None where nothing can be known of it.

    Raises:
        InputError: The engine is damaged or no such engine.
        BundleError: The bundle or manifest beside it is incomplete or altered.
        MissingDependencyError: The library that reads it is not installed.
    """
    if backend == "python":
        folder = version / "bundle"
        return _contract(Bundle.open(folder).manifest) if folder.is_dir() else None
    manifest = read_manifest(version) if (version / MANIFEST).is_file() else None
    readers: dict[str, Callable[[Path, Manifest | None], EngineFacts]] = {
        "onnxruntime": _read_onnx,
        "openvino": _read_openvino,
        "tensorrt": _read_plan,
    }
    return readers[backend](version / file, manifest) if backend in readers else None


def plan_version(path: Path) -> str:
    """Return the version of TensorRT that built a plan, ``"10.13.3.9"`` for example.

    Raises:
        InputError: The file is no plan.
    """
    try:
        with path.open("rb") as file:
            tag, form, *numbers = struct.unpack(_PLAN_HEADER, file.read(struct.calcsize(_PLAN_HEADER)))
    except (OSError, struct.error) as error:
        raise InputError(f"{path}: no TensorRT plan: {first_line(error)}") from error
    if (tag, form) != (_PLAN_TAG, _PLAN_FORMAT):
        raise InputError(f"{path}: no TensorRT plan: it does not begin as one")
    return ".".join(map(str, numbers))


def _contract(manifest: Manifest, tensorrt: str | None = None) -> EngineFacts:
    """Return what every bundle's engine promises."""
    inputs = {name: Tensor("TYPE_INT64", (-1, -1)) for name in INPUTS}
    outputs = {OUTPUT: Tensor("TYPE_FP32", (-1, manifest.encoder.dimension))}
    return EngineFacts(inputs, outputs, manifest, tensorrt)


def _read_onnx(path: Path, manifest: Manifest | None) -> EngineFacts:
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's dozen classes of errors have no base of their own
        raise InputError(f"{path}: onnxruntime cannot open it: {first_line(error)}") from error

    def tensors(nodes: list[Any]) -> dict[str, Tensor]:
        return {
            node.name: Tensor(
                _ONNX_TYPES.get(node.type, node.type), tuple(d if isinstance(d, int) else -1 for d in node.shape)
            )
            for node in nodes
        }

    return EngineFacts(tensors(session.get_inputs()), tensors(session.get_outputs()), manifest)


def _read_openvino(path: Path, manifest: Manifest | None) -> EngineFacts:
    ov = require("openvino")
    try:
        model = ov.Core().read_model(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: openvino cannot read it: {str(error).strip().splitlines()[-1]}") from error

    def tensors(ports: list[Any]) -> dict[str, Tensor]:
        return {
            port.get_any_name(): Tensor(
                _OPENVINO_TYPES.get(port.get_element_type().get_type_name(), "TYPE_INVALID"),
                tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape()),
            )
            for port in ports
        }

    return EngineFacts(tensors(model.inputs), tensors(model.outputs), manifest)


def _read_plan(path: Path, manifest: Manifest | None) -> EngineFacts:
    """Read a plan's header. Its inputs and outputs only TensorRT can read, on the GPU: they are the manifest's."""
    built_with = plan_version(path)
    return _contract(manifest, built_with) if manifest is not None else EngineFacts({}, {}, None, built_with)
