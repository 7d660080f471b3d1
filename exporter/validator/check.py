"""Check: one part of the proof besides the gate's bounds, with what it covered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Check:
    """The result of one check of a candidate.

    A gate compares vectors of real sentences. A check covers what sentences cannot reach: the tokenizer's whole
    vocabulary, every weight, the operators of the typed graph, batch sizes and padded widths.

    Attributes:
        name: ``"facts"``, ``"tokenizer"``, ``"weights"``, ``"graph"``, ``"dataflow"``, ``"lookup"`` or ``"sweep"``.
        coverage: What was compared, with figures, in one sentence.
        failures: What is wrong, one sentence each. The check passed if there are none.
        figures: The same as JSON data, for ``parity.json``.
    """

    name: str
    coverage: str
    failures: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    def of(self, subject: str) -> Check:
        """Return this check with what it was done to in front of its coverage, where that is no published file."""
        return replace(self, coverage=f"{subject}: {self.coverage}")

    def because(self, reason: str) -> Check:
        """Return this check with a reason behind its first failure."""
        first, *others = self.failures
        return replace(self, failures=(f"{first} ({reason})", *others))

    def to_dict(self) -> dict[str, Any]:
        """Return the check as JSON data."""
        return {
            "name": self.name,
            "passed": self.passed,
            "coverage": self.coverage,
            "failures": list(self.failures),
            "figures": dict(self.figures),
        }
