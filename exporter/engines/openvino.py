"""OpenVINO on the CPU: IR files, and the execution precision asked for instead of the one a machine prefers.

On processors with bfloat16 instructions OpenVINO runs float32 models in bfloat16 unless told otherwise, so the hint is
always set, and ``execution`` says what came of it.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from exporter.dependencies import require
from exporter.engines import DEFAULTS, BuildOptions, Engine, EngineFiles
from exporter.errors import BuildError, BundleError, EngineError, MissingDependencyError
from exporter.recipe import Shapes
from exporter.runtime.contract import INPUTS
from exporter.targets import Backend

if TYPE_CHECKING:
    from exporter.graph import Graph

XML, BIN = "openvino_model.xml", "openvino_model.bin"
HINTS = {"fp32": ("f32", "FP32"), "fp16": ("f16", "FP16"), "bf16": ("bf16", "BF16"), "int8": ("f32", "FP32")}


class OpenVinoRunner:
    """One compiled model. ``run`` may be called from several threads, which take turns at one inference request."""

    def __init__(self, compiled: Any, execution: str) -> None:
        self._request = compiled.create_infer_request()
        self._turn = threading.Lock()
        self.execution = execution

    def run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (batch, sequence) int64 ids and mask to (batch, dimension) float32."""
        feeds = dict(zip(INPUTS, (input_ids, attention_mask), strict=True))
        with self._turn:
            # share_inputs: no copy. It also compares shapes with the model's bounds, which copying skips.
            try:
                result: npt.NDArray[np.float32] = self._request.infer(feeds, share_inputs=True)[0].copy()
            except RuntimeError as error:
                raise EngineError(f"openvino refused a batch of {input_ids.shape}: {_cause(error)}") from error
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._request = None


def _cause(error: RuntimeError) -> str:
    """Return the last line of an error of OpenVINO; the lines before it name places in its source."""
    return str(error).strip().splitlines()[-1]


def shared_core() -> Any:
    """Return the ``openvino.Core`` of this process, which lives as long as the process.

    The CPU plugin of each core gives the thread that loads it a stack for signal handlers, and unmaps that stack with
    the core. Where two cores end in the order in which they began, or one ends in another thread, the kernel keeps the
    address of a stack that is gone, and the next Ctrl-C is a segmentation fault (openvino 2026.4).
    """
    return _core_of(os.getpid())


@cache
def _core_of(process: int) -> Any:  # noqa: ARG001 - in a forked process, the threads of the inherited core do not run
    return require("openvino").Core()


def check(precision: str, device: str) -> None:  # noqa: ARG001 - it runs every precision, if not natively
    """Refuse any device but the CPU."""
    require("openvino")
    if device != "cpu":
        raise MissingDependencyError(
            f"the openvino backend runs on the CPU, not on {device}",
            next_step="use `device=cpu` or `backend=onnxruntime`",
        )


def check_build(precision: str, device: str) -> None:
    """Refuse what :func:`check` does: every processor can run what it can build."""
    check(precision, device)


def missing_operators() -> frozenset[str]:
    """Return nothing: what it has no kernel for it writes out."""
    return frozenset()


def build(graph: Graph, shapes: Shapes, folder: Path, options: BuildOptions = DEFAULTS) -> Engine:  # noqa: ARG001 - shapes stay dynamic
    """Write ``openvino_model.xml`` and ``.bin``, weights in the types the graph has them in.

    Raises:
        BuildError: OpenVINO's ONNX reader refuses the graph.
    """
    ov = require("openvino")
    try:
        with graph.as_file() as file:
            model = shared_core().read_model(model=file)
            # Its CPU plugin checks neither broadcasts nor reshapes of dynamic shapes, but it does check stated bounds.
            bounds = ov.PartialShape([ov.Dimension(), ov.Dimension(1, graph.max_sequence)])
            model.reshape(dict.fromkeys(INPUTS, bounds))
            ov.save_model(model, str(folder / XML), compress_to_fp16=False)
    except RuntimeError as error:
        raise BuildError(f"openvino cannot read the graph: {_cause(error)}") from error
    return Engine(backend=Backend.OPENVINO, precision=graph.precision, files=(XML, BIN))


def open(  # noqa: A001
    engine: Engine,
    files: EngineFiles,
    device: str = "cpu",
    threads: int | None = None,
    *,
    spinning: bool = True,  # noqa: ARG001 - its threads sleep while they wait
) -> OpenVinoRunner:
    """Compile the model for the CPU, for latency, in the precision it was typed in where the processor has it.

    Raises:
        MissingDependencyError: openvino is not installed, or ``device`` is no CPU.
        BuildError: The files cannot be compiled.
    """
    check(engine.precision, device)
    core = shared_core()
    hint, capability = HINTS[engine.precision]
    if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        hint = "f32"
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    path = files.folder / engine.files[0]
    model = _refuse_other_than_xml(files.take(engine.files[0]), path)
    try:
        compiled = core.compile_model(core.read_model(model, files.take(engine.files[1])), "CPU", options)
    except RuntimeError as error:
        raise BuildError(f"{path}: openvino cannot compile it: {_cause(error)}") from error
    ran = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return OpenVinoRunner(compiled, f"CPU, {ran}")


def _refuse_other_than_xml(content: bytes, path: Path) -> bytes:
    """Return ``content`` if it is XML: OpenVINO would read ONNX and others too, and the files that they refer to.

    Raises:
        BundleError: It is not XML.
    """
    if not content.startswith(b"<?xml"):
        raise BundleError(f"{path}: this is not OpenVINO IR", next_step="export it again")
    return content
