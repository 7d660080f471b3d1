"""JSON Lines, CSV and plain text: rows one by one, so that one bad row is one bad row."""

from __future__ import annotations

import csv
import json
import lzma
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from exporter.corpus.files import Format, InputFile, open_file
from exporter.corpus.rows import (
    KEPT_FAULT,
    ROW_BYTES,
    WINDOW,
    WINDOW_BYTES,
    Columns,
    Fault,
    Place,
    Range,
    Rows,
    refuse_missing,
    unreadable,
)
from exporter.corpus.stores import errors_of_stores
from exporter.dependencies import require
from exporter.errors import InputError
from exporter.runtime.texts import lone_surrogate

_DELIMITERS = {Format.CSV: ",", Format.TSV: "\t"}
_DAMAGED = (EOFError, csv.Error, lzma.LZMAError, zlib.error)
_BYTE_ORDER_MARK = "\ufeff".encode()
_FIELD_SIZE_LIMIT = threading.Lock()
_ROWS_OF_TYPES = 1000  # of each file of JSON Lines, whose values have types and whose columns have none

Record = bytes | list[str]
"""A row as it is written down: a line, or the fields of CSV."""


def columns_of_lines(files: Sequence[InputFile], text: str, kept: Sequence[str]) -> Columns:
    """Return the columns of files of lines. Those of CSV are texts, those of JSON Lines what their first rows hold."""
    pyarrow = require("pyarrow")
    found: dict[str, set[str]] = {name: set() for name in kept}
    for file in files:
        rows, names = _first_rows(file)
        known = list(dict.fromkeys(name for row in rows for name in row)) if names is None else names
        if rows or names is not None:
            refuse_missing(file, known, (text, *kept))
        for name in kept:
            found[name] |= {type(row[name]).__name__ for row in rows if row.get(name) is not None}
    if files[0].format is not Format.JSONL:
        return Columns(text, tuple(kept), (pyarrow.string(),) * len(kept))
    kinds = {name: _kind(found[name]) for name in kept}
    types = {"int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}
    as_json = frozenset(name for name, kind in kinds.items() if kind == "json")
    return Columns(text, tuple(kept), tuple(types.get(kinds[name], pyarrow.string()) for name in kept), as_json)


def places_in_lines(file: InputFile, every: int) -> tuple[int, tuple[Place, ...]]:
    """Count the rows of a file of lines; see ``reading.places_of``."""
    places, count = [], 0
    try:
        with open_file(file) as opened:
            _, offset = _header(file, opened)
            for _, begin in _records(file, opened, offset):
                if count % every == 0:
                    places.append(Place(count, 0 if file.compressed else begin))
                count += 1
    except errors_of_stores(*_DAMAGED) as error:
        raise unreadable(file, error) from error
    return count, tuple(places)


def windows_of_lines(
    file: InputFile, columns: Columns, ranges: Sequence[Range], on_progress: Callable[[], None]
) -> Iterator[Rows]:
    """Yield windows of rows; see ``reading.read_rows``. The file is read once, however many ranges there are."""
    try:
        with open_file(file) as opened:
            names, offset = _header(file, opened)
            row = 0
            if ranges[0].place.offset:
                row, offset = ranges[0].place.row, ranges[0].place.offset
                opened.seek(offset)
            records = _records(file, opened, offset)
            for one in ranges:
                for number in range(one.place.row - row):
                    next(records, None)
                    if number % WINDOW == 0:
                        on_progress()
                yield from _windows(file, columns, names, records, one)
                row = one.stop
    except errors_of_stores(*_DAMAGED) as error:
        raise unreadable(file, error) from error


def _windows(
    file: InputFile, columns: Columns, names: Sequence[str] | None, records: Iterator[tuple[Record, int]], of: Range
) -> Iterator[Rows]:
    row = of.place.row
    while row < of.stop:
        window: list[Record] = []
        begins: list[int] = []
        size = 0
        while len(window) < min(WINDOW, of.stop - row) and size < WINDOW_BYTES and (found := next(records, None)):
            window.append(found[0])
            begins.append(found[1])
            size += _bytes(found[0])
        if not window:
            return
        yield _rows([_values(file, names, record) for record in window], columns, row, begins)
        row += len(window)


def _bytes(record: Record) -> int:
    fields = [record] if isinstance(record, bytes) else [field.encode(errors="surrogateescape") for field in record]
    return sum(map(len, fields))


def _records(file: InputFile, opened: Any, offset: int) -> Iterator[tuple[Record, int]]:
    """Yield the rows behind the byte ``offset``, where ``opened`` is, and the first byte of each."""
    if file.format in _DELIMITERS:
        yield from _csv_records(file, opened, offset)
        return
    while line := _line(file, opened, offset, offset):
        begin, offset = offset, offset + len(line)
        if begin == 0:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if file.format is Format.TEXT or line.strip():  # a blank line is an empty text, and no row of JSON
            yield line, begin


def _line(file: InputFile, opened: Any, offset: int, row: int) -> bytes:
    """Return the line that begins at the byte ``offset``, in a row that begins at ``row``; nothing at the end.

    Raises:
        InputError: The row has more than ``ROW_BYTES``, of which no more are read.
    """
    before = offset - row
    line: bytes = opened.readline(ROW_BYTES + 1 - before)
    if before + len(line) <= ROW_BYTES:
        return line
    where = f"byte {row}{' of the unpacked file' if file.compressed else ''}"
    is_quoted = file.format in _DELIMITERS
    raise InputError(
        f"{file.url}: the row that begins at {where} has more than {ROW_BYTES // 2**20} MiB",
        next_step="close the quote that was left open there, or split the row" if is_quoted else "split it into rows",
    )


def _csv_records(file: InputFile, opened: Any, offset: int) -> Iterator[tuple[Record, int]]:
    read = _Decoded(file, opened, offset)
    rows = csv.reader(read, delimiter=_DELIMITERS[file.format], strict=True)
    try:
        while (fields := _next_row(rows)) is not None:
            if fields:
                yield fields, read.row
            read.row = read.offset
    except csv.Error as error:  # where the next row begins is not known
        raise csv.Error(f"the row that begins at byte {read.row}: {error}") from error


def _next_row(rows: Iterator[list[str]]) -> list[str] | None:
    """Return the next row, or None at the end. A field may be as long as a row: a text too long is a row of its own.

    ``csv`` has one limit for the whole process, which the caller's own readers rely on: it is lifted only meanwhile.
    """
    with _FIELD_SIZE_LIMIT:
        before = csv.field_size_limit(sys.maxsize)
        try:
            return next(rows, None)
        finally:
            csv.field_size_limit(before)


class _Decoded:
    """Lines as text, for ``csv.reader``, which reads a line more where a field goes on.

    Attributes:
        offset: The byte behind what was read.
        row: The byte that the present row begins at; whoever takes a row sets it.
    """

    def __init__(self, file: InputFile, opened: Any, offset: int) -> None:
        self._file = file
        self._opened = opened
        self.offset = offset
        self.row = offset

    def __iter__(self) -> Iterator[str]:
        while line := _line(self._file, self._opened, self.offset, self.row):
            encoding = "utf-8" if self.offset else "utf-8-sig"
            self.offset += len(line)
            yield line.decode(encoding, errors="surrogateescape")


def _header(file: InputFile, opened: Any) -> tuple[list[str] | None, int]:
    """Return the columns of a CSV file, and where its rows begin; None and 0 for other formats."""
    if file.format not in _DELIMITERS:
        return None, 0
    read = _Decoded(file, opened, 0)
    names = _next_row(csv.reader(read, delimiter=_DELIMITERS[file.format], strict=True)) or []
    if any(map(lone_surrogate, names)):
        raise csv.Error("its header is not UTF-8: convert it, for example with `iconv -f cp949 -t utf-8`")
    if not names and file.format in _DELIMITERS:
        raise csv.Error("it has no header")
    return names, read.offset


def _first_rows(file: InputFile) -> tuple[list[Mapping[str, object]], list[str] | None]:
    """Return the first rows of JSON Lines, and the columns of a CSV file or of plain text."""
    rows: list[Mapping[str, object]] = []
    try:
        with open_file(file) as opened:
            names, offset = _header(file, opened)
            if file.format is Format.JSONL:
                for number, (record, _) in zip(range(_ROWS_OF_TYPES), _records(file, opened, offset), strict=False):
                    if number == 0 and isinstance(record, bytes) and record.lstrip().startswith(b"["):
                        raise InputError(
                            f"{file.url}: is one JSON array, and JSON Lines have an object on each line",
                            next_step="convert it, for example with `jq -c '.[]'`",
                        )
                    values = _values(file, names, record)
                    rows += [] if values is None else [values]
    except errors_of_stores(*_DAMAGED) as error:
        raise unreadable(file, error) from error
    return rows, ["text"] if file.format is Format.TEXT else names


def _values(file: InputFile, names: Sequence[str] | None, record: Record) -> Mapping[str, object] | None:
    """Return a row's values by column, or None where it cannot be read."""
    if isinstance(record, bytes):
        return _of_text(record) if file.format is Format.TEXT else _of_json(record)
    if names is None or len(record) != len(names) or any(map(lone_surrogate, record)):
        return None
    return dict(zip(names, record, strict=True))


def _of_text(line: bytes) -> Mapping[str, object] | None:
    try:
        return {"text": line.rstrip(b"\r\n").decode()}
    except UnicodeDecodeError:
        return None


def _of_json(line: bytes) -> Mapping[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _rows(window: Sequence[Mapping[str, object] | None], columns: Columns, start: int, offsets: Sequence[int]) -> Rows:
    pyarrow = require("pyarrow")
    faults: dict[int, Fault] = {number: "undecodable" for number, values in enumerate(window) if values is None}
    kept = []
    for name, kind in zip(columns.kept, columns.types, strict=True):
        found = [None if values is None else values.get(name) for values in window]
        if name in columns.as_json:
            found = [None if value is None else json.dumps(value) for value in found]
        fits = _FITS[str(kind)]
        wrong = [number for number, value in enumerate(found) if value is not None and not fits(value)]
        faults |= dict.fromkeys(wrong, KEPT_FAULT)
        for number in wrong:
            found[number] = None
        kept.append(pyarrow.array(found, kind))
    texts = [None if values is None else values.get(columns.text) for values in window]
    return Rows(start, texts, kept, faults, offsets)


def _kind(types: set[str]) -> str:
    """Return what a column of JSON Lines is, by the types of its values in Python: one simple type, or JSON."""
    if types <= {"str"}:
        return "str"
    if types == {"int", "float"}:
        return "float"
    (kind,) = types if len(types) == 1 else ("json",)
    return kind if kind in ("int", "float", "bool") else "json"


# Arrow type -> whether a value of JSON is of it, without loss.
_FITS: dict[str, Callable[[object], bool]] = {
    "int64": lambda value: isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63,
    "double": lambda value: isinstance(value, float) or (type(value) is int and abs(value) <= 2**53),
    "bool": lambda value: type(value) is bool,
    "string": lambda value: isinstance(value, str) and lone_surrogate(value) is None,
}
