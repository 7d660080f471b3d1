"""report_page(): one HTML page of what was judged or measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from exporter.dependencies import require
from exporter.errors import printable_lines
from exporter.report import int8
from exporter.report.audit import Audit
from exporter.report.comparison import part_of_comparison, search_of, sides_of
from exporter.report.int8 import Int8
from exporter.report.origin import files_of, machine_of, origin_of, versions_of
from exporter.report.parity import Part, Split, check_of, part_of
from exporter.report.tuning import plot_of, refusals_of

if TYPE_CHECKING:
    from jinja2 import Environment

_Model = TypeVar("_Model", bound=BaseModel)
PAGE = "report.html"
"""The name of the page in a bundle."""
SHOWN_FILES = (INT8, AUDIT) = ("int8.json", "fp16.json")
"""The files of a bundle, besides its manifest, that a page shows."""
_PACKAGES = ("jinja2", "matplotlib")


@dataclass(frozen=True)
class PageData:
    """What a page shows. Whatever is empty has no section.

    Attributes:
        reports: Parity reports as JSON data (``ParityReport.to_dict``); the first one gives the page its title.
        checks: Checks of all of them together (``Check.to_dict``).
        compared_with: Whose answers the reports compare with, where that is neither a checkpoint nor a golden file.
        comparison: A comparison of two sides (``Comparison.to_dict``), with its own speed; then there are no reports.
        not_validated: Why the reports are not about the engine of the bundle: no machine has run it yet.
        throughput: What was measured of speed (``Throughput.to_dict``).
        tuning: The engines that were compared, and the one that was published (``Tuned.to_dict``).
        manifest: The manifest of the bundle.
        files: Contents of further files of it, by name: ``SHOWN_FILES`` are shown. They may be a stranger's.
        machine: The machine that judged (``exporter.machine.machine``).
        tools: Its versions (``exporter.machine.tool_versions``).
        command: The command that made the page.
        date: When it was made, ISO 8601.
        split: The tokenizer of what was judged.
    """

    reports: Sequence[Mapping[str, Any]] = ()
    checks: Sequence[Mapping[str, Any]] = ()
    compared_with: str | None = None
    comparison: Mapping[str, Any] | None = None
    not_validated: str | None = None
    throughput: Mapping[str, Any] | None = None
    tuning: Mapping[str, Any] | None = None
    manifest: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    date: str | None = None
    split: Split | None = None


def refuse_without_packages() -> None:
    """Refuse to begin what ends in a page, where a page cannot be drawn.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    for package in _PACKAGES:
        require(package, "report")


def report_page(data: PageData) -> bytes:
    """Return the page of what was judged or measured. Equal data give equal bytes.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
        ValueError: There is nothing to show.
    """
    if not data.reports and (data.comparison, data.throughput, data.tuning) == (None, None, None):
        raise ValueError("a page needs a parity report, a comparison, a throughput or engines that were compared")
    parts = [
        part_of(report, f"r{place}-", data.split, data.compared_with)
        for place, report in enumerate(data.reports, start=1)
    ]
    if data.comparison is not None:
        parts = [part_of_comparison(data.comparison)]
    speed = data.throughput if data.comparison is None else data.comparison["speed"]
    passed = all(part.passed for part in parts) and all(check["passed"] for check in data.checks)
    candidates, audit = _read(Int8, data.files.get(INT8)), _read(Audit, data.files.get(AUDIT))
    return _rendered(
        state=_state(data, passed=passed),
        title=_title(parts, data),
        verdict=_verdict(parts, data.checks, speed) if data.tuning is None else data.tuning["sentence"],
        cause=data.not_validated or next((part.cause for part in parts if part.cause), ""),
        parts=parts,
        comparison=_sides(data.comparison),
        together=tuple(map(check_of, data.checks)),
        int8=candidates,
        int8_plot=None if candidates is None else int8.plot_of(candidates),
        audit=audit,
        tuning=None if data.tuning is None else _tuning(data.tuning),
        speed=speed,
        fastest=max((one["sentences_per_s"] for one in (speed or {}).get("subjects", ())), default=1.0),
        origin=_origin(data),
        files=() if data.manifest is None else files_of(data.manifest),
    )


def error_page(subject: str, error: str, *, command: str | None = None, date: str | None = None) -> bytes:
    """Return the page of what could not be judged.

    Args:
        subject: What was to be judged.
        error: Why it could not, and what to do next, on one or more lines.
        command: The command that made the page.
        date: When it was made, ISO 8601.
    """
    first, _, rest = error.partition("\n")
    return _rendered(
        state="not judged",
        title=subject,
        verdict=f"{subject} could not be judged: {first}",
        cause=rest.strip(),
        parts=[],
        origin=_origin(PageData(command=command, date=date)),
    )


_NOTHING = {"comparison": None, "together": (), "int8": None, "audit": None, "tuning": None, "speed": None, "files": ()}


def _rendered(**content: Any) -> bytes:
    text: str = _environment().get_template("page.html.j2").render({**_NOTHING, **content})
    return text.encode("utf-8", "replace")


@cache
def _environment() -> Environment:
    refuse_without_packages()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415 - of jinja2

    def finalize(value: Any) -> Any:
        """Escape the control characters of a text, which turn what is read around; autoescape does the rest."""
        return printable_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["css"] = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return environment


def _state(data: PageData, *, passed: bool) -> str:
    if not data.reports and data.comparison is None:
        return "measured"
    if not passed:
        return "FAILED"
    return "passed" if data.not_validated is None else "not validated"


def _title(parts: Sequence[Part], data: PageData) -> str:
    if parts:
        return parts[0].subject
    if data.tuning is not None:
        return str(data.tuning["winner"])
    return str((data.throughput or {})["subjects"][0]["name"])


def _verdict(parts: Sequence[Part], checks: Sequence[Mapping[str, Any]], throughput: Mapping[str, Any] | None) -> str:
    """Return the one sentence at the top."""
    if not parts:
        return _speed_verdict(throughput or {})
    failed = [part for part in parts if not part.passed]
    if failed:
        others = f" {len(failed)} of {len(parts)} comparisons failed." if len(parts) > 1 else ""
        return f"{failed[0].verdict}{others}"
    wrong = [check for check in checks if not check["passed"]]
    if wrong:
        return f"{parts[0].subject} FAILED by {wrong[0]['name']}: {wrong[0]['failures'][0]}"
    if len(parts) == 1:
        return parts[0].verdict
    return f"{parts[0].subject}: all {len(parts)} comparisons passed ({', '.join(part.execution for part in parts)})."


def _speed_verdict(throughput: Mapping[str, Any]) -> str:
    subjects = throughput["subjects"]
    if throughput["verdict"]:
        return str(throughput["verdict"])
    own = next((one for one in subjects if one["name"] == throughput.get("bundle")), subjects[-1])
    told = f"{own['name']} encodes {own['sentences_per_s']:,.0f} sentences per second"
    if own is subjects[0]:
        return f"{told}."
    return f"{told}, {own['ratio']:.2f} times {subjects[0]['name']}."


def _sides(comparison: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    k = (comparison["search"] or {}).get("k")
    return {"k": k, "search": search_of(comparison), "sides": sides_of(comparison)}


def _tuning(tuning: Mapping[str, Any]) -> dict[str, Any]:
    return {"plot": plot_of(tuning), "refusals": refusals_of(tuning), "conditions": tuning["conditions"]}


def _origin(data: PageData) -> tuple[tuple[str, str], ...]:
    facts = [] if data.manifest is None else list(origin_of(data.manifest))
    facts += [("Probes, SHA-256", str(data.reports[0]["probes_sha256"]))] if data.reports else []
    golden = data.reports[0]["golden"] if data.reports else None
    facts += [("Seal of the golden file", str(golden))] if golden else []
    facts += [("Judged on", machine_of(data.machine))] if data.machine else []
    facts += [("Judged with", versions_of(data.tools))] if data.tools else []
    facts += [("Judged", data.date)] if data.date else []
    facts += [("Command", data.command)] if data.command else []
    return tuple(facts)


def _read(model: type[_Model], content: bytes | None) -> _Model | None:
    """Return what a file of the bundle says; None where it is missing, or written by another version."""
    try:
        return None if content is None else model.model_validate_json(content)
    except ValidationError:
        return None
