"""The validator can fail: every seeded fault is caught at the fp32 gate, and the table says what fp16 lets through."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import astuple
from functools import cache

import pytest

from exporter.errors import BundleError, EngineError
from exporter.recipe import Gates
from exporter.validator import ParityReport, validate
from exporter.validator.gates import judge
from tests.support.fault_table import (
    CAUGHT,
    FILE,
    PASSES,
    PROPERTY,
    REFUSED,
    SLIPS,
    SOUND,
    WRITE,
    Row,
    read_table,
    render,
)
from tests.support.faults import (
    SUBJECTS,
    Candidate,
    Fault,
    NotApplicableError,
    Subject,
    encoder_of,
    faults_of,
    nan_in_one_row,
    row_with_nan,
    sound,
    subject_named,
)

COMMITTED = {(row.model, row.fault): row for row in read_table()}
WRITING = bool(os.environ.get(WRITE))
ROUNDING_MATTERS_BELOW = 0.1  # float16 moves a vector by some 1e-3: a fault larger than this is no closer to its gate

Record = Callable[[str, object], None]
CASES = [pytest.param(name, fault, id=f"{name}-{fault.name}") for name in SUBJECTS for fault in faults_of(name)]


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_sound_export_passes(name: str, record_property: Record) -> None:
    fp32, fp16 = sound_reports(name)
    row = Row.of(name, SOUND, PASSES, PASSES, sizes(fp32))

    record_property(PROPERTY, astuple(row))

    assert fp32.passed, fp32.failure()
    assert fp16.passed, fp16.failure()
    assert WRITING or COMMITTED[name, SOUND].agrees(row), (COMMITTED[name, SOUND], row)


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_seeded_fault_is_caught(name: str, fault: Fault, record_property: Record) -> None:
    assert all(report.passed for report in sound_reports(name))

    row, report = try_fault(subject_named(name), fault)
    record_property(PROPERTY, astuple(row))

    assert row.fp32 in (CAUGHT, REFUSED) or row.fp32.startswith("n/a: ")
    if report is not None and fault.cause is not None:
        assert report.cause is not None
        assert fault.cause in report.cause
    if report is not None and fault.apply is nan_in_one_row:
        spoiled = subject_named(name).reference.probes[row_with_nan(subject_named(name))]
        assert report.probes[report.worst] == spoiled
        assert " ".join(spoiled.text.split())[:60] in report.failure()
    assert WRITING or COMMITTED[name, fault.name].agrees(row), (COMMITTED[name, fault.name], row)


@pytest.mark.skipif(WRITING, reason="being written")
def test_the_committed_table_is_complete_and_in_form() -> None:
    rows = read_table()

    assert [(row.model, row.fault) for row in rows] == every_row()
    assert FILE.read_text(encoding="utf-8") == render(rows)


def every_row() -> list[tuple[str, str]]:
    """Return model and fault of every row of the table, in order."""
    return [(name, fault) for name in SUBJECTS for fault in (SOUND, *(fault.name for fault in faults_of(name)))]


@cache
def sound_reports(name: str) -> tuple[ParityReport, ParityReport]:
    """Return what the fp32 gate says to the sound fp32 export, and the fp16 gate to the sound fp16 one."""
    return judged(sound(subject_named(name)), "fp32"), judged(sound(subject_named(name)), "fp16")


def try_fault(subject: Subject, fault: Fault) -> tuple[Row, ParityReport | None]:
    """Make a fault in the float32 graph, and in the float16 graph where its effect is small; judge each at its gate."""
    try:
        report, fp32 = tried(subject, fault, "fp32")
    except NotApplicableError as reason:
        return Row.of(subject.name, fault.name, f"n/a: {reason}", "n/a", None), None
    if report is None or report.statistics["max_relative_error"] < ROUNDING_MATTERS_BELOW:
        _, fp16 = tried(subject, fault, "fp16")
    else:
        verdicts = judge(report.parity, report.batch_deviation, (), Gates().fp16)
        fp16 = SLIPS if all(verdict.passed for verdict in verdicts) else CAUGHT
    return Row.of(subject.name, fault.name, fp32, fp16, None if report is None else sizes(report)), report


def tried(subject: Subject, fault: Fault, precision: str) -> tuple[ParityReport | None, str]:
    """Return report and verdict; no report where something refuses the candidate."""
    candidate = sound(subject)
    if not fault.typed:
        fault.apply(candidate)
    try:
        report = judged(candidate, precision, typed_fault=fault if fault.typed else None)
    except Refusal:
        return None, REFUSED
    return report, SLIPS if report.passed else CAUGHT


class Refusal(Exception):  # noqa: N818 - an outcome, and no error of this file's
    """The encoder or the engine stopped at a candidate."""


def judged(candidate: Candidate, precision: str, typed_fault: Fault | None = None) -> ParityReport:
    """Type a candidate's graph and judge it at the default gate of that precision."""
    subject = candidate.subject
    with encoder_of(candidate, precision, typed_fault=typed_fault) as encoder:
        try:
            return validate(subject.reference, encoder, Gates().of(precision), f"{subject.name} {precision}")
        except (BundleError, EngineError) as error:
            raise Refusal from error


def sizes(report: ParityReport) -> tuple[float, float]:
    """Return smallest cosine and largest relative error."""
    return report.statistics["min_cosine"], report.statistics["max_relative_error"]
