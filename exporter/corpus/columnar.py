"""Parquet and Arrow: columns, in windows of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.corpus.files import Format, InputFile, open_file
from exporter.corpus.rows import WINDOW, WINDOW_BYTES, Columns, Fault, Place, Range, Rows, refuse_missing, unreadable
from exporter.corpus.stores import errors_of_stores
from exporter.dependencies import require
from exporter.errors import InputError

_READ_AT_ONCE = 2**20  # bytes of a column of Parquet: a row group may have gigabytes
_ROWS_AT_ONCE = 256  # of Parquet: texts may have a million characters


def columns_of_tables(files: Sequence[InputFile], text: str, kept: Sequence[str]) -> Columns:
    """Return the columns of Parquet or Arrow files, which have the same types in all of them."""
    pyarrow = require("pyarrow")
    found: list[tuple[Any, ...]] = []
    for file in files:
        schema = schema_of_table(file)
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
            if file.format is Format.ARROW:
                return _places_in_arrow(_arrow(opened), every)
            count = _parquet(opened).metadata.num_rows
    except errors_of_stores(pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error
    return count, tuple(Place(row) for row in range(0, count, every))


def _places_in_arrow(reader: Any, every: int) -> tuple[int, tuple[Place, ...]]:
    """Return the number of rows, and the record batch of each place; a stream can be read from its beginning only."""
    places: list[Place] = []
    count = 0
    for number, batch in enumerate(_arrow_batches(reader)):
        rows = range(len(places) * every, count + batch.num_rows, every)
        places += [Place(row, number, row - count) if _is_file(reader) else Place(row) for row in rows]
        count += batch.num_rows
    return count, tuple(places)


def windows_of_table(
    file: InputFile, columns: Columns, ranges: Sequence[Range], on_progress: Callable[[], None]
) -> Iterator[Rows]:
    """Yield windows of rows; see ``reading.read_rows``. Ranges that follow each other are read in one go."""
    start = 0
    while start < len(ranges):
        end = start + 1
        while end < len(ranges) and ranges[end].place.row == ranges[end - 1].stop:
            end += 1
        yield from _windows(file, columns, ranges[start:end], on_progress)
        start = end


def batches_of_table(file: InputFile, names: list[str]) -> Iterator[Any]:
    """Yield the record batches of a Parquet or Arrow file, with some of its columns.

    Raises:
        InputError: It cannot be read.
    """
    pyarrow = require("pyarrow")
    try:
        with _opened(file) as opened:
            yield from _batches(opened, file.format, names, Place(0), lambda: None)
    except errors_of_stores(pyarrow.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error


def _windows(
    file: InputFile, columns: Columns, ranges: Sequence[Range], on_progress: Callable[[], None]
) -> Iterator[Rows]:
    pyarrow = require("pyarrow")
    names = list(dict.fromkeys((columns.text, *columns.kept)))
    try:
        with _opened(file) as opened:
            measured = _Measured(_batches(opened, file.format, names, ranges[0].place, on_progress))
            for one in ranges:
                row = one.place.row
                while row < one.stop:
                    window = measured.window(min(WINDOW, one.stop - row))
                    if not window:
                        return
                    table = pyarrow.Table.from_batches(window)
                    yield _rows(file, table, columns, row)
                    row += table.num_rows
    except errors_of_stores(pyarrow.ArrowException, KeyError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error


class _Measured:
    """Record batches, of which windows are cut. Each is measured once."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._batch: Any = None
        self._ends = np.zeros(0, np.int64)  # bytes up to the end of each row of the batch
        self._taken = 0  # rows of the batch

    def window(self, rows: int) -> list[Any]:
        """Return the next rows, in slices of batches: at most so many, and up to the one that reaches the bytes."""
        slices: list[Any] = []
        left = WINDOW_BYTES
        while rows and left > 0 and self._has_rows():
            before = self._ends[self._taken - 1] if self._taken else 0
            count = int(np.searchsorted(self._ends, before + left)) + 1 - self._taken
            slices.append(self._batch.slice(self._taken, min(count, rows)))
            rows -= slices[-1].num_rows
            self._taken += slices[-1].num_rows
            left -= int(self._ends[self._taken - 1] - before)
        return slices

    def _has_rows(self) -> bool:
        """Whether rows are left; the next batch is read where those of this one are taken."""
        while self._taken == len(self._ends):
            self._batch = next(self._batches, None)
            if self._batch is None:
                return False
            self._ends = np.cumsum(_sizes_of_rows(self._batch.num_rows, self._batch.columns))
            self._taken = 0
        return True


def _sizes_of_rows(rows: int, arrays: Sequence[Any]) -> npt.NDArray[np.int64]:
    return sum(map(_sizes, arrays), np.zeros(rows, np.int64))


def _sizes(array: Any) -> npt.NDArray[np.int64]:
    """Return the bytes that each value of an Arrow array has when it is written out.

    They depend on the value alone, not on the batch that it is read with: a dictionary's values count as often as they
    are used. Types that Parquet does not have (unions, views of lists) count nothing.
    """
    pyarrow = require("pyarrow")
    kind, types = array.type, pyarrow.types
    if not len(array):  # it may lack its buffers
        return np.zeros(0, np.int64)
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _sizes(array.storage)
    if types.is_dictionary(kind):
        sizes = np.zeros(len(array), np.int64)
        used = array.indices.is_valid().to_numpy(zero_copy_only=False)
        sizes[used] = _sizes(array.dictionary)[array.indices.drop_null().to_numpy()]
        return sizes
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return _sizes_of_views(array)
    if any(is_of(kind) for is_of in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)):
        lengths = require("pyarrow.compute").binary_length(array).fill_null(0).to_numpy()
        return np.asarray(lengths, np.int64)
    if types.is_struct(kind):
        return _sizes_of_rows(len(array), [array.field(number) for number in range(kind.num_fields)])
    if types.is_fixed_size_list(kind):
        return _sizes_of_lists(array.values, (np.arange(len(array) + 1) + array.offset) * kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        return _sizes_of_lists(array.values, array.offsets.to_numpy())
    try:
        width = (kind.bit_width + 7) // 8
    except ValueError:
        width = 0
    return np.full(len(array), width, np.int64)


def _sizes_of_lists(values: Any, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    first, last = offsets[0], offsets[-1]
    ends = np.zeros(last - first + 1, np.int64)
    ends[1:] = np.cumsum(_sizes(values.slice(first, last - first)))
    sizes: npt.NDArray[np.int64] = ends[offsets[1:] - first] - ends[offsets[:-1] - first]
    return sizes


def _sizes_of_views(array: Any) -> npt.NDArray[np.int64]:
    """Return the lengths that views of 16 bytes begin with: values may share bytes, and a cast would write each out."""
    views = np.frombuffer(array.buffers()[1], np.int32, 4 * len(array), 16 * array.offset)
    used = array.is_valid().to_numpy(zero_copy_only=False)
    return np.where(used, views[::4], 0).astype(np.int64)


def _batches(
    opened: Any, format_: Format, names: list[str], place: Place, on_progress: Callable[[], None]
) -> Iterator[Any]:
    """Yield record batches with the rows from a place on."""
    if format_ is Format.ARROW:
        first = place.row - place.skip if place.offset else 0
        batches = _arrow_batches(_arrow(opened), place.offset)
    else:
        parquet = _parquet(opened)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        skipped = first = 0
        while skipped < len(sizes) and first + sizes[skipped] <= place.row:
            first, skipped = first + sizes[skipped], skipped + 1
        groups = list(range(skipped, len(sizes)))
        batches = parquet.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=names) if groups else iter(())
    for batch in batches:
        low = max(place.row - first, 0)
        if low < batch.num_rows:
            chosen = batch.select(names).slice(low)
            if format_ is Format.ARROW:
                chosen.validate(full=True)  # a damaged file would end the process
            yield chosen
        else:
            on_progress()
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


def _arrow(opened: Any) -> Any:
    """Return the reader of an Arrow file, or of a stream, which is what ``datasets`` writes."""
    ipc = require("pyarrow.ipc")
    is_file = opened.read(6) == b"ARROW1"
    opened.seek(0)
    return ipc.open_file(opened) if is_file else ipc.open_stream(opened)


def _is_file(reader: Any) -> bool:
    """Whether record batches can be read in any order."""
    return hasattr(reader, "num_record_batches")


def _arrow_batches(reader: Any, start: int = 0) -> Iterator[Any]:
    """Yield the record batches of a file from one on, or all of a stream."""
    if _is_file(reader):
        yield from map(reader.get_batch, range(start, reader.num_record_batches))
    else:
        yield from reader


def schema_of_table(file: InputFile) -> Any:
    """Return the Arrow schema of a Parquet or Arrow file.

    Raises:
        InputError: It cannot be read.
    """
    pyarrow = require("pyarrow")
    try:
        with _opened(file) as opened:
            return _parquet(opened).schema_arrow if file.format is Format.PARQUET else _arrow(opened).schema
    except errors_of_stores(pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise unreadable(file, error) from error
