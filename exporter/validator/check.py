"""Check: one part of the proof besides the gate's bounds, with what it covered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from exporter.errors import quoted


@dataclass(frozen=True)
class Check:
    """The result of one check of a candidate.

    A gate compares vectors of real sentences. A check covers what sentences cannot reach: the tokenizer's whole
    vocabulary, every weight, the operators of the typed graph, batch sizes and padded widths.

    Attributes:
        name: ``"facts"``, ``"tokenizer"``, ``"weights"``, ``"graph"``, ``"dataflow"``, ``"lookup"``, ``"prompts"`` or
            ``"sweep"``.
        coverage: What was compared, with figures, in one sentence.
        failures: What is wrong, one sentence each. The check passed if there are none.
        figures: The same as JSON data, for ``parity.json``.
        compared: Whether anything was compared; if not, the coverage says why.
    """

    name: str
    coverage: str
    failures: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    compared: bool = True

    @classmethod
    def skipped(cls, name: str, reason: str) -> Check:
        """Return a check that had nothing to compare with."""
        return cls(name, f"not compared: {reason}", compared=False)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures

    @property
    def result(self) -> str:
        """``"passed"``, ``"FAILED"`` or ``"skipped"``."""
        if not self.compared:
            return "skipped"
        return "passed" if self.passed else "FAILED"

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
            "compared": self.compared,
            "coverage": self.coverage,
            "failures": list(self.failures),
            "figures": dict(self.figures),
        }


def check_facts(stated: Mapping[str, Any], read: Mapping[str, Any], source: str = "the checkpoint") -> Check:
    """Compare what a manifest states of the encoder with what its source says.

    Args:
        stated: Of the manifest.
        read: Of the source.
        source: The source, for messages.
    """
    failures = tuple(
        f"{name} is {quoted(stated.get(name))} in the manifest, and {quoted(read.get(name))} in {source}"
        for name in sorted(stated.keys() | read.keys())
        if stated.get(name) != read.get(name)
    )
    return Check("facts", f"{len(read)} facts of the encoder, of the manifest and of {source}", failures)


def coverage_of_checks(checks: Iterable[Check]) -> str:
    """Return what checks have covered, in one line."""
    return ", ".join(f"{check.name}: {check.coverage}" for check in checks)


def all_passed(checks: Iterable[Check]) -> bool:
    """Whether nothing is wrong in any of the checks."""
    return all(check.passed for check in checks)
