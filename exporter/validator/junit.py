"""JUnit XML of parity reports, and of what went wrong before there was one: CI systems show it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Protocol

from exporter.errors import ExportError
from exporter.validator.check import Check
from exporter.validator.gates import Verdict


class Judged(Protocol):
    """What was judged: a parity report, or a comparison."""

    @property
    def subject(self) -> str:
        """What it is about."""
        ...

    @property
    def verdicts(self) -> Sequence[Verdict]:
        """One per bound."""
        ...

    @property
    def checks(self) -> Sequence[Check]:
        """What was checked besides."""
        ...

    def failure(self) -> str:
        """Describe what was missed."""
        ...


def junit_of(reports: Sequence[Judged], checks: Sequence[Check] = (), seconds: float = 0.0) -> bytes:
    """Return a suite for each report, with a case for each bound and each check.

    The first bound that was missed has the whole failure with its likely cause, the others have their own line.

    Args:
        reports: One or more.
        checks: Of all of them together; a suite of their own.
        seconds: Of the whole command.
    """
    suites = [_suite_of(report) for report in reports]
    if checks:
        suites.append(_suite("all", [_case_of_check("all", check) for check in checks]))
    return _document(suites, seconds)


def junit_of_error(subject: str, error: ExportError, seconds: float = 0.0) -> bytes:
    """Return a suite with one case, which could not be judged.

    Args:
        subject: What was to be judged.
        error: Why it could not.
        seconds: Of the whole command.
    """
    case = ET.Element("testcase", classname=_text(subject), name="can be judged")
    ET.SubElement(case, "error", type=type(error).__name__, message=_text(error.message)).text = _text(str(error))
    return _document([_suite(subject, [case])], seconds)


def _suite_of(report: Judged) -> ET.Element:
    cases, told = [], False
    for verdict in report.verdicts:
        cases.append(_case_of_verdict(report, verdict, whole=not told))
        told = told or not verdict.passed
    return _suite(report.subject, [*cases, *(_case_of_check(report.subject, check) for check in report.checks)])


def _case_of_verdict(report: Judged, verdict: Verdict, *, whole: bool) -> ET.Element:
    case = ET.Element("testcase", classname=_text(report.subject), name=_text(verdict.name))
    if verdict.passed:
        ET.SubElement(case, "system-out").text = _text(str(verdict))
    else:
        failure = ET.SubElement(case, "failure", message=_text(str(verdict)))
        failure.text = _text(report.failure() if whole else str(verdict))
    return case


def _case_of_check(subject: str, check: Check) -> ET.Element:
    case = ET.Element("testcase", classname=_text(subject), name=_text(check.name))
    if not check.compared:
        ET.SubElement(case, "skipped", message=_text(check.coverage))
        return case
    if not check.passed:
        ET.SubElement(case, "failure", message=_text(check.failures[0])).text = _text("\n".join(check.failures))
    ET.SubElement(case, "system-out").text = _text(check.coverage)
    return case


def _suite(name: str, cases: Sequence[ET.Element]) -> ET.Element:
    def count(tag: str) -> str:
        return str(sum(case.find(tag) is not None for case in cases))

    suite = ET.Element(
        "testsuite",
        name=_text(name),
        tests=str(len(cases)),
        failures=count("failure"),
        errors=count("error"),
        skipped=count("skipped"),
    )
    suite.extend(cases)
    return suite


def _document(suites: Sequence[ET.Element], seconds: float) -> bytes:
    if len(suites) == 1:
        (root,) = suites
    else:
        root = ET.Element("testsuites")
        root.extend(suites)
    root.set("time", f"{seconds:.1f}")
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


_REFUSED = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # by XML 1.0


def _text(text: str) -> str:
    """Return a text without the characters that XML cannot hold."""
    return _REFUSED.sub("\ufffd", text)
