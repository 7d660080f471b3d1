"""A process that exports a checkpoint to several targets, for ``architectures``: a line of JSON for each.

The checkpoint is loaded, encoded and folded once, as ``korsbert tune`` does. Each stage has its seconds and the most
memory that was resident during it, so that a target's own figures can be told: those of the stages that an export to it
alone would run.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()  # before anything else is imported: importing torch is a part of an export

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.processes import peak_bytes, reset_peak  # noqa: E402
from exporter.bundle import Bundle  # noqa: E402
from exporter.bundle.manifest import PARITY  # noqa: E402
from exporter.engines.building import target_passes  # noqa: E402
from exporter.errors import ExportError  # noqa: E402
from exporter.options import ExportOptions  # noqa: E402
from exporter.pipeline import export_jobs  # noqa: E402
from exporter.pipeline.job import Job, accept  # noqa: E402
from exporter.recipe import find_recipe  # noqa: E402
from exporter.stages import Stage, Stages  # noqa: E402
from exporter.targets import Backend, Precision  # noqa: E402

SHARED_ENDS = "fold into one graph"
"""The last stage that all targets share."""

GATE_1 = ("gate: the fp32 graph", "sweep: the fp32 graph")
"""What targets share whose engines need the float32 graph in the same form."""

Measured = dict[str, Any]
"""A stage: ``name``, ``seconds``, and ``peak_bytes``, the most memory that was resident during it."""


def main() -> None:
    """Export, and print what each target took."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("targets", nargs="+", metavar="PRECISION-BACKEND")
    options = parser.parse_args()
    for target in exports(options.checkpoint, options.out, options.targets):
        print(json.dumps(target), flush=True)


def exports(checkpoint: Path, out: Path, targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Export a checkpoint and yield, for each target, its verdict, stages, file size and the load of the machine.

    Args:
        checkpoint: A folder.
        out: Where bundles go; each is removed once it is measured.
        targets: Like ``"fp16-onnxruntime"``. Those that this machine cannot run come first.
    """
    measured = [{"name": "import", "seconds": time.perf_counter() - STARTED, "peak_bytes": peak_bytes()}]
    stages = Stages(on_start=lambda _: reset_peak(), on_end=lambda stage: measured.append(_measured(stage)))
    jobs: list[Job] = []
    for target in targets:
        precision, backend = target.split("-", 1)
        asked = ExportOptions(precision=Precision(precision), backend=Backend(backend), out=out)
        try:
            jobs.append(accept(find_recipe(str(checkpoint)), asked, stages))
        except ExportError as error:
            yield {"target": target, **_refused(error), "stages": [], "load": [_load(), _load()]}
    if jobs:
        yield from _export(jobs, measured)


def _export(jobs: Sequence[Job], measured: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """Export the jobs, and pick from what was measured the stages that an export of each one alone would have."""
    proofs: dict[Any, list[Measured]] = {}
    shared: list[Measured] = []
    taken, before = 0, _load()
    for job, done in zip(jobs, _one_by_one(jobs), strict=True):
        own, taken = list(measured[taken:]), len(measured)
        if not proofs:
            ends = next((place for place, stage in enumerate(own) if stage["name"] == SHARED_ENDS), len(own)) + 1
            shared, own = own[:ends], own[ends:]
        form = target_passes(job.target)
        inherited = proofs.get(form, [])
        proofs.setdefault(form, [stage for stage in own if stage["name"] in _gate_1(job)])
        verdict = _refused(done) if isinstance(done, ExportError) else _passed(done)
        told = {"target": f"{job.target.precision}-{job.target.backend}", "load": [before, _load()]}
        yield {**told, **verdict, "stages": [*shared, *inherited, *own]}
        shutil.rmtree(job.place, ignore_errors=True)
        before = _load()


def _one_by_one(jobs: Sequence[Job]) -> Iterator[Bundle | ExportError]:
    """Yield what became of each job: the same error for all that are left, where one stops them all."""
    left = len(jobs)
    try:
        for done in export_jobs(jobs):
            left -= 1
            yield done
    except ExportError as error:
        yield from [error] * left


def _gate_1(job: Job) -> Sequence[str]:
    """Return the stages that judge the float32 graph: the only gate of an engine that is that graph."""
    one = f"{job.target.precision} on {job.runs_on}"
    return (f"gate: {one}", f"sweep: {one}") if job.is_as_folded else GATE_1


def _measured(stage: Stage) -> Measured:
    return {"name": stage.name, "seconds": round(stage.seconds, 1), "peak_bytes": peak_bytes()}


def _passed(bundle: Bundle) -> dict[str, Any]:
    files = [path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()]
    report = json.loads((bundle.folder / PARITY).read_text(encoding="utf-8"))
    return {"exit_code": 0, "file_bytes": max(files), "min_cosine": report["statistics"]["min_cosine"]}


def _refused(error: ExportError) -> dict[str, Any]:
    return {"exit_code": error.exit_code, "file_bytes": 0, "reason": error.message.splitlines()[0]}


def _load() -> float:
    return round(os.getloadavg()[0], 1)


if __name__ == "__main__":
    main()
