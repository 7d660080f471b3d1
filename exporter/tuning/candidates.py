"""The targets that are compared, and what became of each one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exporter.acceptance.tuning import accept_each, none_available
from exporter.options import ExportOptions, TuneOptions
from exporter.pipeline.job import Job, accept
from exporter.recipe import Recipe
from exporter.stages import Stages
from exporter.targets import Target


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

    Raises:
        MissingDependencyError: It can build and run none.
        ExportError: What concerns every target.
    """
    accepted, refused = accept_each(recipe, tuning, options)
    if not accepted:
        raise none_available(refused)
    unavailable = [Candidate(target, refusal=reason, available=False) for target, reason in refused.items()]
    return [accept(recipe, asked, stages) for asked in accepted], unavailable
