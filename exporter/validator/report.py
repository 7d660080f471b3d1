"""ParityReport: what was measured, what it means, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from exporter.errors import printable
from exporter.validator.check import Check
from exporter.validator.format_loss import FormatLoss
from exporter.validator.gates import Verdict, significant
from exporter.validator.parity import DRIFT_EDGES, Parity
from exporter.validator.probes import Probe, coverage_of
from exporter.validator.stored import Storage
from exporter.validator.sts import StsScore

WORST = 10
"""How many of the sentences that differ most are written down with their text."""
_TEXT = 1000  # characters of such a sentence


@dataclass(frozen=True)
class ParityReport:
    """Reference against candidate.

    Attributes:
        subject: What was judged, for example ``"demo fp16 on onnxruntime"``.
        execution: Where and in what numbers the candidate ran.
        probes: The texts, in the order of the rows.
        probes_sha256: Hash over their texts.
        tokens: Tokens per probe.
        parity: The numbers.
        batch_deviation: Largest relative difference between a sentence alone and at any place of a ragged batch.
        sts: Task scores, where sets were given.
        verdicts: One per bound of the gate.
        cause: The likely cause, in a sentence, where the gate failed.
        checks: The checks besides the gate: tokenizer, weights, graph, sweep.
        format_loss: What the precision itself loses on the same probes, where bounds were relative to that.
        storage: What was found of truncated and stored vectors, where they were judged.
        emulator_error: Mean relative difference from the emulator's vectors, where int8 was emulated.
        emulator_rounding: What rounding alone makes of that difference, where it had to be measured.
        golden: The seal of the golden file whose answers the candidate was compared with; None where it was compared
            with the checkpoint itself.
        bundle: The seal of the manifest, if a bundle was judged.
        device: ``"cpu"`` or ``"cuda"``: where that bundle ran.
    """

    subject: str
    execution: str
    probes: tuple[Probe, ...]
    probes_sha256: str
    tokens: tuple[int, ...]
    parity: Parity
    batch_deviation: float
    sts: tuple[StsScore, ...]
    verdicts: tuple[Verdict, ...]
    cause: str | None
    checks: tuple[Check, ...] = ()
    format_loss: FormatLoss | None = None
    emulator_error: float | None = None
    emulator_rounding: float | None = None
    storage: Storage | None = None
    golden: str | None = None
    bundle: str | None = None
    device: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every bound held and every check passed."""
        return all(verdict.passed for verdict in self.verdicts) and all(check.passed for check in self.checks)

    @property
    def coverage(self) -> str:
        """How many probes there are, and of how many tokens."""
        return coverage_of(self.tokens)

    def with_checks(self, *checks: Check) -> ParityReport:
        """Return this report with further checks."""
        return replace(self, checks=(*self.checks, *checks))

    @property
    def worst(self) -> int:
        """Row of the probe that differs most: the first with NaN or Inf, or else that of the smallest cosine."""
        return self.worst_rows(1)[0]

    def worst_rows(self, count: int) -> list[int]:
        """Return the rows of the probes that differ most, the worst first."""
        order = np.argsort(np.nan_to_num(self.parity.cosine, nan=-np.inf), kind="stable")
        rows: list[int] = order[:count].tolist()
        return rows

    @property
    def statistics(self) -> dict[str, float]:
        """The figures of the report, by name."""
        parity = self.parity
        return {
            **parity.row_statistics,
            "neighbor_identity": parity.neighbor_identity,
            "mean_neighbor_overlap": float(np.mean(parity.neighbor_overlap)),
            "min_neighbor_overlap": float(np.min(parity.neighbor_overlap)),
            "max_similarity_drift": parity.similarity_drift,
            "max_batch_deviation": self.batch_deviation,
            "non_finite_rows": float(parity.non_finite),
            **({} if self.emulator_error is None else {"emulator_error": self.emulator_error}),
            **({} if self.emulator_rounding is None else {"emulator_rounding": self.emulator_rounding}),
        }

    def failure(self) -> str:
        """Describe a failed gate: what missed its bound, the worst sentence and its length, the likely cause."""
        missed = "; ".join(str(verdict) for verdict in self.verdicts if not verdict.passed)
        failures = [f"{check.name}: {failure}" for check in self.checks for failure in check.failures]
        if not missed:
            return "\n".join([f"{self.subject}: {failures[0]}", *(f"  {failure}" for failure in failures[1:])])
        text = printable(" ".join(self.probes[self.worst].text.split()))
        shown = f"{text[:60]}…" if len(text) > 60 else text
        lines = [f"{self.subject}: {missed} over {len(self.probes)} probes"]
        lines.append(f"  worst: “{shown}” ({self.tokens[self.worst]} tokens, {self.probes[self.worst].kind})")
        if self.cause:
            lines.append(f"  likely cause: {self.cause}")
        lines += [f"  {failure}" for failure in failures]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON data. NaN and Inf become null, as JSON knows neither."""
        rows = [
            {
                "kind": probe.kind,
                "tokens": self.tokens[row],
                "cosine": number(self.parity.cosine[row]),
                "relative_error": number(self.parity.relative_error[row]),
            }
            for row, probe in enumerate(self.probes)
        ]
        return {
            "subject": self.subject,
            "execution": self.execution,
            "passed": self.passed,
            "golden": self.golden,
            "probes": self.coverage,
            "probes_sha256": self.probes_sha256,
            "statistics": {name: number(value) for name, value in self.statistics.items()},
            "verdicts": [{**clean(asdict(verdict)), "passed": verdict.passed} for verdict in self.verdicts],
            "format": None if self.format_loss is None else self.format_loss.to_dict(),
            "stored": [] if self.storage is None else [clean(asdict(loss)) for loss in self.storage.losses],
            "checks": [check.to_dict() for check in self.checks],
            "sts": [clean(asdict(score)) for score in self.sts],
            "worst": {"row": self.worst, "text": self.probes[self.worst].text, **rows[self.worst]},
            "worst_sentences": [
                {"row": row, "text": self.probes[row].text[:_TEXT], **rows[row]} for row in self.worst_rows(WORST)
            ],
            "pairwise_drift": {
                "edges": [float(f"{edge:.3g}") for edge in DRIFT_EDGES],
                "pairs": self.parity.drift_counts.tolist(),
            },
            "cause": self.cause,
            "rows": rows,
        }

    def to_json(self) -> str:
        """Return :meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    def summary(self) -> str:
        """Return the figures that matter in one line."""
        figures = self.statistics
        parts = [
            f"min cosine {significant(figures['min_cosine'])}",
            f"mean {significant(figures['mean_cosine'])}",
            f"neighbors {figures['neighbor_identity']:.2%}",
        ]
        parts += [
            f"{score.name} Spearman {score.reference_spearman:.2f} -> {score.candidate_spearman:.2f}"
            for score in self.sts
        ]
        return ", ".join(parts)


def number(value: float) -> float | None:
    """Return a number for JSON: None in place of NaN and Inf."""
    return float(value) if np.isfinite(value) else None


def clean(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields for JSON: None in place of NaN and Inf."""
    return {name: number(value) if isinstance(value, float) else value for name, value in fields.items()}
