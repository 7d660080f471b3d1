"""From the checkpoint to the engine of a target: folded into a graph, converted, built, and opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from exporter.acceptance import build_options
from exporter.bundle.atomic import writing
from exporter.engines.building import BuiltEngine, build_engine, open_on_cpu
from exporter.errors import BuildError, CheckpointError
from exporter.graph import Graph, folding
from exporter.pipeline.job import Subject
from exporter.precisions import Conversion, ConversionRequest, precision_of
from exporter.runtime.runner import Runner
from exporter.targets import Precision


def fold(subject: Subject) -> Graph:
    """Fold the checkpoint into one graph, and compare its tokenizer with the checkpoint's own files."""
    with subject.job.stages("fold into one graph") as stage:
        graph = folding.fold(subject.checkpoint)
        stage.result = f"{len(graph.model.graph)} nodes, {graph.weight_bytes() / 1e6:.1f} MB of weights"
    check = subject.proof.tokenizer(subject.checkpoint.tokenizer)
    if not check.passed:
        raise CheckpointError(
            f"{subject.checkpoint.source}: transformers loads another tokenizer than the checkpoint's files say: "
            f"{check.failures[0]}",
            next_step="correct tokenizer_config.json, or save the checkpoint again with SentenceTransformer.save",
        )
    return graph


def prepare(graph: Graph, subject: Subject) -> Conversion:
    """Prepare the conversion to the target's precision. For int8: calibrate and search."""
    job, checkpoint = subject.job, subject.checkpoint
    request = ConversionRequest(
        graph=graph,
        target=job.target,
        recipe=job.recipe,
        text=subject.text,
        probes=tuple(subject.reference.texts),
        tokenizer=checkpoint.tokenizer,
        prompt=checkpoint.facts.prompt,
        calibration=job.options.calibration,
        ledger=job.ledger,
        stages=job.stages,
    )
    return precision_of(job.target.precision).prepare(request)


def build(conversion: Conversion, subject: Subject) -> BuiltEngine:
    """Build the engine of each candidate, until the conversion yields no other. The last one is returned."""
    job = subject.job
    built: BuiltEngine | None = None
    for candidate in conversion.candidates():
        if job.target.precision is Precision.FP32:
            graph = candidate.convert()
        else:
            with job.stages(f"type as {job.target.precision}") as stage:
                graph = candidate.convert()
                stage.result = f"{graph.weight_bytes() / 1e6:.1f} MB of weights"
        built = _build_one(graph, subject)
        if candidate.compare is not None:
            name = f"held-out text: {job.target.precision} on {job.runs_on}"
            with job.stages(name) as stage, opened(built, subject) as runner:
                stage.result = candidate.compare(runner)
    if built is None:
        raise BuildError(f"{job.target}: there is no graph to build from", next_step="another precision")
    return built


def _build_one(graph: Graph, subject: Subject) -> BuiltEngine:
    job, padding = subject.job, subject.checkpoint.padding
    # Kernel timings are shared by all precisions of a backend.
    timings = job.place.parent / f".{job.target.backend}.timings"
    options = replace(build_options(job.options), timing_cache=timings, on_progress=job.stages.on_progress)
    with job.stages(f"build for {job.target.backend}") as stage:
        with writing(job.place):
            built = build_engine(graph, job.target, job.recipe.shapes, subject.folder, padding=padding, options=options)
        stage.result = ", ".join(built.engine.files)
    return built


@contextmanager
def opened(built: BuiltEngine, subject: Subject) -> Iterator[Runner]:
    """Open the engine, or, where it cannot run here, the graph that it was built from."""
    if subject.job.runs_here:
        with built.open(subject.job.target.device) as runner:
            yield runner
    else:
        with open_on_cpu(built.graph) as runner:
            yield runner
