"""Which targets this machine can build and run, and what became of each one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from exporter.bundle.publish import refuse_to_replace_another, refuse_to_replace_other_files
from exporter.errors import BuildError, BundleError, MissingDependencyError
from exporter.options import ExportOptions, TuneOptions
from exporter.pipeline.job import Job, accept
from exporter.recipe import Recipe
from exporter.stages import Stages
from exporter.targets import Backend, Device, Precision, Target


@dataclass(frozen=True)
class Candidate:
    """A target, and what became of it.

    Attributes:
        target: Precision, backend and device.
        passed: Whether it passed its gate, and this machine can run it.
        refusal: Why it was refused: the first line of the message.
        available: Whether this machine can build and run it.
    """

    target: Target
    passed: bool = False
    refusal: str = ""
    available: bool = True

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return str(self.target)

    @property
    def verdict(self) -> str:
        """``"passed"``, ``"refused"`` or ``"not available"``."""
        return "passed" if self.passed else "refused" if self.available else "not available"

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON data."""
        return {
            "precision": self.target.precision,
            "backend": self.target.backend,
            "device": self.target.device,
            "verdict": self.verdict,
            "reason": self.refusal or None,
        }


def jobs_of(
    recipe: Recipe, tuning: TuneOptions, options: ExportOptions, stages: Stages
) -> tuple[list[Job], list[Candidate]]:
    """Return a job for each target that this machine can build and run, and the candidates that it cannot.

    The fp32 engine of ONNX Runtime comes first where it is among them: its gate is the first gate of others.

    Raises:
        ExportError: What concerns every target.
    """
    jobs: list[Job] = []
    unavailable: list[Candidate] = []
    for backend in sorted(set(tuning.backends), key=list(Backend).index):
        for precision in sorted(set(tuning.precisions), key=list(Precision).index):
            asked = options.model_copy(update={"precision": precision, "backend": backend, **_idle(backend)})
            if backend.needs_gpu and options.device is Device.CPU:
                reason = f"{backend} runs on a GPU, and the engines of the CPU are compared"
                unavailable.append(Candidate(asked.target, refusal=reason, available=False))
                continue
            try:
                jobs.append(accept(recipe, asked, stages))
            except (BuildError, MissingDependencyError) as error:
                unavailable.append(Candidate(asked.target, refusal=error.message.splitlines()[0], available=False))
    return jobs, unavailable


def _idle(backend: Backend) -> dict[str, Any]:
    """Return the options that a backend does not heed, as they are by default."""
    idle = [] if backend.needs_gpu else ["workspace_mib", "hardware_compatible"]
    idle += [] if backend is Backend.TENSORRT else ["version_compatible"]
    return {name: ExportOptions.model_fields[name].default for name in idle}


def refuse_taken_places(jobs: Sequence[Job], options: ExportOptions) -> None:
    """Refuse to begin where the winner might find its place taken.

    Raises:
        BundleError: A bundle is there and ``force`` is off, or it is not a bundle of the same checkpoint.
    """
    for job in jobs:
        place = replace(job, options=job.options.model_copy(update={"out": options.out})).place
        if os.path.lexists(place) and not options.force:
            raise BundleError(
                f"{place}: already exists, and the winner may go there",
                next_step="`force` replaces it once the winner is known; `name` gives the winner another folder",
            )
        refuse_to_replace_other_files(place)
        refuse_to_replace_another(place, job.recipe.source_name(options.checkpoint))
