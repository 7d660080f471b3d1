"""From a recipe to a published bundle that is proven equal to its checkpoint: the whole story, top to bottom.

``job`` is what is asked for, and the checkpoint that it is about; ``ranges`` are those of its int8 vectors.
``building`` makes a graph of the checkpoint and an engine of the graph. ``judgement`` compares both with the
checkpoint: gates and checks. Each imports only those before it, ``job`` also ``ranges``.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

from exporter.bundle import Bundle
from exporter.bundle.atomic import staging, writing
from exporter.bundle.publish import publish
from exporter.engines.building import target_passes, with_target_passes
from exporter.errors import BuildError, EngineError, ExportError, GateError, InputError
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

ErrorT = TypeVar("ErrorT", bound=ExportError)


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
        The bundle of each job, in their order, or why it was refused.

    Raises:
        ExportError: What stops them all: the checkpoint cannot be used, a place is taken, the disk is full.
    """
    with ExitStack() as places:
        folders = [places.enter_context(staging(job.place, force=job.options.force)) for job in jobs]
        subject = load(jobs, folders[0])
        graph = fold(subject)
        proofs: Proofs = {}
        for job, folder in zip(jobs, folders, strict=True):
            done: Bundle | ExportError
            try:
                done = _export_one(graph, replace(subject, job=job, folder=folder), proofs)
            except (GateError, BuildError, EngineError, InputError) as error:
                done = _without_frames(error)
            gc.collect()  # graphs and plans refer to themselves: the next job needs their memory
            yield done


Proofs = dict[tuple[Pass, ...], ParityReport | GateError]
"""What gate 1 found of the float32 graph, by the passes that a target needs."""


def _export_one(graph: Graph, subject: Subject, proofs: Proofs) -> Bundle:
    """Export a folded graph to one target.

    Raises:
        GateError: The float32 graph in the form that the target needs is wrong, or the engine is too far from it.
        ExportError: The engine cannot be built or run.
    """
    job, padding = subject.job, subject.checkpoint.padding
    form, proven = target_passes(job.target, padding), with_target_passes(graph, job.target, padding)
    if form not in proofs and not job.is_as_folded:
        try:
            proofs[form] = judge_float32(proven, subject)
        except GateError as error:
            proofs[form] = _without_frames(error)
    folded = None if job.is_as_folded else proofs[form]
    if isinstance(folded, GateError):
        raise folded
    judged, conversion = _convert(graph, proven, folded, subject)
    proofs.setdefault(form, judged.report)
    return _publish(judged, conversion, subject)


def _without_frames(error: ErrorT) -> ErrorT:
    """Return an error without the frames that it came from, which hold the graph and the engine."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__, cause = None, cause.__cause__ or cause.__context__
    return error


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
