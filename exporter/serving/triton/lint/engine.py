"""Rules about ``config.pbtxt`` and the engine that it describes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

from exporter.errors import first_line
from exporter.files import read_text
from exporter.serving.triton.engines import MODEL_FILES, Tensor
from exporter.serving.triton.images import OLDEST_RELEASE, ONNXRUNTIME, Image, oldest_release, release_in
from exporter.serving.triton.lint.model import Finding, Model, type_name


def check_tensors(model: Model) -> Iterator[Finding]:
    """Compare names, types, ranks and extents with the engine's."""
    if model.engine is None or not model.engine.outputs:
        return
    for kind, stated, real in (
        ("input", model.config.input, model.engine.inputs),
        ("output", model.config.output, model.engine.outputs),
    ):
        names = {tensor.name for tensor in stated}
        for missing in sorted(real.keys() - names) if kind == "input" else ():
            yield model.finding(kind, f"without {missing}", f"with {missing}", f"add {missing}: the engine wants it")
        for tensor in stated:
            if tensor.name not in real:
                yield model.finding(
                    f"{kind}.name",
                    repr(tensor.name),
                    " or ".join(map(repr, sorted(real))),
                    "name it as the engine does",
                )
            else:
                yield from _tensor(model, kind, tensor, real[tensor.name])


def _tensor(model: Model, kind: str, tensor: Any, real: Tensor) -> Iterator[Finding]:
    field = f"{kind}[{tensor.name}]"
    data_type = type_name(tensor)
    if data_type != real.data_type:
        yield model.finding(f"{field}.data_type", data_type, real.data_type, "state the engine's type")
    dims, batched = list(tensor.reshape.shape or tensor.dims), model.config.max_batch_size > 0
    expected = list(real.shape[1:] if batched else real.shape)
    if batched and len(dims) == len(expected) + 1:
        yield model.finding(
            f"{field}.dims", dims, expected, "max_batch_size above 0 puts the batch in front: dims must not name it too"
        )
    elif len(dims) != len(expected):
        yield model.finding(f"{field}.dims", dims, expected, f"the engine's rank is {len(real.shape)}, batch included")
    elif any(-1 not in (stated, has) and stated != has for stated, has in zip(dims, expected, strict=True)):
        yield model.finding(f"{field}.dims", dims, expected, "state the engine's extents")
    elif batched and real.shape[0] not in (-1, model.config.max_batch_size):
        yield model.finding(
            "max_batch_size", model.config.max_batch_size, real.shape[0], "the engine was made for that batch alone"
        )
    elif kind == "input" and any(has == -1 != stated for stated, has in zip(dims, expected, strict=True)):
        yield model.finding(
            f"{field}.dims", dims, expected, "the engine takes any extent: a fixed one refuses every other sentence"
        )


def check_image(model: Model) -> Iterator[Finding]:
    """Compare the ONNX Runtime of the image that the repository's Dockerfile names with what the engine needs."""
    path = model.folder.parent / "Dockerfile"
    if model.backend != "onnxruntime" or model.manifest is None or not path.is_file():
        return
    try:
        release = release_in(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        yield Finding(path, "file", f"unreadable: {first_line(error)}", "a Dockerfile", "ship again to write a new one")
        return
    least = model.manifest.engine.least_runtime
    if least is not None and release is not None and not Image(release).has_onnxruntime(least):
        has = Image(release).onnxruntime or f"older than {ONNXRUNTIME[OLDEST_RELEASE]}"
        yield Finding(
            path,
            "image",
            f"{release}, with ONNX Runtime {has}",
            f"{oldest_release(least)} or newer, for {model.config.name}",
            f"ONNX Runtime before {least} refuses this graph or answers wrongly: ship again with that image",
        )


def check_plan(model: Model) -> Iterator[Finding]:
    """Compare a plan with the manifest that it came with, and with this machine's GPUs if it has any."""
    engine, manifest = model.engine, model.manifest
    if engine is None or engine.tensorrt is None or manifest is None:
        return
    facts = manifest.engine.facts
    path = model.latest / (model.config.default_model_filename or MODEL_FILES["tensorrt"])
    stated = facts.version or engine.tensorrt
    if stated.split(".")[:3] != engine.tensorrt.split(".")[:3]:
        yield Finding(
            path, "TensorRT version", engine.tensorrt, f"{stated}, of its manifest", "ship the bundle again, unaltered"
        )
    built_for, here = facts.compute_capability, _compute_capabilities()  # None: for any GPU
    if built_for is not None and here and built_for not in here:
        yield Finding(
            path,
            "compute capability",
            f"built for {built_for}",
            f"{' or '.join(sorted(here))}, of this machine",
            "export it on the GPU that serves it, or as a hardware-compatible engine",
        )


def _compute_capabilities() -> set[str]:
    """Return the compute capabilities of this machine's GPUs, ``"9.0"`` for example; empty without a GPU."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return set(done.stdout.split()) if done.returncode == 0 else set()
