"""A comparison of two sides (``korsbert compare``) as a part of the page, and the table of its sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.report.numbers import bytes_size, figure, plural, small
from exporter.report.parity import Part, Sentence, check_of, gate_of, score_of, shown
from exporter.report.plots import plots_of

Rows = tuple[tuple[str, str, str], ...]


def part_of_comparison(comparison: Mapping[str, Any]) -> Part:
    """Return what the page shows of ``Comparison.to_dict()``."""
    failures = [failure for check in comparison["checks"] for failure in check["failures"]]
    return Part(
        prefix="compare-",
        subject=f"{comparison['a']['given']} and {comparison['b']['given']}",
        passed=comparison["passed"],
        verdict=comparison["sentence"],
        cause=failures[0] if failures and not comparison["passed"] else "",
        execution=f"{comparison['a']['given']} against {comparison['b']['given']}",
        figures=_figures(comparison),
        gates=tuple(map(gate_of, comparison["verdicts"])),
        checks=tuple(map(check_of, comparison["checks"])),
        coverage=" ".join((_coverage(comparison["text"]), *comparison["notes"])),
        kinds=(),
        plots=tuple(plots_of(comparison, "compare-")) if comparison["rows"] else (),
        sentences=tuple(
            Sentence(
                text=shown(one["label"]),
                kind="",
                length=None,
                cosine=figure(one["cosine"]),
                distance=small(None if one["cosine"] is None else max(1 - one["cosine"], 0.0)),
                error=small(one["relative_error"]),
                tokens=(),
                more=0,
            )
            for one in comparison["worst"]
        ),
        scores=tuple(map(score_of, comparison["sts"])),
    )


def sides_of(comparison: Mapping[str, Any]) -> Rows:
    """Return the facts of both sides: name, A, B."""
    a, b = comparison["a"], comparison["b"]
    rows = [(name, _text(a[key]), _text(b[key])) for name, key in _FACTS.items()]
    rows.append(("size", _size(a["size_bytes"]), _size(b["size_bytes"])))
    rows.append(("mean length of a vector", _length(a["norm"]), _length(b["norm"])))
    return tuple(row for row in rows if row[1:] != (_UNKNOWN, _UNKNOWN))


def search_of(comparison: Mapping[str, Any]) -> Rows:
    """Return what becomes of a search: direction, mean and smallest overlap of the nearest."""
    search = comparison["search"]
    if search is None:
        return ()
    directions = {
        "stored with A, asked with B": search["a_searched_with_b"],
        "stored with B, asked with A": search["b_searched_with_a"],
        "stored and asked with one side, A against B": search["within"],
    }
    return tuple(
        (name, figure(overlap["mean"]), figure(overlap["min"]))
        for name, overlap in directions.items()
        if overlap is not None
    )


_UNKNOWN = "unknown"
_FACTS = {
    "what": "told",
    "kind": "kind",
    "precision": "precision",
    "judged by the gate of": "judged_as",
    "numbers": "dtype",
    "dimensions": "dimension",
    "runs on": "execution",
    "checkpoint": "checkpoint",
    "seal": "bundle",
}


def _figures(comparison: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    search, statistics = comparison["search"], comparison["statistics"]
    found = []
    if search is not None and search["a_searched_with_b"] is not None:
        found.append((f"top-{search['k']} overlap", figure(search["a_searched_with_b"]["mean"])))
    if statistics is not None:
        found.append(("smallest cosine", figure(statistics["min_cosine"])))
        found.append(("mean cosine", figure(statistics["mean_cosine"])))
        found.append(("largest relative error", small(statistics["max_relative_error"])))
    return tuple(found)


def _coverage(text: Mapping[str, Any]) -> str:
    return f"{plural(text['rows'], 'row')} of {text['source']}, matched by {text['matched_by']}."


def _text(value: Any) -> str:
    return _UNKNOWN if value is None else str(value)


def _length(norm: Mapping[str, Any] | None) -> str:
    return _UNKNOWN if norm is None else small(norm["mean"])


def _size(size: int | None) -> str:
    return _UNKNOWN if size is None else bytes_size(size)
