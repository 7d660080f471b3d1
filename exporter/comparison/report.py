"""Comparison: what two sides were measured to have in common, what that means, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from exporter.benchmark import Throughput
from exporter.comparison.search import Metric
from exporter.errors import printable
from exporter.runtime.contract import VectorType
from exporter.targets import Precision
from exporter.validator import Check
from exporter.validator.gates import Verdict, significant
from exporter.validator.parity import Parity
from exporter.validator.report import clean, number
from exporter.validator.sts import StsScore

WORST = 5
_TOLD = 3  # reasons in the sentence
_SHOWN = 60  # characters of a text


@dataclass(frozen=True)
class Side:
    """What is known of one side.

    Attributes:
        given: Path or URL, as the user gave it.
        kind: What it is.
        told: The same in words.
        checkpoint: Hash of the weight files that it was made from, where that is known.
        bundle: Seal of the bundle that it is or that made it, where that is known.
        precision: What computed the vectors, where that is known.
        judged_as: The precision whose gate counts.
        dimension: Of a vector.
        dtype: The type that the vectors are stored in.
        norms: Smallest, mean and largest length of the compared vectors.
        size_bytes: What it takes on disk: of a bundle, the files that serve; None of a server.
        execution: Where and in what numbers it runs, if it does.
    """

    given: str
    kind: Literal["bundle", "server", "vectors"]
    told: str
    checkpoint: str | None = None
    bundle: str | None = None
    precision: Precision | None = None
    judged_as: Precision = Precision.FP16
    dimension: int | None = None
    dtype: VectorType = "float32"
    norms: tuple[float, float, float] | None = None
    size_bytes: int | None = None
    execution: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        fields = asdict(self)
        norms = fields.pop("norms")
        told = None if norms is None else dict(zip(("min", "mean", "max"), map(number, norms), strict=True))
        return {**fields, "norm": told}


@dataclass(frozen=True)
class Overlap:
    """What two searches with the same queries have in common: the mean share over the queries, and the smallest."""

    mean: float
    min: float


@dataclass(frozen=True)
class SearchResult:
    """What searches found.

    Attributes:
        k: How many nearest are compared.
        queries: How many texts are searched for.
        corpus: How many texts are searched in.
        similarity: How vectors are compared.
        a_searched_with_b: In the vectors of A, queries of B against queries of A. None where that is not possible.
        b_searched_with_a: In the vectors of B, queries of A against queries of B.
        within: The neighbors of A in A against those of B in B.
    """

    k: int
    queries: int
    corpus: int
    similarity: Metric
    a_searched_with_b: Overlap | None
    b_searched_with_a: Overlap | None
    within: Overlap

    @property
    def bound_name(self) -> str:
        """What the overlap is called."""
        return f"top-{self.k} overlap"


@dataclass(frozen=True)
class Text:
    """What was compared.

    Attributes:
        source: Where the texts are from.
        rows: How many are compared.
        rows_a: How many A has.
        rows_b: How many B has.
        matched_by: What says which vectors belong together: ``"text"``, ``"id"``, ``"position"`` or ``"row"``.
        labels: The texts, or what their rows are called.
        tokens: Tokens of each, where a tokenizer is there.
    """

    source: str
    rows: int
    rows_a: int
    rows_b: int
    matched_by: Literal["text", "id", "position", "row"]
    labels: Sequence[str]
    tokens: Sequence[int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data, without the texts."""
        names = ("source", "rows", "rows_a", "rows_b", "matched_by")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Comparison:
    """A against B.

    Attributes:
        a: What A is.
        b: What B is.
        text: What was compared.
        parity: B against A, row by row; None where vectors of A and B cannot be subtracted from each other.
        search: What searches found.
        verdicts: One per bound.
        checks: What besides the bounds decides whether the two can be compared.
        sts: Task scores; the reference is A.
        speed: Of both, if both were run here.
        notes: What a reader should know, one sentence each.
    """

    a: Side
    b: Side
    text: Text
    parity: Parity | None
    search: SearchResult
    verdicts: tuple[Verdict, ...]
    checks: tuple[Check, ...]
    sts: tuple[StsScore, ...] = ()
    speed: Throughput | None = None
    notes: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """What was compared, in words."""
        return f"{self.a.told} against {self.b.told}"

    @property
    def passed(self) -> bool:
        """Whether every bound held and every check passed."""
        return all(verdict.passed for verdict in self.verdicts) and all(check.passed for check in self.checks)

    @property
    def missed(self) -> tuple[str, ...]:
        """What is against it, the checks first."""
        failures = [failure for check in self.checks for failure in check.failures]
        return (*failures, *(str(verdict) for verdict in self.verdicts if not verdict.passed))

    @property
    def sentence(self) -> str:
        """The answer: whether vectors that are stored with A can be searched with B, and why."""
        question = "vectors stored with A can be searched with B"
        if not self.passed:
            more = len(self.missed) - _TOLD
            told = [*self.missed[:_TOLD], *([f"and {more} more"] if more > 0 else [])]
            return f"{question}: no, {'; '.join(told)}"
        found, back, name = self.search.a_searched_with_b, self.search.b_searched_with_a, self.search.bound_name
        if found is None or back is None:  # then a check has failed
            return f"{question}: no"
        bound = next(verdict.bound for verdict in self.verdicts if verdict.name.startswith(name))
        reverse = f"stored with B and searched with A: {significant(back.mean)}"
        return f"{question}: yes, {name} {significant(found.mean)} (at least {significant(bound)}); {reverse}"

    @property
    def statistics(self) -> dict[str, float] | None:
        """The figures of the comparison row by row, by name."""
        if self.parity is None:
            return None
        return {**self.parity.row_statistics, "max_similarity_drift": self.parity.similarity_drift}

    @property
    def worst(self) -> list[int]:
        """The rows that differ most, the smallest cosine first."""
        if self.parity is None:
            return []
        return [int(row) for row in np.argsort(self.parity.cosine, kind="stable")[:WORST]]

    def label(self, row: int) -> str:
        """Return a text, or what its row is called, cut to a line."""
        text = printable(" ".join(self.text.labels[row].split()))
        return f"{text[:_SHOWN]}…" if len(text) > _SHOWN else text

    def failure(self) -> str:
        """Describe what was missed, and the row that differs most."""
        lines = [f"{self.subject}: {self.missed[0]}", *(f"  {told}" for told in self.missed[1:])]
        if self.worst:
            lines.append(f"  worst: {self.differs_most()}")
        return "\n".join(lines)

    def differs_most(self) -> str:
        """Describe the row of the smallest cosine."""
        if self.parity is None:
            return ""
        row = self.worst[0]
        return f"“{self.label(row)}” (cosine {significant(float(self.parity.cosine[row]))})"

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON data. NaN and Inf become null, as JSON knows neither."""
        statistics = self.statistics
        return {
            "passed": self.passed,
            "sentence": self.sentence,
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "text": self.text.to_dict(),
            "search": asdict(self.search),
            "statistics": None if statistics is None else clean(statistics),
            "verdicts": [{**clean(asdict(verdict)), "passed": verdict.passed} for verdict in self.verdicts],
            "checks": [check.to_dict() for check in self.checks],
            "sts": [clean(asdict(score)) for score in self.sts],
            "speed": None if self.speed is None else self.speed.to_dict(),
            "notes": list(self.notes),
            "worst": [{"label": self.text.labels[row], **self._row(row)} for row in self.worst],
            "rows": [] if self.parity is None else [self._row(row) for row in range(self.text.rows)],
        }

    def to_json(self) -> str:
        """Return :meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    def _row(self, row: int) -> dict[str, Any]:
        if self.parity is None:
            return {}
        return {
            "cosine": number(float(self.parity.cosine[row])),
            "relative_error": number(float(self.parity.relative_error[row])),
            "tokens": None if self.text.tokens is None else self.text.tokens[row],
        }
