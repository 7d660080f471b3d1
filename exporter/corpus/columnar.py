"""Parquet and Arrow: columns, in windows of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.corpus.files import Format, InputFile, open_file
from exporter.corpus.rows import WINDOW, WINDOW_BYTES, Columns, Fault, Place, Range, Rows, refuse_missing, unreadable
from exporter.dependencies import require
from exporter.errors import InputError

_READ_AT_ONCE = 2**20  # bytes of a column of Parquet: a row group may have gigabytes
_ROWS_AT_ONCE = 256  # of Parquet: texts may have a million characters


def columns_of_tables(files: Sequence[InputFile], text: str, kept: Sequence[str]) -> Columns:
    """Return the columns of Parquet or Arrow files, which have the same types in all of them."""
    pyarrow = require("pyarrow")
    found: list[tuple[Any, ...]] = []
    for file in files:
        schema = _schema(file)
        refuse_missing(file, schema.names, (text, *kept))
        kind = _plain(schema.field(text).type)
        if not any(is_accepted(kind) for is_accepted in (*_text_types(), pyarrow.types.is_null)):
            raise InputError(f"{file.url}: the column {text!r} has the type {kind}, and must be text")
        found.append(tuple(_plain(schema.field(name).type) for name in kept))
        for name, first, here in zip(kept, found[0], found[-1], strict=True):
            if first != here:
                raise InputError(
                    f"{file.url}: the column {name!r} has the type {here}, and {first} in {files[0].url}",
                    next_step="leave it out, or give it one type",
                )
    return Columns(text, tuple(kept), found[0])


def places_in_table(file: InputFile, every: int) -> tuple[int, tuple[Place, ...]]:
    """Count the rows of a Parquet or Arrow file; see ``reading.places_of``."""
    pyarrow = require("pyarrow")
    try:
        with _opened(file) as opened:
            if file.format is Format.PARQUET:
                count = _parquet(opened).metadata.num_rows
            else:
                count = sum(batch.num_rows for batch in _arrow_batches(opened))
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error
    return count, tuple(Place(row) for row in range(0, count, every))


def windows_of_table(file: InputFile, columns: Columns, ranges: Sequence[Range]) -> Iterator[Rows]:
    """Yield windows of rows; see ``reading.read_rows``. Ranges that follow each other are read in one go."""
    start = 0
    while start < len(ranges):
        end = start + 1
        while end < len(ranges) and ranges[end].place.row == ranges[end - 1].stop:
            end += 1
        yield from _windows(file, columns, ranges[start:end])
        start = end


def _windows(file: InputFile, columns: Columns, ranges: Sequence[Range]) -> Iterator[Rows]:
    pyarrow = require("pyarrow")
    names = list(dict.fromkeys((columns.text, *columns.kept)))
    try:
        with _opened(file) as opened:
            batches = _batches(opened, file.format, names, ranges[0].place.row)
            table = pyarrow.table({})
            for one in ranges:
                row = one.place.row
                while row < one.stop:
                    table, count = _window(table, batches, min(WINDOW, one.stop - row))
                    if not count:
                        return
                    yield _rows(file, table.slice(0, count), columns, row)
                    row, table = row + count, table.slice(count)
    except (OSError, pyarrow.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error


def _window(table: Any, batches: Iterator[Any], wanted: int) -> tuple[Any, int]:
    """Return the table with as many batches more as a window needs, and how many of its rows are the window."""
    pyarrow = require("pyarrow")
    while True:
        ends = np.cumsum(_sizes(table.slice(0, min(wanted, table.num_rows))))
        count = min(int(np.searchsorted(ends, WINDOW_BYTES)) + 1, len(ends))
        is_full = count == wanted or (count and ends[count - 1] >= WINDOW_BYTES)
        if is_full or (batch := next(batches, None)) is None:
            return table, count
        table = pyarrow.Table.from_batches([*table.to_batches(), batch])


def _sizes(table: Any) -> npt.NDArray[np.int64]:
    """Return the bytes of the texts and binary values of each row."""
    pyarrow = require("pyarrow")
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        kind = _plain(column.type)
        if any(is_of(kind) for is_of in (*_text_types(), pyarrow.types.is_binary, pyarrow.types.is_large_binary)):
            values = column.cast(kind).cast(pyarrow.large_binary())
            sizes += require("pyarrow.compute").binary_length(values).fill_null(0).to_numpy()
    return sizes


def _batches(opened: Any, format_: Format, names: list[str], start: int) -> Iterator[Any]:
    """Yield record batches with the rows from ``start`` on."""
    if format_ is Format.ARROW:
        first, batches = 0, _arrow_batches(opened)
    else:
        parquet = _parquet(opened)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        skipped = first = 0
        while skipped < len(sizes) and first + sizes[skipped] <= start:
            first, skipped = first + sizes[skipped], skipped + 1
        groups = list(range(skipped, len(sizes)))
        batches = parquet.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=names) if groups else iter(())
    for batch in batches:
        low = max(start - first, 0)
        if low < batch.num_rows:
            chosen = batch.select(names).slice(low)
            if format_ is Format.ARROW:
                chosen.validate(full=True)  # a damaged file would end the process
            yield chosen
        first += batch.num_rows


def _rows(file: InputFile, table: Any, columns: Columns, row: int) -> Rows:
    pyarrow = require("pyarrow")
    kept = [
        table.column(name).cast(kind).combine_chunks() for name, kind in zip(columns.kept, columns.types, strict=True)
    ]
    for name, array in zip(columns.kept, kept, strict=True):
        try:
            array.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            raise unreadable(file, ValueError(f"the column {name!r}: {error}")) from error
    texts = table.column(columns.text)
    texts = texts.cast(_plain(texts.type))
    try:
        return Rows(row, texts.to_pylist(), kept)
    except UnicodeDecodeError:  # Parquet's texts are bytes, and nobody has looked at them
        found = [_decoded(value) for value in texts.cast(pyarrow.large_binary()).to_pylist()]
        faults: dict[int, Fault] = {number: "undecodable" for number, text in enumerate(found) if text is _BROKEN}
        return Rows(row, [None if text is _BROKEN else text for text in found], kept, faults)


_BROKEN = object()


def _decoded(value: bytes | None) -> object:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return _BROKEN


def _text_types() -> tuple[Callable[[Any], bool], ...]:
    types = require("pyarrow").types
    return (types.is_string, types.is_large_string, types.is_string_view)


def _plain(kind: Any) -> Any:
    """Return the type of the values of a dictionary, and any other type as it is."""
    return kind.value_type if require("pyarrow").types.is_dictionary(kind) else kind


@contextmanager
def _opened(file: InputFile) -> Iterator[Any]:
    """Open a file; one that is here is mapped into memory, so that a record batch of gigabytes is not copied."""
    if file.format is Format.ARROW and file.is_local:
        with require("pyarrow").memory_map(file.url) as mapped:
            yield mapped
    else:
        with open_file(file) as opened:
            yield opened


def _parquet(opened: Any) -> Any:
    return require("pyarrow.parquet").ParquetFile(opened, buffer_size=_READ_AT_ONCE, pre_buffer=False)


def _arrow_batches(opened: Any) -> Iterator[Any]:
    """Yield the record batches of an Arrow file, or of a stream, which is what ``datasets`` writes."""
    reader = _arrow(opened)
    if not hasattr(reader, "num_record_batches"):
        yield from reader
        return
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _arrow(opened: Any) -> Any:
    ipc = require("pyarrow.ipc")
    is_file = opened.read(6) == b"ARROW1"
    opened.seek(0)
    return ipc.open_file(opened) if is_file else ipc.open_stream(opened)


def _schema(file: InputFile) -> Any:
    pyarrow = require("pyarrow")
    try:
        with _opened(file) as opened:
            return _parquet(opened).schema_arrow if file.format is Format.PARQUET else _arrow(opened).schema
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error
