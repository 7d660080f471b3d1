"""Graph -> engine for a target: the target's passes, then the backend's build. Needs what an export needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporter.engines import DEFAULTS, BuildOptions, Engine, EngineFiles, backend_of
from exporter.engines.onnxruntime import OnnxRuntimeRunner
from exporter.graph import Graph
from exporter.graph.passes import Pass, passes_for, run_passes
from exporter.graph.storage import open_model
from exporter.recipe import Shapes
from exporter.runtime.runner import Runner
from exporter.runtime.session import session_options
from exporter.targets import Padding, Target


@dataclass(frozen=True)
class BuiltEngine:
    """An engine whose files lie in a folder.

    Attributes:
        graph: The graph it was built from, after the target's passes.
        engine: Its files and facts.
        folder: The folder of its files.
    """

    graph: Graph
    engine: Engine
    folder: Path

    def open(self, device: str = "cpu", threads: int | None = None) -> Runner:
        """Open the engine.

        Args:
            device: ``"cpu"`` or ``"cuda"``.
            threads: CPU threads (default: the engine's own choice).
        """
        files = EngineFiles.read(self.engine, self.folder)
        return backend_of(self.engine.backend).open(self.engine, files, device, threads)


def build_engine(
    graph: Graph,
    target: Target,
    shapes: Shapes,
    folder: Path,
    *,
    padding: str = "right",
    options: BuildOptions = DEFAULTS,
) -> BuiltEngine:
    """Apply a target's passes to a typed graph, and build its engine.

    Args:
        graph: A graph in the target's precision.
        target: Precision, backend and device.
        shapes: Batch and sequence extents that the engine must serve.
        folder: Where the engine's files are written.
        padding: The side on which the tokenizer pads, ``"right"`` or ``"left"``.
        options: Other decisions about the engine.

    Raises:
        BuildError: The backend cannot build this graph.
    """
    prepared = with_target_passes(graph, target, padding)
    return BuiltEngine(prepared, backend_of(target.backend).build(prepared, shapes, folder, options), folder)


def open_on_cpu(graph: Graph, threads: int | None = None) -> Runner:
    """Open a graph as it is on ONNX Runtime's CPU provider, from memory. It runs every graph but a bfloat16 one.

    Args:
        graph: The graph.
        threads: CPU threads (default: as many as there are cores).
    """
    session = open_model(graph.model, session_options(threads))
    return OnnxRuntimeRunner(session, right_padded=graph.padding is Padding.RIGHT)


def target_passes(target: Target, padding: str = "right") -> tuple[Pass, ...]:
    """Return the passes that a target needs. Targets with equal passes run the same float32 graph.

    Args:
        target: Precision, backend and device.
        padding: The side on which the tokenizer pads, ``"right"`` or ``"left"``.
    """
    missing = backend_of(target.backend).missing_operators()
    return passes_for(
        target.backend, target.device, target.precision, padding=padding, missing=missing, opset=target.opset
    )


def with_target_passes(graph: Graph, target: Target, padding: str = "right") -> Graph:
    """Return a graph after the passes that a target needs, in the operator set of the target.

    Args:
        graph: A graph in the target's precision, or in float32, to compare the other with.
        target: Precision, backend and device.
        padding: The side on which the tokenizer pads, ``"right"`` or ``"left"``.

    Raises:
        BuildError: An operator cannot be written in the operator set of the target.
    """
    passes = target_passes(target, padding)
    if not passes:
        return graph
    model = graph.editable()
    changes = run_passes(model, passes)
    done = ", ".join(f"{name} {count}" for name, count in changes.items())
    return graph.with_model(model, decisions=(f"passes for {target.backend} on {target.device}: {done}",))
