"""ONNX Runtime: the graph as it is, on the CPU or CUDA provider."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from exporter.backends import Engine
from exporter.dependencies import require
from exporter.errors import BuildError, EngineError, MissingDependencyError, first_line
from exporter.graph_contract import INPUTS
from exporter.recipe import Shapes

if TYPE_CHECKING:
    from exporter.graph import Graph

FILE = "model.onnx"
# TF32 has ten bits of mantissa: not what fp32 promises.
_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeRunner:
    """One session. ``run`` may be called from several threads."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.execution: str = session.get_providers()[0]

    def run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (batch, sequence) int64 ids and mask to (batch, dimension) float32."""
        feeds = dict(zip(INPUTS, (input_ids, attention_mask), strict=True))
        try:
            (vectors,) = self._session.run(None, feeds)
        except _errors() as error:
            raise EngineError(f"onnxruntime refused a batch of {input_ids.shape}: {first_line(error)}") from error
        result: npt.NDArray[np.float32] = vectors
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None


def _errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises: a dozen classes without a base of their own."""
    state = require("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)


def check(precision: str, device: str) -> None:
    """Refuse bfloat16 on the CPU provider, which has no kernels for it, and a CUDA provider that is not there."""
    if precision == "bf16" and device == "cpu":
        raise BuildError(
            "onnxruntime's CPU provider cannot run bfloat16",
            next_step="--backend openvino, --fp16, or --device cuda",
        )
    available = require("onnxruntime").get_available_providers()
    if PROVIDERS[device] not in available:
        raise MissingDependencyError(
            f"onnxruntime has no {PROVIDERS[device]} here (it has {', '.join(available)})",
            next_step="pip uninstall onnxruntime, then pip install 'korsbert[gpu]', on a machine with an NVIDIA GPU",
        )


def build(graph: Graph, shapes: Shapes, folder: Path) -> Engine:  # noqa: ARG001 - one file serves every shape
    """Write ``model.onnx``."""
    graph.save(folder / FILE)
    return Engine(backend="onnxruntime", precision=graph.precision, files=(FILE,))


def open(engine: Engine, folder: Path, device: str = "cpu", threads: int | None = None) -> OnnxRuntimeRunner:  # noqa: A001
    """Open ``model.onnx`` on one provider, and on no other: a silent fallback to the CPU would be a lie about speed.

    Raises:
        MissingDependencyError: onnxruntime, or the provider that ``device`` asks for, is not there.
        BuildError: The provider cannot run this graph.
    """
    ort = require("onnxruntime")
    check(engine.precision, device)
    wanted = PROVIDERS[device]
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions; the log would print them twice
    # A memory pattern is a plan for one shape, kept for every shape that is met; batches of text hardly meet twice, and
    # the plans' blocks made up 40% of the peak (606 and 374 MiB for ALBERT) at the same speed.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(str(folder / engine.files[0]), options, providers=[(wanted, _OPTIONS[device])])
    except _errors() as error:
        raise BuildError(f"{folder / engine.files[0]}: onnxruntime cannot open it: {first_line(error)}") from error
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise MissingDependencyError(
            f"onnxruntime was asked for {wanted} and fell back to {session.get_providers()[0]}",
            next_step="check that CUDA and cuDNN of onnxruntime-gpu's version are installed",
        )
    return OnnxRuntimeRunner(session)
