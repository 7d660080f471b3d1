"""A parity report as Markdown, for ``$GITHUB_STEP_SUMMARY`` and comments on merge requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.errors import ExportError
from exporter.validator.check import Check
from exporter.validator.gates import significant
from exporter.validator.report import ParityReport

WORST = 5
_SHOWN = 80  # characters of a sentence
_ESCAPED = {ord(sign): f"&#{ord(sign)};" for sign in "&<>\\`*_[]|~#"}


def markdown_of(
    reports: Sequence[ParityReport],
    checks: Sequence[Check] = (),
    *,
    baseline: Mapping[str, Any] | None = None,
    made_on: Mapping[str, Any],
) -> str:
    """Return verdicts, checks, the worst sentences, and what has changed since a baseline.

    Args:
        reports: One or more.
        checks: Of all of them together.
        baseline: An earlier report as JSON data (``ParityReport.to_dict``), to compare the first one with.
        made_on: Machine and versions, by name.
    """
    sections = [section for report in reports for section in _sections_of(report)]
    if checks:
        sections.append(_table(("check", "result", "coverage"), map(_row_of_check, checks)))
    if baseline is not None:
        sections += _changes(reports[0], baseline)
    sections.append("<sub>" + _cell(", ".join(f"{name} {value}" for name, value in made_on.items())) + "</sub>")
    return "\n\n".join(sections) + "\n\n"


def markdown_of_error(subject: str, error: ExportError) -> str:
    """Return what could not be judged, and why."""
    return f"### ⚠️ {_cell(subject)}: could not be judged\n\n{_cell(str(error))}\n\n"


def _sections_of(report: ParityReport) -> Iterator[str]:
    yield f"### {'✅' if report.passed else '❌'} {_cell(report.subject)}: {'passed' if report.passed else 'FAILED'}"
    if not report.passed:
        yield "```text\n" + report.failure().replace("```", "'''") + "\n```"
    yield f"{_cell(report.coverage)}, {_cell(report.execution)}"
    verdicts = (
        ("passed" if one.passed else "**FAILED**", one.name, significant(one.value), f"{one.relation} {one.bound:.6g}")
        for one in report.verdicts
    )
    yield _table(("result", "bound", "measured", "limit"), verdicts)
    if report.checks:
        yield _table(("check", "result", "coverage"), map(_row_of_check, report.checks))
    yield f"The {WORST} sentences with the smallest cosine:"
    yield _table(("cosine", "relative error", "tokens", "sentence"), _worst(report))


def _worst(report: ParityReport) -> Iterator[tuple[str, ...]]:
    order = np.argsort(np.nan_to_num(report.parity.cosine, nan=-np.inf), kind="stable")[:WORST]
    for row in order.tolist():
        text = " ".join(report.probes[row].text.split())
        yield (
            significant(float(report.parity.cosine[row])),
            f"{report.parity.relative_error[row]:.2g}",
            str(report.tokens[row]),
            f"{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}",
        )


def _row_of_check(check: Check) -> tuple[str, ...]:
    told = check.coverage if check.passed else "; ".join(check.failures)
    return check.name, "**FAILED**" if check.result == "FAILED" else check.result, told


def _changes(report: ParityReport, baseline: Mapping[str, Any]) -> Iterator[str]:
    before = baseline["statistics"]
    rows = [
        (name, _figure(before.get(name)), _figure(value))
        for name, value in report.statistics.items()
        if before.get(name) != value
    ]
    yield "Since the baseline:" if rows else "No figure has changed since the baseline."
    if rows:
        yield _table(("figure", "baseline", "now"), rows)


def _figure(value: Any) -> str:
    return significant(float(value)) if isinstance(value, int | float) else "unknown"


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return a text that Markdown shows as it is, in a cell of a table too; what was marked bold stays so."""
    bold = text.startswith("**") and text.endswith("**") and len(text) > 4
    plain = " ".join((text.strip("*") if bold else text).translate(_ESCAPED).split())
    return f"**{plain}**" if bold else plain
