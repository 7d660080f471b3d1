"""What tuning found: every candidate, what was measured of those that passed, and the winner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.bundle import Bundle
from exporter.options import Goal
from exporter.tuning.candidates import Candidate
from exporter.tuning.choosing import best, on_front
from exporter.tuning.measuring import Measured


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
        bundle: The published bundle.
        goal: What it is best at.
        candidates: Every target that was considered, with the reason where it was not measured.
        measured: Those that passed their gates.
        winner: The name of the published one among them.
        sentence: What it gains.
        conditions: Text, batch size, threads and machine in one sentence.
        facts: The same as JSON data.
    """

    bundle: Bundle
    goal: Goal
    candidates: tuple[Candidate, ...]
    measured: tuple[Measured, ...]
    winner: str
    sentence: str
    conditions: str
    facts: Mapping[str, Any]

    def best_at(self, name: str) -> list[Goal]:
        """Return the goals that a candidate is the best for."""
        return [goal for goal in Goal if best(self.measured, goal).name == name]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {
            "bundle": str(self.bundle.folder),
            "winner": self.winner,
            "goal": self.goal,
            "candidates": list(self._candidates()),
            "sentence": self.sentence,
            "conditions": self.conditions,
            "facts": dict(self.facts),
        }

    def _candidates(self) -> Iterator[dict[str, Any]]:
        found = {one.name: one for one in self.measured}
        for candidate in self.candidates:
            one = found.get(candidate.name)
            yield {
                **candidate.to_dict(),
                "best_at": [] if one is None else self.best_at(one.name),
                "on_front": one is not None and on_front(one, self.measured),
                "measured": None if one is None else one.to_dict(),
            }
