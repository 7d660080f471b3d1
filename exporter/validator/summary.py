"""A parity report as Markdown, for ``$GITHUB_STEP_SUMMARY`` and comments on merge requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from exporter.errors import ExportError, printable
from exporter.validator.check import Check
from exporter.validator.gates import significant
from exporter.validator.report import ParityReport

WORST = 5
_SHOWN = 80  # characters of a sentence
_MOST = 1000  # of a cell
FAILED = "FAILED "  # compared by identity: a sentence may be any text
_ESCAPED = {ord(sign): f"&#{ord(sign)};" for sign in "&<>\\`*_[]|~#:$"}


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
        failed = not all(check.passed for check in checks)
        sections.append(f"### {'❌ all together: FAILED' if failed else '✅ all together: passed'}")
        sections.append(table(("check", "result", "coverage"), map(row_of_check, checks)))
    if baseline is not None:
        sections += _changes(reports[0], baseline)
    sections.append("<sub>" + cell(", ".join(f"{name} {value}" for name, value in made_on.items())) + "</sub>")
    return "\n\n".join(sections) + "\n\n"


def markdown_of_error(subject: str, error: ExportError) -> str:
    """Return what could not be judged, and why."""
    return f"### ⚠️ {cell(subject)}: could not be judged\n\n{cell(str(error))}\n\n"


def _sections_of(report: ParityReport) -> Iterator[str]:
    yield f"### {'✅' if report.passed else '❌'} {cell(report.subject)}: {'passed' if report.passed else 'FAILED'}"
    if not report.passed:
        yield "```text\n" + report.failure().replace("```", "'''") + "\n```"
    yield f"{cell(report.coverage)}, {cell(report.execution)}"
    verdicts = (
        ("passed" if one.passed else FAILED, one.name, significant(one.value), f"{one.relation} {one.bound:.6g}")
        for one in report.verdicts
    )
    yield table(("result", "bound", "measured", "limit"), verdicts)
    if report.checks:
        yield table(("check", "result", "coverage"), map(row_of_check, report.checks))
    yield f"The {WORST} sentences with the smallest cosine:"
    yield table(("cosine", "relative error", "tokens", "sentence"), _worst(report))


def _worst(report: ParityReport) -> Iterator[tuple[str, ...]]:
    for row in report.worst_rows(WORST):
        text = " ".join(report.probes[row].text.split())
        yield (
            significant(float(report.parity.cosine[row])),
            f"{report.parity.relative_error[row]:.2g}",
            str(report.tokens[row]),
            f"{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}",
        )


def row_of_check(check: Check) -> tuple[str, ...]:
    """Return the cells of a check: name, result, coverage or what is wrong."""
    told = check.coverage if check.passed else "; ".join(check.failures)
    return check.name, FAILED if check.result == "FAILED" else check.result, told


def _changes(report: ParityReport, baseline: Mapping[str, Any]) -> Iterator[str]:
    if baseline.get("probes_sha256") != report.probes_sha256:
        yield "The baseline was judged on other probes, and is not compared."
        return
    before, now = baseline["statistics"], report.statistics
    rows = [(name, _figure(before.get(name)), _figure(now.get(name))) for name in {**before, **now}]
    changed = [row for row in rows if row[1] != row[2]]
    yield "Since the baseline:" if changed else "No figure has changed since the baseline."
    if changed:
        yield table(("figure", "baseline", "now"), changed)


def _figure(value: Any) -> str:
    try:
        return significant(float(value))
    except (TypeError, ValueError, OverflowError):
        return "unknown"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown. Its cells are shown as they are."""
    lines = [header, ["---"] * len(header), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Return a text that Markdown shows as it is, in a cell of a table too; ``FAILED`` is bold."""
    if text is FAILED:
        return "**FAILED**"
    plain = printable(" ".join(text.split()), _MOST).translate(_ESCAPED)
    return plain.replace("@", "@\u200b")  # nobody is mentioned
