"""What judges a candidate with a seeded fault: the gate, and every other check, each plugged in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from exporter.errors import BundleError, EngineError
from exporter.recipe import Gates, Shapes
from exporter.runtime.encoder import Encoder
from exporter.runtime.token_encoder import encoder_batches
from exporter.runtime.tokens import TextTokenizer
from exporter.runtime.vector_types import Vectors
from exporter.validator import Check, ParityReport, Reference, validate
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare, relative_deviation
from exporter.validator.proof import Proof
from exporter.validator.provenance import check_graph, read_onnx
from exporter.validator.reference import format_loss_of
from exporter.validator.sweeps.inputs import WIDTH_TOKENS
from tests.support.faults import (
    Candidate,
    Fault,
    Subject,
    candidate_of,
    encoder_of,
    int8_assignment,
    int8_plan,
    subject_named,
)

REFUSED, SLIPS = "refused", "slips"


@dataclass(frozen=True)
class Trial:
    """A candidate that is open: what a check may look at. It encodes, as ``validate`` wants of a candidate.

    Attributes:
        candidate: Checkpoint and reference (``candidate.subject``), precision, graph and tokenizer.
        encoder: The candidate from string to vector.
    """

    candidate: Candidate
    encoder: Encoder

    @cached_property
    def report(self) -> ParityReport:
        """What the default gate of the candidate's precision says."""
        subject, precision = self.candidate.subject, self.candidate.precision
        reference = _reference(subject.name, precision)
        return validate(reference, self, Gates().of(precision), f"{subject.name} {precision}", precision)

    @cached_property
    def vectors(self) -> Vectors:
        """The candidate's vectors of the probes."""
        return self.encoder.encode(self.candidate.subject.reference.texts)

    @property
    def execution(self) -> str:
        """Where and in what numbers it runs."""
        return self.encoder.execution

    def encode(self, sentences: Sequence[str], /) -> Vectors:
        """Encode sentences, the probes once only."""
        probes = self.candidate.subject.reference.texts
        return self.vectors if list(sentences) == probes else self.encoder.encode(sentences)

    def encode_batch(self, sentences: Sequence[str], /) -> Vectors:
        """Encode sentences as one batch."""
        return self.encoder.encode_batch(sentences)


def gate(trial: Trial) -> Check:
    """Compare the vectors of the probes with the reference, within the bounds of the default gate."""
    failures = tuple(str(verdict) for verdict in trial.report.verdicts if not verdict.passed)
    return Check("gate", f"{len(trial.report.probes)} probes", failures)


def tokenizer(trial: Trial) -> Check:
    """Compare the tokenizer with the checkpoint's own files."""
    return _proof(trial.candidate.subject.name).tokenizer(trial.candidate.tokenizer)


def weights(trial: Trial) -> Check:
    """Derive every weight of the typed graph from a parameter."""
    candidate = trial.candidate
    return _proof(candidate.subject.name).weights(read_onnx(candidate.model), candidate.precision)


def graph(trial: Trial) -> Check:
    """Compare the typed graph with the float32 graph. At fp32 there is none: the gate judges this very graph."""
    candidate = trial.candidate
    if candidate.precision == "fp32":
        return Check("graph", "not applicable")
    proven = read_onnx(candidate.subject.graph.model, "the proven graph")
    return check_graph(proven, read_onnx(candidate.model), candidate.precision)


def dataflow(trial: Trial) -> Check:
    """Look up what the operators of the float32 graph read. A typed graph is compared with it instead."""
    candidate = trial.candidate
    if candidate.precision != "fp32":
        return Check("dataflow", "not applicable")
    return _proof(candidate.subject.name).dataflow(candidate.graph)


def lookup(trial: Trial) -> Check:
    """Look up every word vector with the float32 graph. A typed graph is compared with it instead."""
    candidate = trial.candidate
    if candidate.precision != "fp32":
        return Check("lookup", "not applicable")
    return _proof(candidate.subject.name).lookup(candidate.graph)


def sweep(trial: Trial) -> Check:
    """Sweep word rows, positions, batches and widths; the weights have passed, so a sample of the rows is enough."""
    subject, precision = trial.candidate.subject, trial.candidate.precision
    bounds = Gates().of(precision)
    return _proof(subject.name).sweep(
        trial.encoder, bounds, precision, tables_proven=True, lengths=False, width_tokens=WIDTH_TOKENS
    )


@cache
def _reference(name: str, precision: str) -> Reference:
    """Return a subject's reference with what the precision loses by itself, as an export has it."""
    subject = subject_named(name)
    reference, checkpoint = subject.reference, subject.checkpoint
    rows = reference.token_ids
    if precision == "int8":
        tokenizer, batches = TextTokenizer(checkpoint.tokenizer), list(encoder_batches([len(row) for row in rows]))
        vectors = np.empty_like(reference.vectors)
        padded = (tokenizer.pad([rows[row] for row in batch]) for batch in batches)
        vectors[np.concatenate(batches)] = int8_plan(name).emulate(int8_assignment(name), padded)
        loss: FormatLoss | None = FormatLoss("the emulator of int8", compare(reference.vectors, vectors, rows), vectors)
    else:
        loss = format_loss_of(checkpoint, precision, reference.texts, reference.vectors, rows)
    return reference if loss is None else replace(reference, format_losses={precision: loss})


@cache
def _proof(name: str) -> Proof:
    subject = subject_named(name)
    return Proof(subject.checkpoint, subject.reference.texts, Shapes())


CHECKS: tuple[Callable[[Trial], Check], ...] = (tokenizer, weights, graph, gate, sweep, dataflow, lookup)
"""Asked in this order. What fails is named in the table, by the name of its ``Check``."""


def outcome(trial: Trial, *, every: bool = False) -> str:
    """Return the name of the first check that fails, or of every one; ``"refused"``, or ``"slips"``."""
    failed = (name for check in CHECKS if (name := _failure(check, trial)) is not None)
    if not every:
        return next(failed, SLIPS)
    return ", ".join(dict.fromkeys(failed)) or SLIPS


def _failure(check: Callable[[Trial], Check], trial: Trial) -> str | None:
    try:
        result = check(trial)
    except (BundleError, EngineError):
        return REFUSED
    return None if result.passed else result.name


@contextmanager
def trial_of(subject: Subject, precision: str, fault: Fault | None = None) -> Iterator[Trial]:
    """Export a subject with a fault, or without one, and open it.

    Raises:
        NotApplicableError: There is nothing that the fault could spoil.
    """
    candidate = candidate_of(subject, precision, fault)
    same_graph = fault is None or fault.stage == "tokenizer"
    with encoder_of(candidate, same_graph=same_graph) as encoder:
        yield Trial(candidate, encoder)


def size_in(trial: Trial) -> float:
    """Return how far the fault moves a probe's vector, relative to the sound vector of the same precision."""
    candidate = trial.candidate
    return relative_deviation(trial.vectors, _sound_vectors(candidate.subject.name, candidate.precision))


@cache
def _sound_vectors(name: str, precision: str) -> Vectors:
    with trial_of(subject_named(name), precision) as trial:
        return trial.vectors
