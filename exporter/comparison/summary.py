"""A comparison as Markdown, for ``$GITHUB_STEP_SUMMARY`` and comments on merge requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from exporter.comparison.report import Comparison, Overlap, Side
from exporter.validator.gates import significant
from exporter.validator.summary import FAILED, cell, row_of_check, table


def markdown_of_comparison(comparison: Comparison, made_on: Mapping[str, Any]) -> str:
    """Return the answer, both sides, what searches found, verdicts and checks, and the rows that differ most.

    Args:
        comparison: What was compared.
        made_on: Machine and versions, by name.
    """
    sections = [*_sections_of(comparison)]
    sections.append("<sub>" + cell(", ".join(f"{name} {value}" for name, value in made_on.items())) + "</sub>")
    return "\n\n".join(sections) + "\n\n"


def _sections_of(comparison: Comparison) -> Iterator[str]:
    yield f"### {'✅' if comparison.passed else '❌'} {cell(comparison.sentence)}"
    yield table(("", "A", "B"), rows_of_sides(comparison))
    yield table(("search", "mean overlap", "smallest"), rows_of_search(comparison))
    verdicts = ((FAILED if result == "FAILED" else result, *rest) for result, *rest in rows_of_verdicts(comparison))
    yield table(("result", "bound", "measured", "limit"), verdicts)
    yield table(("check", "result", "coverage"), map(row_of_check, comparison.checks))
    for note in comparison.notes:
        yield cell(note)
    parity = comparison.parity
    if parity is not None:
        yield "The rows with the smallest cosine:"
        worst = ((significant(float(parity.cosine[row])), comparison.label(row)) for row in comparison.worst)
        yield table(("cosine", "text"), worst)


def rows_of_sides(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return what is known of both sides: name, A, B."""
    a, b = _facts_of(comparison.a), _facts_of(comparison.b)
    rows = [(name, a[name], b[name]) for name in a]
    if comparison.speed is not None:
        first, second = comparison.speed.subjects
        rows.append(("sentences/s", f"{first.sentences_per_s:.0f}", f"{second.sentences_per_s:.0f}"))
        rows.append(("p50 ms of one sentence", f"{first.p50_ms:.2f}", f"{second.p50_ms:.2f}"))
        rows.append(("speed relative to A", "1.00x", f"{second.ratio:.2f}x"))
    for score in comparison.sts:
        name = f"Spearman on {score.name}"
        rows.append((name, f"{score.reference_spearman:.2f}", f"{score.candidate_spearman:.2f}"))
    return [row for row in rows if (row[1], row[2]) != ("", "")]


def rows_of_search(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return what searches found: name, mean, smallest."""
    search = comparison.search
    found: dict[str, Overlap | None] = {
        "stored with A, searched with B": search.a_searched_with_b,
        "stored with B, searched with A": search.b_searched_with_a,
        "A in A, B in B": search.within,
    }
    return [
        (name, "impossible", "") if one is None else (name, significant(one.mean), f"{one.min:.2g}")
        for name, one in found.items()
    ]


def rows_of_verdicts(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    """Return the verdicts: result, bound, what was measured, limit."""
    return [
        (
            "passed" if one.passed else "FAILED",
            one.name,
            significant(one.value),
            f"{one.relation} {significant(one.bound)}",
        )
        for one in comparison.verdicts
    ]


def _facts_of(side: Side) -> dict[str, str]:
    stated = "not stated" if side.precision is None else f"states {side.precision}"
    precision = str(side.judged_as) if side.precision == side.judged_as else f"{side.judged_as} ({stated})"
    smallest, mean, largest = side.norms or (0.0, 0.0, 0.0)
    return {
        "given": side.given,
        "what it is": side.told,
        "judged as": precision,
        "vectors": f"{side.dimension} dimensions, {side.dtype}",
        "length of vectors": f"{mean:.4g} ({smallest:.4g} to {largest:.4g})",
        "size on disk": "" if side.size_bytes is None else f"{side.size_bytes / 1e6:.1f} MB",
    }
