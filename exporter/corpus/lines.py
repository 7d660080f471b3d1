"""JSON Lines, CSV and plain text: rows one by one, so that one bad row is one bad row."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.corpus.files import Format, InputFile, open_file
from exporter.corpus.rows import WINDOW, Columns, Fault, Place, Rows, refuse_missing, unreadable
from exporter.dependencies import require
from exporter.errors import InputError

_DELIMITERS = {Format.CSV: ",", Format.TSV: "\t"}


@dataclass(frozen=True)
class _Line:
    """One row of a file of lines.

    Attributes:
        values: By column; None where the row cannot be read.
        end: The byte behind it.
    """

    values: Mapping[str, object] | None
    end: int


def _lines(file: InputFile, opened: Any, names: Sequence[str] | None, offset: int) -> Iterator[_Line]:
    """Yield the rows from the byte ``offset`` on; ``names`` are the columns of a CSV file."""
    opened.seek(offset)
    match file.format:
        case Format.TEXT:
            for line, end in _raw_lines(opened, offset):
                yield _Line(_text_values(line), end)
        case Format.JSONL:
            for line, end in _raw_lines(opened, offset):
                if line.strip():
                    yield _Line(_json_values(line), end)
        case _:
            yield from _csv_lines(file, opened, names or (), offset)


def _raw_lines(opened: Any, offset: int) -> Iterator[tuple[bytes, int]]:
    for line in opened:
        offset += len(line)
        yield line, offset


def _text_values(line: bytes) -> Mapping[str, object] | None:
    try:
        return {"text": line.rstrip(b"\r\n").decode()}
    except UnicodeDecodeError:
        return None


def _json_values(line: bytes) -> Mapping[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _csv_lines(file: InputFile, opened: Any, names: Sequence[str], offset: int) -> Iterator[_Line]:
    csv.field_size_limit(sys.maxsize)  # a text that is too long is a bad row, and no end of the file
    read = _Decoded(opened, offset)
    for fields in csv.reader(read, delimiter=_DELIMITERS[file.format]):
        if not fields:
            continue
        sound = len(fields) == len(names) and not any(_is_broken(one) for one in fields)
        yield _Line(dict(zip(names, fields, strict=True)) if sound else None, read.offset)


class _Decoded:
    """Lines as text, for ``csv.reader``, which reads a line more where a field goes on. ``offset`` is what was read."""

    def __init__(self, opened: Any, offset: int) -> None:
        self._opened = opened
        self.offset = offset

    def __iter__(self) -> Iterator[str]:
        for line in self._opened:
            encoding = "utf-8" if self.offset else "utf-8-sig"
            self.offset += len(line)
            yield line.decode(encoding, errors="surrogateescape")


def _is_broken(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)


def _header(file: InputFile, opened: Any) -> tuple[list[str] | None, int]:
    """Return the columns of a CSV file, and where its rows begin; None and 0 for other formats."""
    if file.format not in _DELIMITERS:
        return None, 0
    read = _Decoded(opened, 0)
    names = next(csv.reader(read, delimiter=_DELIMITERS[file.format]), [])
    return names, read.offset


def places_in_lines(file: InputFile, every: int) -> tuple[int, tuple[Place, ...]]:
    """Count the rows of a file of lines; see ``reading.places_of``."""
    places, count = [], 0
    try:
        with open_file(file) as opened:
            names, offset = _header(file, opened)
            for line in _lines(file, opened, names, offset):
                if count % every == 0:
                    places.append(Place(count, 0 if file.compressed else offset))
                count, offset = count + 1, line.end
    except (OSError, EOFError, csv.Error) as error:
        raise unreadable(file, error) from error
    return count, tuple(places)


def windows_of_lines(file: InputFile, columns: Columns, place: Place, stop: int) -> Iterator[Rows]:
    """Yield windows of rows; see ``reading.read_rows``."""
    try:
        with open_file(file) as opened:
            names, first = _header(file, opened)
            offset, row = (place.offset, place.row) if place.offset else (first, 0)
            window: list[_Line] = []
            for line in _lines(file, opened, names, offset):
                if row >= stop:
                    break
                if row >= place.row:
                    window.append(line)
                row += 1
                if len(window) == WINDOW:
                    yield _rows_of_lines(window, columns, row - WINDOW)
                    window = []
            if window:
                yield _rows_of_lines(window, columns, row - len(window))
    except (OSError, EOFError, csv.Error) as error:
        raise unreadable(file, error) from error


def _rows_of_lines(window: Sequence[_Line], columns: Columns, start: int) -> Rows:
    faults: dict[int, Fault] = {number: "undecodable" for number, line in enumerate(window) if line.values is None}
    values = [line.values or {} for line in window]
    kept = []
    for name, kind in zip(columns.kept, columns.types, strict=True):
        array, wrong = _array([one.get(name) for one in values], kind)
        kept.append(array)
        faults |= dict.fromkeys(wrong, "undecodable")
    return Rows(start, [one.get(columns.text) for one in values], kept, faults)


def _array(values: Sequence[object], kind: Any) -> tuple[Any, list[int]]:
    """Return values as an Arrow array, and which of them have another type: these are null in it."""
    pyarrow = require("pyarrow")
    refused = (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError, UnicodeEncodeError)
    try:
        return pyarrow.array(values, kind), []
    except refused:
        pass
    fitting: list[object] = []
    wrong = []
    for number, value in enumerate(values):
        try:
            pyarrow.array([value], kind)
            fitting.append(value)
        except refused:
            fitting.append(None)
            wrong.append(number)
    return pyarrow.array(fitting, kind), wrong


_ROWS_OF_TYPES = 1000  # of JSON Lines, whose values have types and whose columns have none


def columns_of_lines(file: InputFile, text: str, kept: Sequence[str]) -> Columns:
    """Return the columns of a file of lines. Those of CSV are texts, those of JSON Lines what its first rows hold."""
    pyarrow = require("pyarrow")
    rows: list[Mapping[str, object]] = []
    try:
        with open_file(file) as opened:
            names, offset = _header(file, opened)
            for line in _lines(file, opened, names, offset):
                if line.values is not None:
                    rows.append(line.values)
                if names is not None or len(rows) == _ROWS_OF_TYPES:
                    break
    except (OSError, EOFError, csv.Error) as error:
        raise unreadable(file, error) from error
    known = list(dict.fromkeys(name for row in rows for name in row)) if names is None else names
    if known or names is not None:
        refuse_missing(file, known, (text, *kept))
    if names is not None:
        return Columns(text, tuple(kept), (pyarrow.string(),) * len(kept))
    types = []
    for name in kept:
        values = [row.get(name) for row in rows]
        try:
            found = pyarrow.array(values).type
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            raise InputError(f"{file.url}: the column {name!r} has values of several types: {error}") from error
        types.append(pyarrow.string() if pyarrow.types.is_null(found) else found)
    return Columns(text, tuple(kept), tuple(types))
