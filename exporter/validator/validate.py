"""validate(): the reference's vectors and a candidate's, from the same strings, through every gate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from exporter.recipe import Gate
from exporter.runtime.vector_types import Ranges, Vectors
from exporter.validator.diagnosis import likely_cause
from exporter.validator.format_loss import MOST_EXACT, FormatLoss
from exporter.validator.gates import emulator_bound, judge, judge_stored, mean_to_widen, not_compared, rows_beyond
from exporter.validator.parity import Parity, compare, relative_deviation
from exporter.validator.probes import Probe, coverage_of
from exporter.validator.report import ParityReport
from exporter.validator.rounding import rounded_to
from exporter.validator.stored import Storage, compare_stored
from exporter.validator.sts import StsScore, StsSet, correlate

RAGGED_BATCH = 8


class Candidate(Protocol):
    """Whatever turns strings into vectors: a bundle's ``Encoder``, or a server."""

    @property
    def execution(self) -> str:
        """Where and in what numbers it runs."""
        ...

    def encode(self, sentences: Sequence[str], /) -> Vectors:
        """Return (len(sentences), dimension) float32."""
        ...

    def encode_batch(self, sentences: Sequence[str], /) -> Vectors:
        """Return the same, with the sentences sharing one batch."""
        ...


@dataclass(frozen=True)
class Reference:
    """What the FP32 PyTorch model answers, computed once and compared with every candidate.

    Attributes:
        probes: The texts that judge.
        vectors: (probes, dimension) float32.
        token_ids: Token ids of each probe after truncation.
        sts: Task sets, each with the vectors of its first and second sentences.
        format_losses: What a precision itself loses on the probes, by name of the precision, where it is known.
        rounding: Computes what float32 itself loses on some probes, by their numbers. It is asked for those that miss
            a bound of float32.
        ranges: The ranges of int8 vectors; None where no stored vectors are judged, because they are not the subject.
        truncate_dims: Dimensions that vectors are truncated to, largest first.
    """

    probes: tuple[Probe, ...]
    vectors: Vectors
    token_ids: list[list[int]]
    sts: tuple[tuple[StsSet, Vectors, Vectors], ...]
    format_losses: Mapping[str, FormatLoss] = field(default_factory=dict)
    rounding: Callable[[Sequence[int]], FormatLoss] | None = None
    ranges: Ranges | None = None
    truncate_dims: tuple[int, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The probes' texts."""
        return [probe.text for probe in self.probes]

    @property
    def coverage(self) -> str:
        """How many probes there are, and of how many tokens."""
        return coverage_of([len(row) for row in self.token_ids])

    def content_hash(self) -> str:
        """Return the SHA-256 over the probes' texts."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()


def validate(
    reference: Reference, candidate: Candidate, gate: Gate, subject: str, precision: str = "fp32"
) -> ParityReport:
    """Judge a candidate, from string to vector.

    The candidate reads the strings with its own tokenizer, so a lost lower-casing or truncation fails as surely as a
    wrong weight.

    Args:
        reference: From ``reference_of``.
        candidate: A bundle's tokenizer and engine, here or behind a server.
        gate: The bounds.
        subject: What is judged, for the report.
        precision: What the candidate computes in. Any other than ``"fp32"`` says that the same graph has passed its
            gate in float32: then a small loss is the precision's.
    """
    vectors = candidate.encode(reference.texts)
    parity = compare(reference.vectors, vectors, reference.token_ids)
    deviation = _batch_deviation(candidate, reference)
    sts = tuple(_score(candidate, *scored) for scored in reference.sts)
    own = reference.format_losses.get(precision) or _rounding(reference, parity, gate, precision)
    emulator_error = own.emulator_error(vectors) if own is not None else None
    emulator_rounding = _emulator_rounding(own, emulator_error, gate)
    verdicts = judge(parity, deviation, sts, gate, own, emulator_error, emulator_rounding)
    storage = _storage(reference, vectors, parity)
    if storage is not None:
        verdicts += judge_stored(storage, gate)
    tokens = tuple(len(row) for row in reference.token_ids)
    failed = not all(verdict.passed for verdict in verdicts)
    return ParityReport(
        subject=subject,
        execution=candidate.execution,
        probes=reference.probes,
        probes_sha256=reference.content_hash(),
        tokens=tokens,
        parity=parity,
        batch_deviation=deviation,
        sts=sts,
        verdicts=verdicts,
        cause=_cause(reference, vectors, parity, deviation, gate, precision) if failed else None,
        checks=(*not_compared(parity, gate, own), *(() if storage is None else (storage.check(),))),
        storage=storage,
        format_loss=own,
        emulator_error=emulator_error,
        emulator_rounding=emulator_rounding,
    )


def _emulator_rounding(own: FormatLoss | None, error: float | None, gate: Gate) -> float | None:
    """Return what rounding alone changes in the emulator, if the difference from it misses the bound without that."""
    if own is None or error is None or not gate.max_rounding_ratio:
        return None
    return own.emulator_rounding() if error > emulator_bound(own, gate) else None


def _rounding(reference: Reference, parity: Parity, gate: Gate, precision: str) -> FormatLoss | None:
    """Return what float32 itself loses on the probes that miss its bounds, or on all where their mean does.

    Nobody computes in float64 where very many probes are far beyond: that is not for rounding.
    """
    if precision != "fp32" or reference.rounding is None or gate.max_format_ratio is None:
        return None
    if mean_to_widen(parity, gate):
        return reference.rounding(list(range(len(reference.probes))))
    rows = rows_beyond(parity, gate)
    return reference.rounding(rows) if 0 < len(rows) <= MOST_EXACT else None


def _storage(reference: Reference, vectors: Vectors, parity: Parity) -> Storage | None:
    """Compare stored vectors; not where a vector is not finite, which no type can store and the gate refuses."""
    if reference.ranges is None or parity.non_finite:
        return None
    return compare_stored(reference.vectors, vectors, reference.token_ids, reference.ranges, reference.truncate_dims)


def _cause(reference: Reference, vectors: Vectors, parity: Parity, deviation: float, gate: Gate, precision: str) -> str:
    return likely_cause(
        parity,
        reference.probes,
        tuple(len(row) for row in reference.token_ids),
        deviation,
        gate,
        precision,
        reference.format_losses.get(precision),
        rounded_to(vectors),
    )


def _batch_deviation(candidate: Candidate, reference: Reference) -> float:
    """Return how much a sentence's vector depends on what shares its batch.

    Eight sentences, from the shortest to one longer than nine in ten, are encoded alone, and as one ragged batch in
    which each of them stands at each place once.
    """
    order = np.argsort([len(row) for row in reference.token_ids], kind="stable")
    places = np.linspace(0, 0.9 * (len(order) - 1), RAGGED_BATCH).astype(int)
    texts = [reference.texts[int(order[place])] for place in places]
    alone = np.concatenate([candidate.encode_batch([text]) for text in texts])
    worst = 0.0
    for shift in range(len(texts)):
        rotated = texts[shift:] + texts[:shift]
        together = candidate.encode_batch(rotated)
        worst = max(worst, relative_deviation(together, np.roll(alone, -shift, axis=0)), key=_nan_is_largest)
    return worst


def _nan_is_largest(value: float) -> float:
    return float("inf") if np.isnan(value) else value


def _score(candidate: Candidate, sts: StsSet, first: Vectors, second: Vectors) -> StsScore:
    return correlate(sts, (first, second), (candidate.encode(sts.first), candidate.encode(sts.second)))
