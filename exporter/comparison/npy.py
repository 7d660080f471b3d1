"""Files of one array (.npy), read in blocks of rows. Arrays of objects, which are pickles, are refused unread."""

from __future__ import annotations

import io
import os
import stat
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.lib import format as npy

from exporter.corpus.vectors import VectorRows
from exporter.errors import InputError, first_line
from exporter.runtime.vector_types import MOST_NUMBERS

_HEADER = 65_536  # bytes that a header may have
_ROWS_AT_ONCE = 4096
_TYPES = ("float16", "float32", "float64", "int8", "uint8")
_UNREADABLE = (
    *(ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError, OverflowError),
    tokenize.TokenError,
)
"""What numpy's reader of headers, which are Python literals, raises."""
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class NpyFile:
    """Vectors in a .npy file. Close it.

    Attributes:
        columns: Of a table; a file of one array has none.
        facts: What made the vectors: not known.
        rows: How many vectors there are.
        size_bytes: Of the file.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    facts: ClassVar[dict[str, Any]] = {}

    def __init__(self, path: Path) -> None:
        """Open the file and read its header.

        Raises:
            InputError: It cannot be read, or is no array of vectors.
        """
        self._path = path
        try:
            # A pipe that nobody writes to would block the opening itself.
            self._file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}", next_step="check the path") from error
        try:
            self.size_bytes = self._size()
            self._dtype, self.rows, self._numbers, self._start = self._header()
        except BaseException:
            self.close()
            raise

    def batches(self, id_column: str | None) -> Iterator[VectorRows]:
        """Yield all rows, some at a time; the keys are the numbers of the rows.

        Raises:
            InputError: Ids are asked for, or the file has become shorter.
        """
        if id_column is not None:
            raise InputError(f"{self._path}: has no ids", next_step="leave out `id_column`, or give Parquet or Arrow")
        self._file.seek(self._start)
        for row in range(0, self.rows, _ROWS_AT_ONCE):
            keys = range(row, min(row + _ROWS_AT_ONCE, self.rows))
            size = len(keys) * self._numbers * self._dtype.itemsize
            content = self._file.read(size)
            if len(content) < size:
                raise InputError(f"{self._path}: became shorter while it was read", next_step="run it again")
            vectors = np.frombuffer(content, self._dtype).reshape(len(keys), self._numbers)
            yield VectorRows(keys, vectors.astype(self._dtype.newbyteorder("=")), np.zeros(len(keys), bool))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _size(self) -> int:
        facts = os.fstat(self._file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(f"{self._path}: is not a regular file", next_step="write its content to a file first")
        return facts.st_size

    def _header(self) -> tuple[np.dtype[Any], int, int, int]:
        """Return type, rows, numbers of a row, and where the first one begins."""
        head = io.BytesIO(self._file.read(_HEADER))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about headers that Python 2 has written
                reader = _READERS[npy.read_magic(head)]
                shape, by_columns, dtype = reader(head)
        except _UNREADABLE as error:
            raise InputError(
                f"{self._path}: not readable as .npy: {first_line(error)[:200]}", next_step="write it with numpy.save"
            ) from error
        if dtype.hasobject or str(dtype.newbyteorder("=")) not in _TYPES:
            raise InputError(
                f"{self._path}: holds {'objects' if dtype.hasobject else str(dtype)[:80]}, and vectors are numbers of "
                f"{', '.join(_TYPES)}",
                next_step="save it as float32",
            )
        if len(shape) != 2 or not 0 < shape[1] <= MOST_NUMBERS or shape[0] < 0:
            raise InputError(
                f"{self._path}: has the shape {str(shape)[:80]}, and must have (rows, dimension)",
                next_step=f"a vector has 1 to {MOST_NUMBERS:,} numbers",
            )
        if by_columns and shape[0] > 1 and shape[1] > 1:
            raise InputError(
                f"{self._path}: is stored by columns", next_step="save numpy.ascontiguousarray(vectors) instead"
            )
        start, wanted = head.tell(), int(shape[0]) * int(shape[1]) * dtype.itemsize
        if self.size_bytes - start != wanted:
            raise InputError(
                f"{self._path}: has {self.size_bytes - start:,} bytes of numbers, and its header says {wanted:,}",
                next_step="write it again",
            )
        return dtype, int(shape[0]), int(shape[1]), start
