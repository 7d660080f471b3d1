"""Verdicts: statistics against the bounds of a gate. Whatever is not a number fails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.recipe import Gate
from exporter.validator.parity import Parity
from exporter.validator.sts import StsScore


@dataclass(frozen=True)
class Verdict:
    """One bound, what was measured, and whether it held.

    Attributes:
        name: The statistic, in words.
        value: What was measured.
        bound: What the gate asks for.
        relation: ``">="`` or ``"<="``.
    """

    name: str
    value: float
    bound: float
    relation: str

    @property
    def passed(self) -> bool:
        """Whether the bound held; a NaN never does."""
        return self.value >= self.bound if self.relation == ">=" else self.value <= self.bound

    def __str__(self) -> str:
        sign = {True: self.relation, False: "<" if self.relation == ">=" else ">"}[self.passed]
        return f"{self.name} {significant(self.value)} {sign} {significant(self.bound)}"


def judge(parity: Parity, batch_deviation: float, sts: tuple[StsScore, ...], gate: Gate) -> tuple[Verdict, ...]:
    """Return a verdict for every bound of ``gate``."""
    at_least = {
        "min cosine": (float(np.min(parity.cosine)), gate.min_cosine),
        "1st percentile of cosine": (float(np.percentile(parity.cosine, 1)), gate.p01_cosine),
        "mean cosine": (float(np.mean(parity.cosine)), gate.mean_cosine),
        "min centred cosine": (float(np.min(parity.centered_cosine)), gate.min_centered_cosine),
        "neighbour identity": (parity.neighbor_identity, gate.neighbor_identity),
    }
    at_most = {
        "NaN or Inf rows": (float(parity.non_finite), 0.0),
        "max relative error": (float(np.max(parity.relative_error)), gate.max_relative_error),
        "similarity drift": (parity.similarity_drift, gate.max_similarity_drift),
        "batch deviation": (batch_deviation, gate.max_batch_deviation),
        **{f"Spearman drop on {score.name}": (score.spearman_drop, gate.max_spearman_drop) for score in sts},
    }
    verdicts = [Verdict(name, value, bound, ">=") for name, (value, bound) in at_least.items() if bound is not None]
    verdicts += [Verdict(name, value, bound, "<=") for name, (value, bound) in at_most.items() if bound is not None]
    return tuple(verdicts)


def significant(value: float) -> str:
    """Format a number so that the distance from 1 shows: 0.99999987, not 1.0."""
    if not np.isfinite(value):
        return str(value)
    distance = abs(1 - value)
    if 0 < distance < 0.1:
        digits = min(16, 1 - int(np.floor(np.log10(distance))))
        return f"{value:.{digits}f}"
    return f"{value:.4g}"
