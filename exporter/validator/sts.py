"""Semantic textual similarity sets: three file formats in, Spearman's and Pearson's correlation out."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exporter.errors import InputError, printable, quoted
from exporter.files import TEXT, read_text
from exporter.validator.parity import row_cosine

Column = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StsSet:
    """Sentence pairs with human scores.

    Attributes:
        name: The file's name.
        first: First sentence of each pair.
        second: Second sentence of each pair.
        scores: (pairs,) human scores, in whatever scale the file has.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class StsScore:
    """Correlation of cosine and human score, in points (x100), for reference and candidate."""

    name: str
    pairs: int
    reference_spearman: float
    candidate_spearman: float
    reference_pearson: float
    candidate_pearson: float

    @property
    def spearman_drop(self) -> float:
        """Points of Spearman's correlation lost; negative where the candidate is better."""
        return self.reference_spearman - self.candidate_spearman


def read_sts(path: Path) -> StsSet:
    """Read a set by its suffix: TSV as KorSTS, JSON as KLUE-STS, headerless CSV as stsb_multi_mt.

    Raises:
        InputError: Another suffix, or a row that is not what its format asks for; file and row are named.
    """
    readers = {".tsv": _read_tsv, ".json": _read_json, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown kind of STS file", next_step=f"use one of {', '.join(readers)}")
    try:
        rows = reader(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
    except csv.Error as error:  # a quote that is never closed, most often
        raise InputError(
            f"{path}: cannot be read as rows: {error}", next_step="close every quote, and double quotes within a field"
        ) from error
    if len(rows) < 3:
        raise InputError(f"{path}: {len(rows)} pairs, and a correlation needs 3 or more")
    scores = np.array([score for _, _, score in rows])
    if np.ptp(scores) == 0:
        raise InputError(f"{path}: every pair has the score {scores[0]:g}, and a correlation needs different scores")
    return StsSet(path.name, tuple(row[0] for row in rows), tuple(row[1] for row in rows), scores)


Row = tuple[str, str, float]


def _read_tsv(path: Path) -> list[Row]:
    """KorSTS: a header with ``score``, ``sentence1`` and ``sentence2``; quotes are text."""
    lines = list(csv.reader(_open(path), delimiter="\t", quoting=csv.QUOTE_NONE))
    header = lines[0] if lines else []
    try:
        columns = [header.index(name) for name in ("sentence1", "sentence2", "score")]
    except ValueError as error:
        raise InputError(f"{path}: no header with score, sentence1 and sentence2 (it has {quoted(header)})") from error
    return [
        _row(path, number, [line[c] for c in columns if c < len(line)])
        for number, line in enumerate(lines[1:], 2)
        if line
    ]


def _read_csv(path: Path) -> list[Row]:
    """stsb_multi_mt: ``sentence1,sentence2,score`` without a header."""
    return [_row(path, number, line) for number, line in enumerate(csv.reader(_open(path)), 1) if line]


def _open(path: Path) -> io.StringIO:
    return io.StringIO(read_text(path, TEXT), newline="")


def _read_json(path: Path) -> list[Row]:
    """KLUE-STS: a list of objects with ``sentence1``, ``sentence2`` and ``labels.real-label``."""
    try:
        entries = json.loads(read_text(path, TEXT))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{path}: not readable as JSON: it is nested too deeply") from error
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected a list of objects, found {type(entries).__name__}")
    rows = []
    for number, entry in enumerate(entries, 1):
        try:
            fields = [entry["sentence1"], entry["sentence2"], entry["labels"]["real-label"]]
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}, entry {number}: no sentence1, sentence2 and labels.real-label") from error
        rows.append(_row(path, number, fields))
    return rows


def _row(path: Path, number: int, fields: list[str]) -> Row:
    try:
        first, second, score = fields
        value = float(score)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}, row {number}: expected two sentences and a score, found {quoted(fields)}") from error
    if not np.isfinite(value):
        raise InputError(f"{path}, row {number}: the score is {printable(str(score), 80)}")
    return str(first), str(second), value


def correlate(
    sts: StsSet, reference: tuple[npt.ArrayLike, npt.ArrayLike], candidate: tuple[npt.ArrayLike, npt.ArrayLike]
) -> StsScore:
    """Correlate cosine and human score for both sides.

    Args:
        sts: The pairs.
        reference: (pairs, dimension) vectors of the first and of the second sentences.
        candidate: The same of the candidate.
    """
    (spearman, pearson), (spearman2, pearson2) = (_correlation(sts.scores, *pair) for pair in (reference, candidate))
    return StsScore(sts.name, len(sts.scores), spearman, spearman2, pearson, pearson2)


def _correlation(scores: Column, first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[float, float]:
    vectors = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not np.isfinite(vectors).all():  # row_cosine gives such a row 0, which would hide it
        return float("nan"), float("nan")
    cosine = row_cosine(*vectors)
    if np.ptp(cosine) == 0:
        return float("nan"), float("nan")
    return 100 * _pearson(_ranks(cosine), _ranks(scores)), 100 * _pearson(cosine, scores)


def _pearson(first: Column, second: Column) -> float:
    """Return Pearson's correlation of two columns, neither of which is constant."""
    a, b = first - first.mean(), second - second.mean()
    return float(np.clip((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)), -1, 1))


def _ranks(values: Column) -> Column:
    """Return the rank of each value; equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: Column = np.cumsum(counts) - (counts - 1) / 2
    return means[places]
