"""Two sides to two matrices whose rows belong together: encoded from the same texts, or joined by ids or positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from exporter.calibration import read_sentences
from exporter.comparison.options import CompareOptions
from exporter.comparison.report import Text
from exporter.comparison.sides import AnySide, BundleSide, FileSide, Stored, TextSide
from exporter.comparison.stored import numbers_of
from exporter.comparison.texts import Key, texts_by_key
from exporter.errors import InputError
from exporter.runtime.vector_types import Vectors
from exporter.validator.probes import probes_for, shipped_probes

PROBES = "the probes that ship"
Pair = tuple[Vectors, Vectors]


@dataclass(frozen=True)
class Compared:
    """Rows that belong together.

    Attributes:
        documents: (rows, dimension) float32 of A and of B: what is stored.
        queries: The same with the prompts of queries; the same arrays where there are none.
        text: What they are made from.
        missing: How many rows of the sample were left out, because a side has no vector for them.
    """

    documents: Pair
    queries: Pair
    text: Text
    missing: int = 0

    def only(self, rows: np.ndarray) -> Compared:
        """Return some of the rows, by their numbers."""
        same = self.queries is self.documents
        documents = (self.documents[0][rows], self.documents[1][rows])
        labels = [self.text.labels[row] for row in rows.tolist()]
        tokens = None if self.text.tokens is None else [self.text.tokens[row] for row in rows.tolist()]
        return Compared(
            documents,
            documents if same else (self.queries[0][rows], self.queries[1][rows]),
            replace(self.text, rows=len(rows), labels=labels, tokens=tokens),
            self.missing,
        )


def compared_rows(a: AnySide, b: AnySide, options: CompareOptions) -> Compared:
    """Return the rows of two sides that belong together.

    Raises:
        InputError: There are none, or text is needed and not given.
    """
    if isinstance(a, FileSide):
        return _of_files(a, b, options) if isinstance(b, FileSide) else _of_file_and_texts(a, b, options)
    if not isinstance(b, FileSide):
        return _of_texts(a, b, options)
    found = _of_file_and_texts(b, a, options)
    documents = (found.documents[1], found.documents[0])
    text = replace(found.text, rows_a=found.text.rows_b, rows_b=found.text.rows_a)
    return replace(found, documents=documents, queries=documents, text=text)


def _of_texts(a: TextSide, b: TextSide, options: CompareOptions) -> Compared:
    if options.id_column is not None:
        raise InputError("`id_column` is given, and no side has rows with ids", next_step="leave it out")
    texts, source = _texts(a, b, options)
    chosen = _spread(texts, options.rows)
    roles = _has_roles(a, b)
    documents = (a.encode(chosen, "document"), b.encode(chosen, "document")) if roles else _plain(a, b, chosen)
    queries = (a.encode(chosen, "query"), b.encode(chosen, "query")) if roles else documents
    tokens = a.count_tokens(chosen) or b.count_tokens(chosen)
    text = Text(source, len(chosen), len(texts), len(texts), "text", chosen, tokens)
    return Compared(documents, queries, text)


def _plain(a: TextSide, b: TextSide, texts: list[str]) -> Pair:
    return a.encode(texts, "text"), b.encode(texts, "text")


def _has_roles(a: TextSide, b: TextSide) -> bool:
    """Whether both sides put other prompts before queries and documents than before any text."""
    return all(
        isinstance(side, BundleSide) and {side.facts.query_prompt, side.facts.document_prompt} != {side.facts.prompt}
        for side in (a, b)
    )


def _texts(a: TextSide, b: TextSide, options: CompareOptions) -> tuple[list[str], str]:
    if options.text is not None:
        return list(dict.fromkeys(read_sentences(options.text))), options.text.name
    if isinstance(a, BundleSide) and isinstance(b, BundleSide):
        probes = probes_for(a.encoder.tokenizer, a.facts.max_seq_length, a.facts.prompt)
    else:  # a server may refuse an empty text, or a long one
        probes = shipped_probes()
    return list(dict.fromkeys(probe.text for probe in probes)), PROBES


def _of_files(a: FileSide, b: FileSide, options: CompareOptions) -> Compared:
    column, matched_by = _joined_by(a, b, options.id_column)
    if matched_by == "row" and a.rows != b.rows:
        raise InputError(
            f"{a.side.given} has {a.rows:,} rows and {b.side.given} {b.rows:,}, and nothing says which belong together",
            next_step="give Parquet files with ids, and `id_column`",
        )
    keys, first = _sampled(a, column, options.rows)
    found, second = _with_keys(b, column, keys)
    kept = np.flatnonzero(found)
    if not len(kept):
        raise InputError(
            f"{a.side.given} and {b.side.given} have no {matched_by} in common",
            next_step="give vectors of the same texts",
        )
    labels = [f"{matched_by} {keys[row]}" for row in kept.tolist()]
    text = Text("rows of A and B", len(kept), a.rows, b.rows, matched_by, labels)
    documents = (a.numbers(first[kept]), b.numbers(second[kept]))
    return Compared(documents, documents, text, missing=len(keys) - len(kept))


def _of_file_and_texts(file: FileSide, other: TextSide, options: CompareOptions) -> Compared:
    if options.text is None:
        raise InputError(
            f"{file.side.given}: holds vectors, and {other.side.given} needs the text that they were made from",
            next_step="give it as `text`",
        )
    texts = texts_by_key(options.text, options.id_column, file.rows)
    keys, vectors = _sampled(file, options.id_column, options.rows)
    kept = [row for row, key in enumerate(keys) if key in texts]
    if not kept:
        raise InputError(f"{options.text}: has no id of {file.side.given}", next_step="give the text of these vectors")
    labels = [texts[keys[row]] for row in kept]
    encoded = other.encode_as(labels, file.how())
    stored = vectors[kept]
    numbers = numbers_of(encoded, file.side.dtype, file.side.dimension)
    matched_by: Literal["id", "position"] = "position" if options.id_column is None else "id"
    text = Text(options.text.name, len(kept), file.rows, len(texts), matched_by, labels, other.count_tokens(labels))
    documents = (file.numbers(stored), numbers)
    return Compared(documents, documents, text, len(keys) - len(kept))


def _joined_by(a: FileSide, b: FileSide, asked: str | None) -> tuple[str | None, Literal["id", "position", "row"]]:
    if asked is not None:
        return asked, "id"
    if "id" in a.columns and "id" in b.columns:
        return "id", "id"
    return None, "position" if "position" in a.columns and "position" in b.columns else "row"


def _sampled(side: FileSide, column: str | None, most: int) -> tuple[list[Key], Stored]:
    """Return keys and vectors of evenly spread rows; those without a vector are left out."""
    chosen = np.arange(min(side.rows, most)) * side.rows // min(side.rows, most)
    keys: list[Key] = []
    parts: list[Stored] = []
    row = 0
    for batch in side.batches(column):
        low, high = np.searchsorted(chosen, (row, row + len(batch.keys)))
        places = chosen[low:high] - row
        places = places[~batch.missing[places]]
        keys += [batch.keys[place] for place in places.tolist()]
        if len(places):
            parts.append(batch.vectors[places])
        row += len(batch.keys)
    if not parts:
        raise InputError(f"{side.side.given}: has no vector", next_step="give a file with vectors")
    _refuse_lengths(side, parts)
    _refuse_twice(side, keys)
    return keys, np.concatenate(parts)


def _with_keys(side: FileSide, column: str | None, keys: Sequence[Key]) -> tuple[np.ndarray, Stored]:
    """Return which keys have a vector, and (keys, numbers) the vectors: zeros for the others."""
    places = {key: place for place, key in enumerate(keys)}
    found, vectors = np.zeros(len(keys), bool), None
    for batch in side.batches(column):
        here = [(places[key], row) for row, key in enumerate(batch.keys) if key in places]
        into = np.array([place for place, _ in here], np.int64)
        rows = np.array([row for _, row in here], np.int64)
        if len(np.unique(into)) < len(into) or found[into].any():
            twice = next(keys[place] for place in into.tolist() if found[place] or (into == place).sum() > 1)
            _refuse_twice(side, [twice, twice])
        present = ~batch.missing[rows]
        into, rows = into[present], rows[present]
        if not len(rows):
            continue
        if vectors is None:
            vectors = np.zeros((len(keys), batch.vectors.shape[1]), batch.vectors.dtype)
        _refuse_lengths(side, [vectors, batch.vectors])
        vectors[into] = batch.vectors[rows]
        found[into] = True
    return found, np.zeros((len(keys), 1), np.float32) if vectors is None else vectors


def _refuse_lengths(side: FileSide, parts: Sequence[Stored]) -> None:
    lengths = sorted({part.shape[1] for part in parts})
    if len(lengths) > 1:
        raise InputError(
            f"{side.side.given}: has vectors of {lengths[0]:,} and of {lengths[-1]:,} numbers",
            next_step="give vectors of one length",
        )


def _refuse_twice(side: FileSide, keys: Sequence[Key]) -> None:
    seen: set[Key] = set()
    for key in keys:
        if key in seen:
            raise InputError(
                f"{side.side.given}: has {str(key)[:80]!r} twice", next_step="give ids that are different in every row"
            )
        seen.add(key)


def _spread(texts: list[str], most: int) -> list[str]:
    kept = min(most, len(texts))
    return [texts[place * len(texts) // kept] for place in range(kept)]
