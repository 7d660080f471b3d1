"""Parquet and Arrow: columns, in windows of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from exporter.corpus.files import Format, InputFile, open_file
from exporter.corpus.rows import WINDOW, Columns, Place, Rows, refuse_missing, unreadable
from exporter.dependencies import require
from exporter.errors import InputError


def columns_of_table(file: InputFile, text: str, kept: Sequence[str]) -> Columns:
    """Return the columns of a Parquet or Arrow file."""
    pyarrow = require("pyarrow")
    schema = _schema(file)
    refuse_missing(file, schema.names, (text, *kept))
    kind = schema.field(text).type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    types = pyarrow.types
    if not any(is_text(kind) for is_text in (types.is_string, types.is_large_string, types.is_string_view)):
        raise InputError(f"{file.url}: the column {text!r} has the type {kind}, and must be text")
    return Columns(text, tuple(kept), tuple(schema.field(name).type for name in kept))


def places_in_table(file: InputFile, every: int) -> tuple[int, tuple[Place, ...]]:
    """Count the rows of a Parquet or Arrow file; see ``reading.places_of``."""
    pyarrow = require("pyarrow")
    try:
        with open_file(file) as opened:
            if file.format is Format.PARQUET:
                count = require("pyarrow.parquet").ParquetFile(opened).metadata.num_rows
            else:
                count = sum(batch.num_rows for batch in _arrow_batches(opened))
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise unreadable(file, error) from error
    return count, tuple(Place(row) for row in range(0, count, every))


def windows_of_table(file: InputFile, columns: Columns, place: Place, stop: int) -> Iterator[Rows]:
    """Yield windows of rows; see ``reading.read_rows``."""
    pyarrow = require("pyarrow")
    names = list(dict.fromkeys((columns.text, *columns.kept)))
    row, waiting, count = place.row, [], 0
    try:
        with open_file(file) as opened:
            for batch in _batches_from(opened, file.format, names, place.row, stop):
                waiting.append(batch)
                count += batch.num_rows
                while count >= WINDOW:
                    table = pyarrow.Table.from_batches(waiting)
                    yield _rows_of_table(table.slice(0, WINDOW), columns, row)
                    rest = table.slice(WINDOW)
                    row, waiting, count = row + WINDOW, rest.to_batches(), rest.num_rows
            if count:
                yield _rows_of_table(pyarrow.Table.from_batches(waiting), columns, row)
    except (OSError, pyarrow.ArrowInvalid, KeyError) as error:
        raise unreadable(file, error) from error


def _batches_from(opened: Any, format_: Format, names: list[str], start: int, stop: int) -> Iterator[Any]:
    """Yield record batches with the rows from ``start`` to ``stop`` (excluded)."""
    if format_ is Format.ARROW:
        first, batches = 0, _arrow_batches(opened)
    else:
        parquet = require("pyarrow.parquet").ParquetFile(opened)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        skipped = 0
        while skipped < len(sizes) and sum(sizes[: skipped + 1]) <= start:
            skipped += 1
        first, groups = sum(sizes[:skipped]), list(range(skipped, len(sizes)))
        batches = parquet.iter_batches(WINDOW, row_groups=groups, columns=names) if groups else iter(())
    for batch in batches:
        if first >= stop:
            return
        low, high = max(start - first, 0), min(stop - first, batch.num_rows)
        if low < high:
            yield batch.select(names).slice(low, high - low)
        first += batch.num_rows


def _rows_of_table(table: Any, columns: Columns, row: int) -> Rows:
    kept = [table.column(name).combine_chunks() for name in columns.kept]
    return Rows(row, table.column(columns.text).to_pylist(), kept)


def _arrow_batches(opened: Any) -> Iterator[Any]:
    """Yield the record batches of an Arrow file, or of a stream, which is what ``datasets`` writes."""
    ipc = require("pyarrow.ipc")
    is_file = opened.read(6) == b"ARROW1"
    opened.seek(0)
    if not is_file:
        yield from ipc.open_stream(opened)
        return
    reader = ipc.open_file(opened)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _schema(file: InputFile) -> Any:
    pyarrow = require("pyarrow")
    try:
        with open_file(file) as opened:
            if file.format is Format.PARQUET:
                return require("pyarrow.parquet").ParquetFile(opened).schema_arrow
            ipc = require("pyarrow.ipc")
            is_file = opened.read(6) == b"ARROW1"
            opened.seek(0)
            return (ipc.open_file if is_file else ipc.open_stream)(opened).schema
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise unreadable(file, error) from error
