"""Rows that belong together to searches, statistics, verdicts and checks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from exporter.comparison.bounds import pair_gate
from exporter.comparison.options import CompareOptions
from exporter.comparison.report import Overlap, SearchResult, Side
from exporter.comparison.rows import Compared
from exporter.comparison.search import Index, Metric, overlap
from exporter.comparison.stored import kind_of
from exporter.errors import InputError
from exporter.recipe import Gate
from exporter.runtime.vector_types import Vectors
from exporter.validator import Check
from exporter.validator.gates import Verdict, judge
from exporter.validator.parity import Parity, compare, relative_deviation
from exporter.validator.sts import StsScore

QUERIES = 2000
"""Texts that are searched for, evenly spread, at most: the mean of so many overlaps is exact to a few thousandths."""
_FEWEST = 5  # times as many texts as nearest ones: among fewer, chance finds many of them
_LONGEST = 1e15
_UNIT = 1e-3  # a vector whose length is nearer to 1 is normalized


@dataclass(frozen=True)
class Judgement:
    """What a comparison came to; see ``Comparison``."""

    parity: Parity | None
    search: SearchResult
    verdicts: tuple[Verdict, ...]


def mismatch(a: Side, b: Side) -> str | None:
    """Return why vectors of two sides cannot be compared number by number, or None."""
    if a.dimension is not None and b.dimension is not None and a.dimension != b.dimension:
        return f"A has vectors of {a.dimension:,} dimensions, and B of {b.dimension:,}"
    if kind_of(a.dtype) != kind_of(b.dtype):
        return f"A holds {a.dtype}, and B {b.dtype}"
    return None


def usable_rows(rows: Compared) -> tuple[Compared, Check, list[str]]:
    """Return the rows that can be compared, a check that none has NaN, Inf or an impossible length, and notes.

    Vectors of zeros on both sides agree, and are near to nothing: they are left out.
    """
    sides = dict(zip(("A", "B"), zip(rows.documents, rows.queries, strict=True), strict=True))
    bad = {name: np.logical_or.reduce([_unusable(each) for each in both]) for name, both in sides.items()}
    failures = tuple(
        f"{name} has NaN, Inf or impossible lengths in {int(each.sum()):,} rows"
        for name, each in bad.items()
        if each.any()
    )
    check = Check("finite", f"{rows.text.rows:,} rows of A and of B", failures)
    zero = [~documents.any(axis=1) for documents in rows.documents]
    left_out = bad["A"] | bad["B"] | (zero[0] & zero[1])
    notes = [
        f"{name} has vectors of zeros in {int(each.sum()):,} rows, which are near to nothing"
        for name, each in zip(sides, zero, strict=True)
        if each.any()
    ]
    return (rows.only(np.flatnonzero(~left_out)) if left_out.any() else rows), check, notes


def _unusable(vectors: Vectors) -> np.ndarray:
    """Return (rows,) whether a row has NaN or Inf, or a length that float32 cannot square."""
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        usable = (norms == 0) | ((norms >= 1 / _LONGEST) & (norms <= _LONGEST))
    return np.asarray(~usable)  # a NaN compares as neither


def judged(
    rows: Compared, a: Side, b: Side, gates: tuple[Gate, Gate], metric: Metric, options: CompareOptions
) -> Judgement:
    """Search, compare and judge.

    Args:
        rows: Without NaN and Inf.
        a: What A is.
        b: What B is.
        gates: The bounds of A and of B against their checkpoint.
        metric: How vectors are compared.
        options: ``k`` and the least overlap.

    Raises:
        InputError: There are too few rows for ``k``, or no bound of the overlap.
    """
    if rows.text.rows < _FEWEST * options.k:
        raise InputError(
            f"there are {rows.text.rows:,} texts to compare, and the {options.k} nearest among so few say nothing",
            next_step=f"give {_FEWEST * options.k} texts or more, or a smaller `k`",
        )
    gate = pair_gate(*gates)
    same = mismatch(a, b) is None
    search = searched(rows, options.k, metric, crossed=same)
    if not same:
        return Judgement(None, search, ())
    of_numbers = kind_of(a.dtype) == "numbers"
    documents, queries = (_scaled(pair, metric) for pair in (rows.documents, rows.queries))
    ids = [[row] for row in range(rows.text.rows)]
    parity = compare(*documents, ids)
    verdicts = list(_of_search(search, gate, a, b, options.min_overlap))
    if of_numbers:
        verdicts += _of_parity(parity, gate, metric)
        if rows.queries is not rows.documents:
            of_queries = _of_parity(compare(*queries, ids), gate, metric)
            verdicts += [replace(one, name=f"{one.name} of queries") for one in of_queries]
    else:
        verdicts += _of_stored(rows, a, gate)
    return Judgement(parity, search, tuple(verdicts))


def searched(rows: Compared, k: int, metric: Metric, *, crossed: bool) -> SearchResult:
    """Search the texts with each side in each side.

    Args:
        rows: What to search for, and in.
        k: How many nearest.
        metric: How vectors are compared.
        crossed: Whether a query of one side can be compared with vectors of the other.
    """
    count = rows.text.rows
    own = np.arange(min(count, QUERIES)) * count // min(count, QUERIES)
    corpora = [Index(documents, metric) for documents in rows.documents]
    queries = [side[own] for side in rows.queries]
    alone = [corpus.nearest(asked, own, k) for corpus, asked in zip(corpora, queries, strict=True)]

    def across(stored: int, asked: int) -> Overlap:
        found = corpora[stored].nearest(queries[asked], own, k)
        return _overlap(overlap(corpora[stored], queries[stored], own, alone[stored], found.rows))

    return SearchResult(
        k,
        len(own),
        count,
        metric,
        across(0, 1) if crossed else None,
        across(1, 0) if crossed else None,
        _overlap(overlap(corpora[0], queries[0], own, alone[0], alone[1].rows)),
    )


def judged_sts(scores: tuple[StsScore, ...], gates: tuple[Gate, Gate]) -> tuple[Verdict, ...]:
    """Return a verdict on each task set: B may lose what both gates allow."""
    bound = pair_gate(*gates).max_spearman_drop
    return tuple(Verdict(f"Spearman drop on {score.name}", score.spearman_drop, bound, "<=") for score in scores)


def norms_of(vectors: Vectors) -> tuple[float, float, float]:
    """Return the smallest, the mean and the largest length of (rows, dimension) vectors."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return float(norms.min()), float(norms.mean()), float(norms.max())


def note_on_norms(rows: Compared, a: Side, gates: tuple[Gate, Gate]) -> str | None:
    """Return what other lengths of vectors mean for a search, where lengths differ by more than the gates allow."""
    if kind_of(a.dtype) != "numbers" or rows.documents[0].shape != rows.documents[1].shape:
        return None
    bound = pair_gate(*gates).max_norm_error
    lengths = [np.linalg.norm(side.astype(np.float64), axis=1)[:, None] for side in rows.documents]
    if bound is None or not relative_deviation(lengths[1], lengths[0]) > bound:
        return None
    unit = [bool(np.abs(each - 1).max() < _UNIT) for each in lengths]
    means = f"{lengths[0].mean():.4g} and {lengths[1].mean():.4g} on average"
    told = f"vectors of A and B have other lengths ({means})"
    if unit[0] != unit[1]:
        normal, other = ("A", "B") if unit[0] else ("B", "A")
        told = f"{normal} normalizes its vectors and {other} does not ({means})"
    return f"{told}: scores of dot products differ, and cosines do not"


def _scaled(pair: tuple[Vectors, Vectors], metric: Metric) -> tuple[Vectors, Vectors]:
    """Return vectors whose difference matters to a search: by cosine, those of length 1."""
    if metric != "cosine":
        return pair
    first, second = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in pair)
    return first, second


def _overlap(shares: np.ndarray) -> Overlap:
    return Overlap(float(shares.mean()), float(shares.min()))


def _of_search(search: SearchResult, gate: Gate, a: Side, b: Side, least: float | None) -> list[Verdict]:
    """Return the verdicts on searches. The bound is that of the option, or else what the gates leave.

    Raises:
        InputError: The gates leave none: any two sides would pass.
    """
    by_kind = {
        "numbers": gate.mean_neighbor_overlap,
        "codes": gate.mean_stored_overlap,
        "bits": gate.mean_binary_overlap,
    }
    bound = by_kind[kind_of(a.dtype)] if least is None else least
    if not bound:
        raise InputError(
            f"the gates of {a.judged_as} (A) and {b.judged_as} (B) leave no bound of the {search.bound_name}",
            next_step="give `min_overlap`",
        )
    found = {
        "stored with A, searched with B": search.a_searched_with_b,
        "stored with B, searched with A": search.b_searched_with_a,
        "A in A, B in B": search.within,
    }
    return [
        Verdict(f"{search.bound_name}, {name}", each.mean, bound, ">=")
        for name, each in found.items()
        if each is not None
    ]


def _of_parity(parity: Parity, gate: Gate, metric: Metric) -> list[Verdict]:
    """Return the verdicts on vectors. Neighbors are searched for, and by cosine the lengths of vectors do not count."""
    unjudged = ("mean_neighbor_overlap", "min_neighbor_overlap", *(("max_norm_error",) if metric == "cosine" else ()))
    gate = gate.model_copy(update=dict.fromkeys(unjudged))
    far = parity.identity_beyond(gate.rounding_distance)[1]
    among = f"the {far} texts whose nearest other is farther than the bound of the cosine lets a vector move"
    return [
        replace(one, relative_to=among) if one.name == "neighbor identity" else one
        for one in judge(parity, 0.0, (), gate)
        if one.name != "NaN or Inf rows"  # which a check counts on both sides
    ]


def _of_stored(rows: Compared, a: Side, gate: Gate) -> list[Verdict]:
    """Return the verdict on codes that differ by more than one step, or on signs that differ."""
    first, second = rows.documents
    codes = kind_of(a.dtype) == "codes"
    name, bound = ("code changes", gate.max_code_changes) if codes else ("sign flips", gate.max_sign_flips)
    changed = float(np.mean(np.abs(first - second) > (1 if codes else 0)))
    return [] if bound is None else [Verdict(name, changed, bound, "<=")]
