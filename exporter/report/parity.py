"""The sections of one parity report: verdict, gates, coverage, the worst sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.report.numbers import count, figure, plural, small
from exporter.report.plots import plots_of
from exporter.report.svg import Plot

Split = Callable[[str], Sequence[str]]
"""Returns the tokens of a text, with the prompt that is put before it, as a reader can read them."""

_CAUSES = {"facts", "tokenizer", "weights", "graph"}
"""Checks that say why vectors differ, where they fail."""
_LONG = 240  # characters of a failure: of a longer one, the details are only in the table of checks
_TOKENS = 40  # of a sentence
_SHOWN = 280  # characters of a sentence


@dataclass(frozen=True)
class Gate:
    """A bound: what was measured, and how much of what it allows is used up."""

    name: str
    passed: bool
    measured: str
    bound: str
    used: str
    share: float
    relative_to: str


@dataclass(frozen=True)
class Sentence:
    """One of the sentences that differ most."""

    text: str
    kind: str
    length: int | None
    cosine: str
    distance: str
    error: str
    tokens: tuple[str, ...]
    more: int


@dataclass(frozen=True)
class Part:
    """One parity report, as the page shows it."""

    prefix: str
    subject: str
    passed: bool
    verdict: str
    cause: str
    execution: str
    figures: tuple[tuple[str, str], ...]
    gates: tuple[Gate, ...]
    checks: tuple[tuple[str, str, str], ...]
    coverage: str
    kinds: tuple[tuple[str, str, str, str], ...]
    plots: tuple[Plot, ...]
    sentences: tuple[Sentence, ...]
    scores: tuple[tuple[str, str, str, str], ...]


def part_of(report: Mapping[str, Any], prefix: str, split: Split | None, compared_with: str | None = None) -> Part:
    """Return what the page shows of ``ParityReport.to_dict()``.

    Args:
        report: The report.
        prefix: Begins the ids of its elements.
        split: The tokenizer of what was judged, where it is known.
        compared_with: Whose answers it was compared with, where the report does not say.
    """
    statistics = report["statistics"]
    return Part(
        prefix=prefix,
        subject=report["subject"],
        passed=report["passed"],
        verdict=verdict_of(report, compared_with),
        cause=_cause(report),
        execution=report["execution"],
        figures=(
            ("smallest cosine", figure(statistics["min_cosine"])),
            ("mean cosine", figure(statistics["mean_cosine"])),
            ("largest relative error", small(statistics["max_relative_error"])),
            ("same ten neighbors", _percent(statistics["mean_neighbor_overlap"])),
        ),
        gates=tuple(map(gate_of, report["verdicts"])),
        checks=tuple(map(check_of, report["checks"])),
        coverage=_coverage(report),
        kinds=tuple(_kinds(report["rows"])),
        plots=tuple(plots_of(report, prefix)),
        sentences=tuple(_sentence(one, split) for one in report["worst_sentences"]),
        scores=tuple(map(score_of, report["sts"])),
    )


def verdict_of(report: Mapping[str, Any], compared_with: str | None = None) -> str:
    """Return in one sentence what was compared with what, whether it passed, and by what it failed."""
    against = compared_with or ("the answers in a golden file" if report["golden"] else "its PyTorch checkpoint")
    begin = f"{report['subject']}, compared with {against} on {plural(len(report['rows']), 'probe')},"
    bounds, checks = report["verdicts"], [check for check in report["checks"] if check["compared"]]
    missed = [verdict for verdict in bounds if not verdict["passed"]]
    failed = [check["name"] for check in checks if not check["passed"]]
    if not missed and not failed:
        skipped = len(report["checks"]) - len(checks)
        left = f"; {plural(skipped, 'check')} {'was' if skipped == 1 else 'were'} skipped" if skipped else ""
        return f"{begin} passed: {plural(len(bounds), 'bound')} and {plural(len(checks), 'check')} hold{left}."
    told = []
    if missed:
        others = f" and {plural(len(missed) - 1, 'other bound')}" if len(missed) > 1 else ""
        told.append(f"{_missed(missed[0])}{others}")
    if failed:
        told.append(f"the {_listed(failed)} check{'s' if len(failed) > 1 else ''}")
    return f"{begin} FAILED by {' and by '.join(told)}."


def _missed(verdict: Mapping[str, Any]) -> str:
    sign = "<" if verdict["relation"] == ">=" else ">"
    return f"{verdict['name']} ({figure(verdict['value'])} {sign} {figure(verdict['bound'])})"


def _listed(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def _cause(report: Mapping[str, Any]) -> str:
    """Return the cause in one sentence. What a check has compared completely is known; the rest is a guess."""
    failed = [check for check in report["checks"] if check["failures"]]
    if found := [check for check in failed if check["name"] in _CAUSES] or ([] if report["cause"] else failed):
        failure = found[0]["failures"][0]
        told = failure if len(failure) <= _LONG else failure.partition(": ")[0]
        return f"Cause: {found[0]['name']}: {told}"
    return f"Likely cause: {report['cause']}" if report["cause"] else ""


def score_of(score: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return name, pairs, and the Spearman of reference and candidate of a task."""
    reference, candidate = (
        figure(None) if value is None else f"{value:.2f}"
        for value in (score["reference_spearman"], score["candidate_spearman"])
    )
    return score["name"], count(score["pairs"]), reference, candidate


def gate_of(verdict: Mapping[str, Any]) -> Gate:
    """Return what the page shows of a verdict."""
    share = _share_used(verdict)
    return Gate(
        name=verdict["name"],
        passed=verdict["passed"],
        measured=figure(verdict["value"]),
        bound=f"{'≥' if verdict['relation'] == '>=' else '≤'} {figure(verdict['bound'])}",
        used="none" if share == 0 else _percent_used(share),
        share=min(share, 1.0),
        relative_to=verdict["relative_to"] or "",
    )


def _share_used(verdict: Mapping[str, Any]) -> float:
    """Return what is used up of what a bound allows: above 1 it is missed. Ideal is 1 for ``>=``, and 0 for ``<=``."""
    value, bound = verdict["value"], verdict["bound"]
    if value is None or bound is None:
        return math.inf
    lost, allowed = (1 - value, 1 - bound) if verdict["relation"] == ">=" else (value, bound)
    if allowed <= 0:
        return 0.0 if verdict["passed"] else math.inf
    return float(max(lost, 0.0) / allowed)


def _percent_used(share: float) -> str:
    if math.isinf(share):
        return "beyond"
    if share < 0.001:
        return "< 0.1%"
    if share < 2:
        return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
    return f"{share:.1f}×" if share < 10 else f"{share:,.0f}×"


def _percent(value: float | None) -> str:
    return f"{value:.1%}" if value is not None else figure(None)


def check_of(check: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the name of a check, its result, and what it covered or what is wrong."""
    result = "skipped" if not check["compared"] else "passed" if check["passed"] else "FAILED"
    failures = "; ".join(check["failures"])
    told = f"{failures}. Covered: {check['coverage']}" if failures else check["coverage"]
    return check["name"], result, told


def _coverage(report: Mapping[str, Any]) -> str:
    rows = report["rows"]
    edge = sum(row["kind"].startswith("edge:") for row in rows)
    kinds = len({row["kind"] for row in rows if not row["kind"].startswith("edge:")})
    return (
        f"{report['probes']}: {plural(len(rows) - edge, 'text')} of {plural(kinds, 'kind')}, and "
        f"{plural(edge, 'edge case')}. Judged from string to vector on {report['execution']}."
    )


def _kinds(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Return kind, probes, tokens and largest 1 - cosine of each kind, the farthest first."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    found = []
    for kind, members in by_kind.items():
        tokens, cosines = [row["tokens"] for row in members], [row["cosine"] for row in members]
        span = count(min(tokens)) if min(tokens) == max(tokens) else f"{count(min(tokens))}–{count(max(tokens))}"
        worst = None if None in cosines else min(cosines)
        told = small(None if worst is None else max(1 - worst, 0.0))
        found.append((-math.inf if worst is None else worst, kind, count(len(members)), span, told))
    return [(kind, number, span, told) for _, kind, number, span, told in sorted(found)]


def shown(text: str) -> str:
    """Return the beginning of a text, in one line."""
    line = " ".join(text.split())
    return f"{line[:_SHOWN]}…" if len(line) > _SHOWN else line


def _sentence(one: Mapping[str, Any], split: Split | None) -> Sentence:
    tokens = list(split(one["text"])) if split is not None else []
    cosine = one["cosine"]
    return Sentence(
        text=shown(one["text"]),
        kind=one["kind"],
        length=one["tokens"],
        cosine=figure(cosine),
        distance=small(None if cosine is None else max(1 - cosine, 0.0)),
        error=small(one["relative_error"]),
        tokens=tuple(tokens[:_TOKENS]),
        more=max(0, one["tokens"] - _TOKENS) if tokens else 0,
    )
