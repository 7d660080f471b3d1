"""What is measured on a GPU: sentence-transformers in several forms, and korsbert's engines. numpy in, numpy out."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters

from exporter.calibration import TokenBatches, calibration_set
from exporter.checkpoint import Checkpoint
from exporter.engines import BuildOptions, backend_of
from exporter.engines.building import build_engine
from exporter.errors import BuildError, BundleError, MissingDependencyError
from exporter.graph import Graph
from exporter.graph.folding import fold
from exporter.precisions import cast_graph
from exporter.precisions.int8 import static
from exporter.precisions.int8.plan import Request, make_plan
from exporter.precisions.int8.scheme import Scheme, scheme_of
from exporter.recipe import Gates, Recipe
from exporter.runtime.contract import OUTPUT
from exporter.runtime.encoder import Encoder
from exporter.runtime.tokens import TextTokenizer
from exporter.targets import Backend, Device, Precision, Target
from exporter.validator import Reference

COMPILED_FORMS = 64  # three precisions, one row or several, and room

NumPy = npt.NDArray[Any]

ENGINES = tuple(
    (backend, precision)
    for backend in ("onnxruntime", "tensorrt-rtx", "tensorrt")
    for precision in ("fp16", "bf16", "int8")
)


@dataclass(frozen=True)
class TorchSubject:
    """One form of sentence-transformers.

    Attributes:
        name: In tables.
        dtype: What its weights are in.
        attention: ``attn_implementation`` of transformers.
        matrix_type: Key of the ceilings.
        compiled: Whether the transformer goes through ``torch.compile``.
    """

    name: str
    dtype: torch.dtype
    attention: str
    matrix_type: str
    compiled: bool = False


TORCH_SUBJECTS = (
    TorchSubject("sentence-transformers fp16", torch.float16, "sdpa", "fp16"),  # first: what ratios are relative to
    TorchSubject("sentence-transformers fp32", torch.float32, "sdpa", "fp32"),
    TorchSubject("sentence-transformers bf16", torch.bfloat16, "sdpa", "bf16"),
    TorchSubject("sentence-transformers fp32, compiled", torch.float32, "sdpa", "fp32", compiled=True),
    TorchSubject("sentence-transformers fp16, compiled", torch.float16, "sdpa", "fp16", compiled=True),
    TorchSubject("sentence-transformers bf16, compiled", torch.bfloat16, "sdpa", "bf16", compiled=True),
    TorchSubject("sentence-transformers fp16, FlashAttention", torch.float16, "flash_attention_2", "fp16"),
)


class Subject(Protocol):
    """What the benchmark knows of anything it measures.

    Attributes:
        matrix_type: Which of the measured matrix rates its floor is made of.
    """

    matrix_type: str

    @property
    def execution(self) -> str:
        """Where and in what numbers it runs."""
        ...

    def encode(self, sentences: list[str], batch_size: int) -> NumPy:
        """Encode strings, as its users would."""
        ...

    def run(self, input_ids: NumPy, attention_mask: NumPy) -> NumPy:
        """Encode one batch of ids and mask, (batch, sequence) int64."""
        ...

    def timed_ms(self, input_ids: NumPy, attention_mask: NumPy) -> tuple[float, float]:
        """Run one batch; returns the milliseconds by device events and by the clock on the wall."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class ModelSubject:
    """A SentenceTransformer."""

    def __init__(self, model: SentenceTransformer, spec: TorchSubject, device: str) -> None:
        self._model = model
        self._device = device
        self.matrix_type = spec.matrix_type
        where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        self.execution = f"torch {torch.__version__} on {where}"

    def encode(self, sentences: list[str], batch_size: int) -> NumPy:
        """Encode strings with the model's own ``encode``."""
        return np.asarray(self._model.encode(sentences, batch_size=batch_size, show_progress_bar=False), np.float32)

    def run(self, input_ids: NumPy, attention_mask: NumPy) -> NumPy:
        """Copy up, run the modules, copy down."""
        features = {
            "input_ids": torch.from_numpy(input_ids).to(self._device),
            "attention_mask": torch.from_numpy(attention_mask).to(self._device),
        }
        with torch.inference_mode():
            vectors: NumPy = self._model(features)[OUTPUT].float().cpu().numpy()
        return vectors

    def timed_ms(self, input_ids: NumPy, attention_mask: NumPy) -> tuple[float, float]:
        """Time one batch on torch's current stream."""
        stream = torch.cuda.current_stream() if self._device == "cuda" else None
        return _timed_ms(lambda: self.run(input_ids, attention_mask), stream)

    def close(self) -> None:
        """Let the model go."""
        del self._model


class EngineSubject:
    """An engine of korsbert behind its encoder."""

    def __init__(self, encoder: Encoder, runner: Any, precision: str) -> None:
        self.encoder = encoder
        self.precision = self.matrix_type = precision
        self._runner = runner
        stream = getattr(runner, "stream", None)
        external: Any = torch.cuda.ExternalStream  # torch does not annotate how it is made
        self._stream = external(stream) if stream is not None else None

    @property
    def execution(self) -> str:
        """Where it runs, and how many shapes were captured as CUDA graphs so far."""
        graphs = getattr(self._runner, "graphs", None)
        if graphs is None:
            return self.encoder.execution
        said = f"no CUDA graph: {graphs.refused}" if graphs.refused else f"{len(graphs)} CUDA graphs"
        return f"{self.encoder.execution}; {said}"

    def encode(self, sentences: list[str], batch_size: int) -> NumPy:
        """Encode strings."""
        return self.encoder.encode(sentences, batch_size=batch_size)

    def run(self, input_ids: NumPy, attention_mask: NumPy) -> NumPy:
        """Run one batch: the runner copies up and down by itself."""
        vectors: NumPy = self._runner.run(input_ids, attention_mask)
        return vectors

    def timed_ms(self, input_ids: NumPy, attention_mask: NumPy) -> tuple[float, float]:
        """Time one batch on the runner's own stream."""
        return _timed_ms(lambda: self.run(input_ids, attention_mask), self._stream)

    def close(self) -> None:
        """Release the engine."""
        self.encoder.close()


class Graphs:
    """A checkpoint's graph, folded once, and typed once for each precision however many engines want it."""

    def __init__(self, checkpoint: Checkpoint, reference: Reference) -> None:
        self._checkpoint = checkpoint
        self._batches = TokenBatches(tuple(reference.texts), checkpoint.tokenizer)
        self._made: dict[str, Graph] = {}

    def typed(self, precision: str, backend: str, device: str) -> Graph:
        """Return the graph in a precision; int8 as the target wants it, calibrated and searched as an export does."""
        if "folded" not in self._made:
            self._made["folded"] = fold(self._checkpoint)
        scheme = scheme_of(precision, backend, device) if Precision(precision).is_int8 else None
        key = f"{precision} {scheme}"
        if key not in self._made:
            self._made[key] = (
                cast_graph(self._made["folded"], precision, self._batches)
                if scheme is None
                else self._quantized(precision, scheme)
            )
        return self._made[key]

    def _quantized(self, precision: str, scheme: Scheme) -> Graph:
        checkpoint = self._checkpoint
        text = calibration_set(None, self._batches.sentences, checkpoint.tokenizer, checkpoint.facts.prompt)
        plan = make_plan(self._made["folded"], Request(scheme, text, Gates().of(precision)))
        return static.convert(plan, plan.found.candidates[0], self._batches)


def open_torch(spec: TorchSubject, folder: Path, device: str) -> ModelSubject:
    """Load a sentence-transformers model in one of its forms.

    Raises:
        MissingDependencyError: FlashAttention is asked for and not there.
    """
    if spec.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise MissingDependencyError("flash_attn is not installed")
    model = SentenceTransformer(
        str(folder),
        device=device,
        model_kwargs={"dtype": spec.dtype, "attn_implementation": spec.attention},
        local_files_only=True,
    ).eval()
    if spec.compiled:
        # All models share the code that is compiled: beyond the limit torch would go on uncompiled, with a warning.
        dynamo.recompile_limit, dynamo.fail_on_recompile_limit_hit = COMPILED_FORMS, True
        # sentence-transformers calls ``forward`` itself: compiling the module, or putting another in its place, does
        # nothing, and says nothing.
        transformer = model[0].auto_model
        transformer.forward = torch.compile(transformer.forward, dynamic=True)
        before = counters["stats"]["unique_graphs"]
        model.encode(["한 문장", "두 번째 문장"], show_progress_bar=False)
        if counters["stats"]["unique_graphs"] == before:
            raise MissingDependencyError("torch.compile compiled nothing")
    return ModelSubject(model, spec, device)


def open_engine(
    backend: str, precision: str, graphs: Graphs, checkpoint: Checkpoint, recipe: Recipe, folder: Path, device: str
) -> EngineSubject:
    """Build an engine as an export would, and open it.

    Raises:
        ExportError: It cannot be built or run on this machine.
    """
    target = Target(Precision(precision), Backend(backend), Backend(backend).device(Device(device)))
    backend_of(backend).check(precision, target.device)
    graph = graphs.typed(precision, backend, target.device)
    padding = TextTokenizer(checkpoint.tokenizer).padding
    folder.mkdir(parents=True, exist_ok=True)

    def opened(options: BuildOptions) -> Any:
        built = build_engine(graph, target, recipe.shapes, folder, padding=padding, options=options)
        return built.open(target.device)

    try:
        runner = opened(BuildOptions(timing_cache=folder.parent / f"{backend}.timings"))
    except (BuildError, BundleError) as refusal:
        if target.backend is not Backend.TENSORRT_RTX:
            raise
        try:  # an engine that was built for no GPU in particular
            runner = opened(BuildOptions(hardware_compatible=True))
        except (BuildError, BundleError) as error:
            raise BuildError(f"for this GPU: {refusal.message}; portable: {error.message}") from error
    return EngineSubject(Encoder.of(checkpoint.facts, checkpoint.tokenizer, runner), runner, precision)


def _timed_ms(work: Callable[[], object], stream: torch.cuda.Stream | None) -> tuple[float, float]:
    """Time ``work`` by events on ``stream`` and by the clock; by the clock alone where there is no stream."""
    started = time.perf_counter()
    if stream is None:
        work()
        wall_ms = 1000 * (time.perf_counter() - started)
        return wall_ms, wall_ms
    event: Any = torch.cuda.Event  # torch does not annotate how it is made
    start, end = (event(enable_timing=True) for _ in range(2))
    start.record(stream)
    work()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end)), 1000 * (time.perf_counter() - started)
