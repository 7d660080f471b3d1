"""tune(): every engine that this machine runs is exported, judged and measured, and the best one is published.

::

    candidates.py  the targets that this machine can build and run
    work.py        the folder in which candidates wait; an interrupted run is resumed from it
    measuring.py   speed, memory and size, side by side
    choosing.py    the best, the Pareto front, and what the best one gains
    result.py      what was found
"""

from __future__ import annotations

from exporter.calibration import calibration_sentences
from exporter.errors import ExportError, GateError, MissingDependencyError
from exporter.options import ExportOptions, Goal, TuneOptions
from exporter.pipeline import export_jobs
from exporter.pipeline.job import Job
from exporter.recipe import Recipe
from exporter.stages import Stages
from exporter.tuning.candidates import Candidate, jobs_of, refuse_taken_places
from exporter.tuning.choosing import best, enough, sentence
from exporter.tuning.measuring import Measured, measure_bundles
from exporter.tuning.result import Tuned
from exporter.tuning.work import Work, work_folder, work_place

__all__ = ["Goal", "TuneOptions", "Tuned", "tune"]


def tune(recipe: Recipe, tuning: TuneOptions, options: ExportOptions, stages: Stages | None = None) -> Tuned:
    """Export a checkpoint for every engine that this machine runs, measure those that pass, and publish the best one.

    The candidates share the work that does not depend on their target (``export_jobs``). Those that have passed wait
    in a hidden folder beside the bundles; after an interruption the same call goes on from there.

    Args:
        recipe: The model.
        tuning: What is compared, how it is measured, and what is chosen.
        options: How to export; precision and backend are not looked at.
        stages: Who is told about progress.

    Raises:
        GateError: No candidate passes its gate, or none has ``min_cosine``; nothing was published.
        EngineError: The machine has not the memory to open the engines side by side.
        BundleError: A bundle is at a place where the winner may go, and ``force`` is off.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    stages = stages or Stages()
    text = calibration_sentences(tuning.text, probes=())
    there = options.model_copy(update={"out": work_place(recipe, options), "force": False, "unvalidated": False})
    jobs, unavailable = jobs_of(recipe, tuning, there, stages)
    if not jobs:
        raise _none_available(unavailable)
    refuse_taken_places(jobs, options)
    with work_folder(recipe, options) as work:
        judged = _judge(jobs, work)
        passed = {one.name: one.bundle for one in judged if one.bundle is not None}
        if not passed:
            raise _no_candidate(judged)
        measured, facts = measure_bundles(passed, text, tuning, jobs[0].target.device, stages)
        eligible = enough(measured, tuning.min_cosine)
        if not eligible:
            raise _none_near_enough(measured, tuning)
        winner = best(eligible, tuning.goal)
        with stages("publish") as stage:
            wanted = passed if tuning.keep else {winner.name: winner.bundle}
            published = {name: work.publish(one, options.out, force=options.force) for name, one in wanted.items()}
            work.remove()
            stage.result = ", ".join(str(bundle.folder) for bundle in published.values())
    return Tuned(
        bundle=published[winner.name],
        goal=tuning.goal,
        candidates=(*judged, *unavailable),
        measured=measured,
        winner=winner.name,
        sentence=sentence(winner, eligible, tuning.goal),
        conditions=facts.pop("sentence"),
        facts=facts,
    )


def _judge(jobs: list[Job], work: Work) -> list[Candidate]:
    """Export what an earlier run has not, and return what became of each target."""
    found: dict[str, Candidate] = {}
    stages = jobs[0].stages
    for job in jobs:
        bundle, refusal = work.bundle(job.target), work.refusal(job.target)
        if bundle is not None or refusal is not None:
            found[str(job.target)] = Candidate(job.target, bundle, refusal or "")
    missing = [job for job in jobs if str(job.target) not in found]
    if missing:
        for job, done in zip(missing, export_jobs(missing), strict=True):
            if isinstance(done, ExportError):
                reason = done.message.splitlines()[0]
                work.refuse(job.target, reason)
                found[str(job.target)] = Candidate(job.target, refusal=reason)
            else:
                found[str(job.target)] = Candidate(job.target, done)
            if work.folder not in stages.keeps:
                stages.keeps.append(work.folder)
    return [found[str(job.target)] for job in jobs]


def _none_available(candidates: list[Candidate]) -> MissingDependencyError:
    return MissingDependencyError(
        f"this machine can build and run none of {len(candidates)} engines{_reasons(candidates)}",
        next_step="name other `precisions` or `backends`, or another `device`",
    )


def _no_candidate(judged: list[Candidate]) -> GateError:
    return GateError(
        f"none of {len(judged)} engines passes its gate{_reasons(judged)}",
        report={},
        next_step="export one of them for the whole report",
    )


def _reasons(candidates: list[Candidate]) -> str:
    return "".join(f"\n  {one.name}: {one.refusal}" for one in candidates)


def _none_near_enough(measured: tuple[Measured, ...], tuning: TuneOptions) -> GateError:
    nearest = max(measured, key=lambda one: one.min_cosine)
    return GateError(
        f"no engine has a min cosine of {tuning.min_cosine} or more: the nearest is {nearest.name} with "
        f"{nearest.min_cosine:.7f}",
        report={},
        next_step="give a lower `min_cosine`; what was exported is kept, so the same command goes on from there",
    )
