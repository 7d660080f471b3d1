"""From a recipe to a published bundle that is proven equal to its checkpoint: the whole story, top to bottom.

``job`` is what is asked for, and the checkpoint that it is about; ``ranges`` are those of its int8 vectors.
``building`` makes a graph of the checkpoint and an engine of the graph. ``judgement`` compares both with the
checkpoint: gates and checks. Each imports only those before it, ``job`` also ``ranges``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from exporter.bundle import Bundle
from exporter.bundle.atomic import staging, writing
from exporter.bundle.publish import publish
from exporter.engines.building import target_passes, with_target_passes
from exporter.errors import BuildError, EngineError, ExportError, GateError
from exporter.graph import Graph
from exporter.graph.passes import Pass
from exporter.options import ExportOptions
from exporter.pipeline.building import build, fold, prepare
from exporter.pipeline.job import Job, Subject, accept, load
from exporter.pipeline.judgement import check_files, judge, judge_float32
from exporter.precisions import Conversion
from exporter.publication import Judged, manifest_of, write_files
from exporter.recipe import Recipe
from exporter.stages import Stages
from exporter.targets import Precision
from exporter.validator import ParityReport


def export(recipe: Recipe, options: ExportOptions | None = None, stages: Stages | None = None) -> Bundle:
    """Export a checkpoint, prove the result equal to it, and publish it.

    Raises:
        GateError: The result differs by more than the recipe's gates allow; nothing was published.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    (done,) = export_jobs([accept(recipe, options or ExportOptions(), stages or Stages())])
    if isinstance(done, ExportError):
        raise done
    return done


def export_precisions(
    recipe: Recipe, precisions: Sequence[Precision], options: ExportOptions, stages: Stages | None = None
) -> Iterator[Bundle | ExportError]:
    """Export a checkpoint in several precisions. See ``export_jobs``."""
    told = stages or Stages()
    return export_jobs([accept(recipe, options.model_copy(update={"precision": one}), told) for one in precisions])


def export_jobs(jobs: Sequence[Job]) -> Iterator[Bundle | ExportError]:
    """Export a checkpoint to several targets, which share all the work that does not depend on the target.

    The checkpoint is loaded, encoded and folded once. The float32 graph is judged once in each form that a target
    needs. Every place is held from the beginning. Each bundle is published as soon as it has passed.

    Args:
        jobs: From ``accept``: one recipe and the same options but for the target, and no target twice.

    Yields:
        The bundle of each job, in their order, or why that target alone was refused.

    Raises:
        GateError: The float32 graph is wrong, and so would every bundle be.
        ExportError: Anything else that stops them all.
    """
    with ExitStack() as places:
        folders = [places.enter_context(staging(job.place, force=job.options.force)) for job in jobs]
        subject = load(jobs, folders[0])
        graph = fold(subject)
        proofs: dict[tuple[Pass, ...], ParityReport] = {}  # what gate 1 found, by the form of the graph
        for job, folder in zip(jobs, folders, strict=True):
            own, form = replace(subject, job=job, folder=folder), target_passes(job.target, subject.checkpoint.padding)
            proven = with_target_passes(graph, job.target, subject.checkpoint.padding)
            if form not in proofs and not job.is_as_folded:
                proofs[form] = judge_float32(proven, own)
            try:
                judged, conversion = _convert(graph, proven, None if job.is_as_folded else proofs[form], own)
                bundle = _publish(judged, conversion, own)
            except (GateError, BuildError, EngineError) as error:
                yield error.with_traceback(None)  # whose frames hold the graph and the engine
            else:
                proofs.setdefault(form, judged.report)
                yield bundle


def _convert(graph: Graph, proven: Graph, folded: ParityReport | None, subject: Subject) -> tuple[Judged, Conversion]:
    """Convert a graph to the precision of the target, build the engine, and judge it.

    Args:
        graph: The folded float32 graph.
        proven: The same in the form that the target needs.
        folded: What gate 1 found of that; None where it is the engine itself, which gate 2 judges.
        subject: The export.
    """
    conversion = prepare(graph, subject)
    built = build(conversion, subject)
    checks = check_files(built, None if folded is None else proven, subject)
    report = judge(built, conversion, folded, checks, subject)
    return Judged(built.graph, built.engine, report, folded, subject.ranges, subject.calibrated), conversion


def _publish(judged: Judged, conversion: Conversion, subject: Subject) -> Bundle:
    """Write the manifest, the reports and the model card, and rename the staging folder to its place."""
    job = subject.job
    with job.stages("publish") as stage:
        added = conversion.report()
        manifest = manifest_of(
            judged, added, subject.checkpoint, job.recipe, device=job.target.device, runs_here=job.runs_here
        )
        with writing(job.place):
            write_files(manifest, judged, added, subject.folder)
            bundle = publish(manifest, subject.folder, job.place)
        job.ledger.unlink(missing_ok=True)
        stage.result = f"{bundle.size_bytes / 1e6:.1f} MB in {job.place}"
    return bundle
