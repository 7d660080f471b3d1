"""From a recipe to a published bundle that is proven equal to its checkpoint: the whole story, top to bottom.

``job`` is what is asked for, and the checkpoint that it is about; ``ranges`` are those of its int8 vectors.
``building`` makes a graph of the checkpoint and an engine of the graph. ``judgement`` compares both with the
checkpoint: gates and checks. Each imports only those before it, ``job`` also ``ranges``.
"""

from __future__ import annotations

from exporter.bundle import Bundle
from exporter.bundle.atomic import staging, writing
from exporter.bundle.publish import publish
from exporter.engines.building import with_target_passes
from exporter.options import ExportOptions
from exporter.pipeline.building import build, fold, prepare
from exporter.pipeline.job import Subject, accept, load
from exporter.pipeline.judgement import check_files, judge, judge_float32
from exporter.precisions import Conversion
from exporter.publication import Judged, manifest_of, write_files
from exporter.recipe import Recipe
from exporter.stages import Stages


def export(recipe: Recipe, options: ExportOptions | None = None, stages: Stages | None = None) -> Bundle:
    """Export a checkpoint, prove the result equal to it, and publish it.

    Raises:
        GateError: The result differs by more than the recipe's gates allow; nothing was published.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    job = accept(recipe, options or ExportOptions(), stages or Stages())
    with staging(job.place, force=job.options.force) as folder:
        subject = load(job, folder)
        graph = fold(subject)
        proven = with_target_passes(graph, job.target, subject.checkpoint.padding)
        folded = judge_float32(proven, subject)
        conversion = prepare(graph, subject)
        built = build(conversion, subject)
        checks = check_files(built, proven if folded is not None else None, subject)
        report = judge(built, conversion, folded, checks, subject)
        judged = Judged(built.graph, built.engine, report, folded, subject.ranges, subject.calibrated)
        return _publish(judged, conversion, subject)


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
