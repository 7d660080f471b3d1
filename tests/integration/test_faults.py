"""The validator can fail: every seeded fault is tried at every precision, and the table says what finds it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import astuple
from functools import cache

import pytest

from exporter.engines import backend_of
from exporter.errors import BundleError, EngineError
from exporter.validator import ParityReport
from tests.support.fault_checks import CHECKS, REFUSED, outcome, size_in, trial_of
from tests.support.fault_table import (
    COLUMNS,
    FILE,
    GATE_1,
    NOT_APPLICABLE,
    NOT_TRIED,
    PASSES,
    PROPERTY,
    SLIPS,
    SOUND,
    WRITE,
    Row,
    read_table,
    render,
    sizes,
    slip,
    slipped_by,
)
from tests.support.faults import (
    DENSE,
    MINILM,
    SUBJECTS,
    Fault,
    NotApplicableError,
    Subject,
    faults_of,
    nan_in_one_row,
    row_with_nan,
    subject_named,
)

WRITING = bool(os.environ.get(WRITE))
COMMITTED = {} if WRITING else {(row.model, row.fault): row for row in read_table()}
# Each model takes minutes. The suite tries these; with KORSBERT_FAULT_SUBJECTS=all it tries all of them.
TESTED = SUBJECTS if os.environ.get("KORSBERT_FAULT_SUBJECTS") == "all" else ("demo", DENSE)
INT8_SUBJECTS = ("demo", MINILM)  # those with real weights; calibrating and searching takes most of a minute for each

Record = Callable[[str, object], None]
CASES = [pytest.param(name, fault, id=f"{name}-{fault.name}") for name in TESTED for fault in faults_of(name)]


@pytest.mark.parametrize("name", TESTED)
def test_the_sound_export_passes(name: str, record_property: Record) -> None:
    report, cells, _ = sound_outcomes(name)
    row = Row(*(name, SOUND, "", *cells, *sizes_of(report)))

    record_property(PROPERTY, astuple(row))

    assert [cell for cell in cells if cell not in (PASSES, NOT_TRIED)] == []
    assert WRITING or COMMITTED[name, SOUND].agrees(row, comparable_columns()), (COMMITTED[name, SOUND], row)


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_seeded_fault_is_caught(name: str, fault: Fault, record_property: Record) -> None:
    assert set(sound_outcomes(name)[1]) <= {PASSES, NOT_TRIED}

    row, report = try_fault(subject_named(name), fault)
    record_property(PROPERTY, astuple(row))

    if SLIPS in row.int8:  # only a fault that is smaller than what int8 itself loses
        assert slipped_by(row.int8) < sound_outcomes(name)[2]
    assert not any(SLIPS in cell for cell in (row.fp32, row.fp16, row.bf16)), row
    if report is not None and fault.cause is not None:
        assert report.cause is not None
        assert fault.cause in report.cause
    if report is not None and fault.apply is nan_in_one_row:
        spoiled = subject_named(name).reference.probes[row_with_nan(subject_named(name))]
        assert report.probes[report.worst] == spoiled
        assert " ".join(spoiled.text.split())[:60] in report.failure()
    committed = COMMITTED.get((name, fault.name))
    assert WRITING or (committed is not None and committed.agrees(row, comparable_columns())), (committed, row)


@pytest.mark.skipif(WRITING, reason="being written")
def test_the_committed_table_is_complete_and_in_form() -> None:
    rows = read_table()
    wanted = [(name, fault) for name in SUBJECTS for fault in (SOUND, *(fault.name for fault in faults_of(name)))]

    assert [(row.model, row.fault) for row in rows] == wanted
    assert FILE.read_text(encoding="utf-8") == render(rows, [check.__name__ for check in CHECKS])


@cache
def sound_outcomes(name: str) -> tuple[ParityReport, tuple[str, ...], float]:
    """Return the fp32 report of the sound export, what the checks say at each precision, and int8's largest error."""
    cells, reports = [], []
    for precision in COLUMNS:
        if not is_tried(name, precision):
            cells.append(NOT_TRIED)
            continue
        with trial_of(subject_named(name), precision) as trial:
            found = outcome(trial)
            reports.append(trial.report)
        cells.append(PASSES if found == SLIPS else found)
    return reports[0], tuple(cells), reports[-1].statistics["max_relative_error"]


def is_tried(name: str, precision: str) -> bool:
    """Whether a model is tried in a precision."""
    return precision != "int8" or name in INT8_SUBJECTS


def try_fault(subject: Subject, fault: Fault) -> tuple[Row, ParityReport | None]:
    """Try a fault at every precision; return its row, and the fp32 report where the candidate gave vectors."""
    report, fp32 = tried(subject, fault, "fp32")
    cells = [fp32]
    for precision in COLUMNS[1:]:
        if not is_tried(subject.name, precision):
            cells.append(NOT_TRIED)
        elif fp32.startswith(NOT_APPLICABLE):
            cells.append("n/a")  # the reason once
        elif fault.stage == "folding" and SLIPS not in fp32:
            cells.append(GATE_1)  # an export stops there, before it types anything
        else:
            cells.append(tried(subject, fault, precision)[1])
    return Row(*(subject.name, fault.name, fault.stage, *cells, *sizes_of(report))), report


def tried(subject: Subject, fault: Fault, precision: str) -> tuple[ParityReport | None, str]:
    """Return at fp32 what the gate measured, where the candidate gave vectors, and the cell of the table."""
    try:
        with trial_of(subject, precision, fault) as trial:
            found = outcome(trial, every=WRITING and subject.name == "demo")
            if found == SLIPS:
                found = slip(size_in(trial))
            return (trial.report if precision == "fp32" else None), found
    except NotApplicableError as reason:
        return None, f"{NOT_APPLICABLE}{reason}"
    except (BundleError, EngineError):
        return None, REFUSED


def sizes_of(report: ParityReport | None) -> tuple[str, str]:
    """Return smallest cosine and largest relative error as text, nothing where there is no report."""
    if report is None:
        return "", ""
    return sizes(report.statistics["min_cosine"], report.statistics["max_relative_error"])


@cache
def comparable_columns() -> tuple[str, ...]:
    """Return the columns to compare: bfloat16 is only computed in where the processor has it."""
    backend_of("openvino").check("bf16", "cpu")
    import openvino

    native = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name in COLUMNS if native or name != "bf16")
