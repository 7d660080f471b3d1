"""ONNX Runtime: the graph as it is, on the CPU or CUDA provider."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from exporter.dependencies import release_of, require
from exporter.engines import DEFAULTS, BuildOptions, Engine, EngineFiles
from exporter.engines.cuda import Cuda, DeviceBuffers, find_gpu
from exporter.engines.cuda_graphs import CudaGraphs, Shape
from exporter.engines.external_data import refuse_external_data
from exporter.engines.facts import EngineFacts
from exporter.engines.padding import refuse_other_than_right_padding
from exporter.errors import BuildError, EngineError, ExportError, MissingDependencyError, first_line
from exporter.recipe import Shapes
from exporter.runtime.contract import INPUTS, OUTPUT
from exporter.runtime.private_file import private_file, private_folder
from exporter.runtime.session import session_options
from exporter.targets import Backend

if TYPE_CHECKING:
    from exporter.graph import Graph

FILE = "model.onnx"
# TF32 has ten bits of mantissa: not what fp32 promises.
_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeRunner:
    """One session on the CPU. ``run`` may be called from several threads."""

    def __init__(self, session: Any, *, right_padded: bool = False) -> None:
        self._session = session
        self._right_padded = right_padded
        self.execution: str = session.get_providers()[0]

    def run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (batch, sequence) int64 ids and mask to (batch, dimension) float32."""
        if self._right_padded:
            refuse_other_than_right_padding(attention_mask)
        feeds = dict(zip(INPUTS, (input_ids, attention_mask), strict=True))
        try:
            (vectors,) = self._session.run(None, feeds)
        except _errors() as error:
            raise EngineError(f"onnxruntime refused a batch of {input_ids.shape}: {first_line(error)}") from error
        result: npt.NDArray[np.float32] = vectors
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None


class OnnxRuntimeCudaRunner:
    """One session on the GPU, its inputs and its output bound to device buffers that stay from batch to batch.

    Everything goes down one stream: copies from pinned memory, the graph, the copy back. A shape that comes again is
    captured as a CUDA graph, copies and all. ``run`` may be called from several threads, which take turns.

    onnxruntime can capture by itself (``enable_cuda_graph``), but does it for each thread apart, and keeps every graph.

    Args:
        session: A session on the CUDA provider whose stream is ``stream``.
        cuda: The driver.
        stream: Handle of the stream.
        right_padded: Whether rows must be padded on the right.
        on_cpu: Names of nodes that compute on the CPU.
    """

    def __init__(self, session: Any, cuda: Cuda, stream: int, *, right_padded: bool, on_cpu: Sequence[str]) -> None:
        self._session, self._cuda, self.stream = session, cuda, stream
        self._right_padded = right_padded
        self._dimension = int(session.get_outputs()[0].shape[1])
        self._buffers = DeviceBuffers(cuda, stream, self._dimension)
        self._turn = threading.Lock()
        # onnxruntime would wait for the stream after each batch, which is once too often, and forbidden in a capture.
        self._asynchronous = require("onnxruntime").RunOptions()
        self._asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self.graphs = CudaGraphs(cuda, stream)
        if on_cpu:
            self.graphs.refused = "the CPU computes in the middle of a batch"
        self.on_cpu = tuple(on_cpu)
        fell = f", {len(on_cpu)} nodes on the CPU ({', '.join(on_cpu)})" if on_cpu else ""
        self.execution: str = f"{session.get_providers()[0]} on {cuda.gpu().name}{fell}"

    def run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (batch, sequence) int64 ids and mask to (batch, dimension) float32."""
        if self._right_padded:
            refuse_other_than_right_padding(attention_mask)
        shape = input_ids.shape[0], input_ids.shape[1]
        with self._turn:
            self._cuda.enter()
            if self._buffers.reserve(shape[0], input_ids.size):
                self.graphs.clear()  # they hold the addresses of before
            self._buffers.fill(input_ids, attention_mask)
            if not self.graphs.replay(shape):
                self._enqueue(shape)
                if self.graphs.is_due(shape):
                    self._cuda.synchronize(self.stream)
                    self.graphs.capture(shape, lambda: self._enqueue(shape))
            self._cuda.synchronize(self.stream)
            return self._buffers.read(shape[0])

    def _enqueue(self, shape: Shape) -> None:
        """Enqueue copies up, the graph, and the copy down for a batch of ``shape``."""
        binding = self._session.io_binding()
        for name, address in zip(INPUTS, (self._buffers.ids, self._buffers.mask), strict=True):
            binding.bind_input(name, "cuda", 0, np.int64, shape, address)
        binding.bind_output(OUTPUT, "cuda", 0, np.float32, (shape[0], self._dimension), self._buffers.vectors)
        self._buffers.upload(shape[0] * shape[1])
        try:
            self._session.run_with_iobinding(binding, self._asynchronous)
        except _errors() as error:
            raise EngineError(f"onnxruntime refused a batch of {shape}: {first_line(error)}") from error
        self._buffers.download(shape[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is None:
            return
        self._cuda.enter()
        self.graphs.clear()
        self._session = None  # before its stream
        self._buffers.close()
        self._cuda.destroy_stream(self.stream)
        self._cuda.close()


def _errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises: a dozen classes without a base of their own."""
    state = require("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)


def providers(extra: str = "cpu") -> list[str]:
    """Return the execution providers of the installed onnxruntime.

    Args:
        extra: The extra of korsbert that brings it.

    Raises:
        MissingDependencyError: It is not installed, or only a part of it is.
    """
    found = getattr(require("onnxruntime", extra), "get_available_providers", None)
    if found is None:  # left over where one of onnxruntime and onnxruntime-gpu was removed
        raise MissingDependencyError(
            "onnxruntime is installed only in part", next_step=f"pip install --force-reinstall 'korsbert[{extra}]'"
        )
    return list(found())


def check(precision: str, device: str) -> None:
    """Refuse bfloat16 on the CPU provider, which has no kernels for it, and a CUDA provider that is not there."""
    if precision == "bf16" and device == "cpu":
        raise BuildError(
            "onnxruntime's CPU provider cannot run bfloat16",
            next_step="use `backend=openvino`, `precision=fp16` or `device=cuda`",
        )
    available = providers("gpu" if device == "cuda" else "cpu")
    if PROVIDERS[device] not in available:
        raise MissingDependencyError(
            f"onnxruntime has no {PROVIDERS[device]} here (it has {', '.join(available)})",
            next_step="pip uninstall onnxruntime, then pip install 'korsbert[gpu]', on a machine with an NVIDIA GPU",
        )
    if device == "cuda" and find_gpu() is None:
        raise MissingDependencyError("onnxruntime has its CUDA provider, but there is no NVIDIA GPU")


def check_build(precision: str, device: str) -> None:  # noqa: ARG001 - a graph is built by writing it down
    """Refuse nothing but a missing onnxruntime, which the gate of the folded graph needs anyhow."""
    require("onnxruntime")


def missing_operators() -> frozenset[str]:
    """Return nothing: what it has no kernel for it writes out."""
    return frozenset()


def build(graph: Graph, shapes: Shapes, folder: Path, options: BuildOptions = DEFAULTS) -> Engine:  # noqa: ARG001 - one file serves every shape
    """Write ``model.onnx``, and ``model.onnx.data`` where one file cannot hold the weights."""
    files = graph.save(folder / FILE)
    facts = EngineFacts(
        padding=graph.padding,
        shape_nodes=graph.shape_nodes(),
        lengths=graph.lengths,
        opset=graph.opset,
        ir_version=graph.model.ir_version,
        unbiased_norms=graph.unbiased_norms,
    )
    return Engine(backend=Backend.ONNXRUNTIME, precision=graph.precision, files=files, facts=facts)


def open(  # noqa: A001
    engine: Engine,
    files: EngineFiles,
    device: str = "cpu",
    threads: int | None = None,
    *,
    spinning: bool = True,
) -> OnnxRuntimeRunner | OnnxRuntimeCudaRunner:
    """Open ``model.onnx`` on one provider, and on no other: a silent fallback to the CPU would be a lie about speed.

    Raises:
        MissingDependencyError: onnxruntime, or the provider that ``device`` asks for, is not there, or onnxruntime is
            older than this engine needs.
        BuildError: The provider cannot run this graph.
        BundleError: The model refers to data in files that are not the engine's.
    """
    ort = require("onnxruntime")
    check(engine.precision, device)
    _refuse_older(ort.__version__, engine, files.folder, device)
    options = session_options(threads, device, spinning=spinning)
    right_padded = engine.facts.right_padded
    if device == "cpu":
        return OnnxRuntimeRunner(_session(engine, files, options, device, {}), right_padded=right_padded)
    with redirect_stdout(io.StringIO()):  # where it finds none of CUDA's libraries it prints how to get them
        ort.preload_dlls()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    cuda = Cuda.load()
    cuda.enter()
    stream = cuda.create_stream()
    try:
        session = _session(engine, files, options, device, {"user_compute_stream": str(stream)})
    except ExportError:
        cuda.destroy_stream(stream)
        cuda.close()
        raise
    on_cpu = nodes_on_the_cpu(session.get_provider_graph_assignment_info(), engine.facts.shape_nodes)
    return OnnxRuntimeCudaRunner(session, cuda, stream, right_padded=right_padded, on_cpu=on_cpu)


def _refuse_older(version: str, engine: Engine, folder: Path, device: str) -> None:
    """Refuse a version of onnxruntime that cannot run an engine, or runs it and answers wrongly."""
    least = engine.least_runtime
    if least is not None and release_of(version) < release_of(least):
        package = "onnxruntime-gpu" if device == "cuda" else "onnxruntime"
        raise MissingDependencyError(
            f"{folder}: needs onnxruntime {least} or newer, and {version} is installed: it would refuse the graph or "
            "answer wrongly",
            next_step=f"pip install '{package}>={least}'",
        )


def _session(engine: Engine, files: EngineFiles, options: Any, device: str, provider_options: dict[str, str]) -> Any:
    ort, wanted = require("onnxruntime"), PROVIDERS[device]
    provider = (wanted, {**_OPTIONS[device], **provider_options})
    path = files.folder / engine.files[0]
    with _private_copy(engine, files, path) as private:
        try:
            session = ort.InferenceSession(private, options, providers=[provider])
        except _errors() as error:
            told = first_line(error)
            told = told.replace(private, engine.files[0]) if isinstance(private, str) else told
            raise BuildError(f"{path}: onnxruntime cannot open it: {told}") from error
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise MissingDependencyError(
            f"onnxruntime cannot use {wanted} and fell back to {session.get_providers()[0]}",
            next_step="check that CUDA and cuDNN of onnxruntime-gpu's version are installed",
        )
    return session


@contextmanager
def _private_copy(engine: Engine, files: EngineFiles, path: Path) -> Iterator[str | bytes]:
    """Yield what onnxruntime opens: a path to copies of the verified bytes, or the bytes.

    Given bytes, onnxruntime copies them and keeps the original for as long as the session lives. A file of weights is
    mapped into memory and stays mapped when its name is gone.
    """
    name, *weights = engine.files
    own = weights[0] if weights else None
    model = refuse_external_data(files.take(name), path, own)
    if own is None:
        with private_file(model) as private:
            yield private
        return
    try:
        with private_folder({name: model, own: files.take(own)}) as folder:
            yield str(folder / name)
    except OSError as error:
        raise BuildError(
            f"{path}: its weights cannot be copied to a temporary folder: {error.strerror}",
            next_step="set TMPDIR to a folder with enough space",
        ) from error


def nodes_on_the_cpu(assignment: Sequence[Any], shape_nodes: Sequence[str]) -> list[str]:
    """Return the names of nodes that onnxruntime gave to its CPU provider, those apart that compute shapes.

    A few numbers that say how large a tensor is are wanted on the CPU, and computed there by design.

    Args:
        assignment: What ``InferenceSession.get_provider_graph_assignment_info`` returns.
        shape_nodes: Names of the nodes that compute shapes.
    """
    return [
        f"{node.name} ({node.op_type})"
        for subgraph in assignment
        if subgraph.ep_name == PROVIDERS["cpu"]
        for node in subgraph.get_nodes()
        if node.name not in shape_nodes
    ]
