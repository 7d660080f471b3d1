"""tune(): every engine that this machine runs is exported, judged and measured, and the best one is published.

::

    candidates.py  the targets that this machine can build and run
    work.py        the folder in which candidates wait; an interrupted run is resumed from it
    measuring.py   speed, memory and size, side by side
    choosing.py    the best, the Pareto front, and what the best one gains
    result.py      what was found
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from exporter.acceptance.tuning import as_candidates, refuse_taken_places
from exporter.bundle import Bundle
from exporter.calibration import calibration_sentences
from exporter.errors import ExportError, GateError
from exporter.options import ExportOptions, Goal, TuneOptions
from exporter.pipeline import export_jobs
from exporter.pipeline.job import Job
from exporter.recipe import Recipe
from exporter.stages import Stages
from exporter.tuning.candidates import Candidate, jobs_of
from exporter.tuning.choosing import best, enough, sentence
from exporter.tuning.measuring import measure_bundles
from exporter.tuning.result import Tuned
from exporter.tuning.work import Work, work_folder

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
        BundleError: A bundle is at a place where the winner may go, and ``force`` is off. Or an interrupted run has
            published a bundle that this run does not choose; nothing is ever removed there.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    stages = stages or Stages()
    text = calibration_sentences(tuning.text, probes=())
    jobs, unavailable = jobs_of(recipe, tuning, as_candidates(recipe, options), stages)
    targets = [job.target for job in jobs]
    refuse_taken_places(recipe, targets, options)
    with work_folder(recipe, targets, options) as work:
        judged, bundles = _judge(jobs, work, stages)
        if not bundles:
            raise _refused("none of the engines passes its gate", judged, "export one of them for the whole report")
        _refuse_too_far(bundles, tuning.min_cosine, judged)
        found = measure_bundles(bundles, text, tuning, jobs[0].target.device, stages)
        judged = [_unless_failed(one, found.failed) for one in judged]
        eligible = enough(found.measured, tuning.min_cosine)
        if not eligible:
            raise _refused("no engine that is near enough can be measured", judged, "give a lower `min_cosine`")
        winner = best(eligible, tuning.goal)
        with stages("publish") as stage:
            wanted = [one.name for one in found.measured] if tuning.keep else [winner.name]
            if not options.force:
                work.refuse_other_published([bundles[name] for name in wanted])
            published = {name: work.publish(bundles[name], force=options.force) for name in wanted}
            work.remove()
            stage.result = ", ".join(str(bundle.folder) for bundle in published.values())
    return Tuned(
        bundle=published[winner.name],
        goal=tuning.goal,
        candidates=(*judged, *unavailable),
        measured=found.measured,
        winner=winner.name,
        sentence=sentence(winner, eligible, found.measured, tuning.goal),
        conditions=found.conditions,
        facts=found.facts,
    )


def _judge(jobs: Sequence[Job], work: Work, stages: Stages) -> tuple[list[Candidate], dict[str, Bundle]]:
    """Export what an earlier run has not; return what became of each target, and the bundles of those that passed."""
    refusals: dict[str, str] = {}
    bundles: dict[str, Bundle] = {}
    for job in jobs:
        if (bundle := work.bundle(job.target)) is not None:
            bundles[str(job.target)] = bundle
        elif (reason := work.refusal(job.target)) is not None:
            refusals[str(job.target)] = reason
    if bundles or refusals:
        stages.keeps.append(work.folder)
    missing = [job for job in jobs if str(job.target) not in {*bundles, *refusals}]
    for job, done in zip(missing, export_jobs(missing) if missing else (), strict=True):
        if isinstance(done, ExportError):
            refusals[str(job.target)] = done.message.splitlines()[0]
            if isinstance(done, GateError):  # what failed by accident, for want of memory say, is tried again
                work.refuse(job.target, refusals[str(job.target)])
        else:
            bundles[str(job.target)] = done
        if work.folder not in stages.keeps:
            stages.keeps.append(work.folder)
    judged = [
        Candidate(job.target, passed=str(job.target) in bundles, refusal=refusals.get(str(job.target), ""))
        for job in jobs
    ]
    return judged, {one.name: bundles[one.name] for one in judged if one.passed}


def _unless_failed(candidate: Candidate, failed: Mapping[str, str]) -> Candidate:
    reason = failed.get(candidate.name)
    return candidate if reason is None else replace(candidate, passed=False, refusal=reason)


def _refuse_too_far(bundles: Mapping[str, Bundle], min_cosine: float | None, judged: Sequence[Candidate]) -> None:
    """Refuse to measure where no engine could be published."""
    cosines = {name: bundle.manifest.validation.min_cosine for name, bundle in bundles.items()}
    nearest = max(cosines, key=lambda name: cosines[name])
    if min_cosine is not None and cosines[nearest] < min_cosine:
        raise _refused(
            f"no engine has a min cosine of {min_cosine} or more: the nearest is {nearest} with {cosines[nearest]:.7f}",
            judged,
            "give a lower `min_cosine`; what was exported is kept, so the same command goes on from there",
        )


def _refused(message: str, judged: Sequence[Candidate], next_step: str) -> GateError:
    report = {"candidates": [one.to_dict() for one in judged]}
    return GateError(f"{message}{_reasons(judged)}", report=report, next_step=next_step)


def _reasons(candidates: Sequence[Candidate]) -> str:
    return "".join(f"\n  {one.name}: {one.refusal}" for one in candidates if not one.passed)
