"""Vectors that were written: the parts of an output, or any Parquet or Arrow table with a column of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.corpus.columnar import batches_of_table, places_in_table, schema_of_table
from exporter.corpus.files import InputFile, input_files
from exporter.corpus.output import METADATA, PLAN, SUCCESS
from exporter.corpus.rows import refuse_missing, unreadable
from exporter.dependencies import require, require_all
from exporter.errors import InputError, first_line, quoted
from exporter.runtime.vector_types import MOST_NUMBERS

_ROWS_AT_ONCE = 4096
VECTOR, POSITION = "vector", "position"


@dataclass(frozen=True)
class VectorRows:
    """Some rows of a table.

    Attributes:
        keys: What the rows are joined by: the ids as text, or their positions.
        vectors: (rows, numbers), of the type that they are stored in.
        missing: (rows,) whether a row has no vector.
    """

    keys: Sequence[str] | Sequence[int]
    vectors: npt.NDArray[Any]
    missing: npt.NDArray[np.bool_]


class VectorTable:
    """The files of an output or of a table.

    Attributes:
        columns: Names of the columns.
        facts: What made the vectors, as ``korsbert embed`` writes it; empty where something else has.
        rows: How many there are.
        size_bytes: Of all files.
    """

    def __init__(self, given: str) -> None:
        """Look at the files.

        Args:
            given: A file, a folder or a glob of Parquet or Arrow, here or on an object store.

        Raises:
            InputError: There is no such file, it is no table, has no column ``vector``, or is an unfinished output.
            MissingDependencyError: pyarrow or fsspec is not installed.
        """
        require_all(("fsspec", "pyarrow"))
        _refuse_unfinished(given)
        self._given = given
        self._files = input_files([given])
        text = next((file for file in self._files if file.format.is_text), None)
        if text is not None:
            raise InputError(f"{text.url}: has no vectors", next_step="give Parquet, Arrow or .npy")
        schemas = [schema_of_table(file) for file in self._files]
        for file, schema in zip(self._files, schemas, strict=True):
            refuse_missing(file, schema.names, (VECTOR,))
            _refuse_other_type(file, schema.field(VECTOR).type)
        self.columns: tuple[str, ...] = tuple(schemas[0].names)
        self.facts = _facts(schemas[0])
        self.rows = sum(places_in_table(file, _ROWS_AT_ONCE)[0] for file in self._files)
        self.size_bytes = sum(file.size for file in self._files)

    def batches(self, id_column: str | None) -> Iterator[VectorRows]:
        """Yield all rows, some at a time.

        Args:
            id_column: The column whose values are the keys; None for positions: those of the column ``position`` where
                there is one, else the numbers of the rows.

        Raises:
            InputError: A file cannot be read, or its vectors are not of one length.
        """
        row = 0
        for file in self._files:
            key = id_column or (POSITION if POSITION in self.columns else None)
            refuse_missing(file, schema_of_table(file).names, (VECTOR, *((key,) if key else ())))
            for batch in batches_of_table(file, [VECTOR, *((key,) if key else ())]):
                keys = (
                    range(row, row + batch.num_rows) if key is None else _keys(file, batch.column(key), key, id_column)
                )
                yield VectorRows(keys, *_vectors(file, batch.column(VECTOR)))
                row += batch.num_rows


def _refuse_unfinished(given: str) -> None:
    folder = Path(given)
    if "://" in given or not folder.is_dir():
        return
    names = {path.name for path in folder.iterdir()}
    if PLAN in names and SUCCESS not in names:
        raise InputError(f"{given}: is not complete", next_step="run `korsbert embed` again: it goes on where it ended")


def _facts(schema: Any) -> dict[str, Any]:
    try:
        found = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse_other_type(file: InputFile, kind: Any) -> None:
    types = require("pyarrow").types
    is_list = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
    numbers = kind.value_type if is_list else None
    if numbers is None or not (types.is_floating(numbers) or types.is_int8(numbers) or types.is_uint8(numbers)):
        raise InputError(
            f"{file.url}: the column {VECTOR!r} has the type {kind}",
            next_step="it must be lists of float16, float32, float64, int8 or uint8",
        )
    if types.is_fixed_size_list(kind) and not 0 < kind.list_size <= MOST_NUMBERS:
        raise InputError(f"{file.url}: its vectors have {kind.list_size:,} numbers", next_step=f"1 to {MOST_NUMBERS:,}")


def _vectors(file: InputFile, array: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return (rows, numbers) vectors, zeros where there is none, and where there is none."""
    pyarrow = require("pyarrow")
    try:
        array.validate(full=True)
        missing = np.asarray(array.is_null().to_numpy(zero_copy_only=False), bool)
        present = array.drop_null()
        lengths = np.unique(require("pyarrow.compute").list_value_length(present).to_numpy(zero_copy_only=False))
        if len(lengths) > 1 or not np.all((lengths > 0) & (lengths <= MOST_NUMBERS)):
            told = f"vectors of {lengths[0]:,} to {lengths[-1]:,} numbers"
            raise InputError(f"{file.url}: has {told}", next_step="a column of vectors of one length is needed")
        numbers = present.flatten()
        if numbers.null_count:
            raise InputError(f"{file.url}: a vector has a number that is missing", next_step="write the file again")
        plain = numbers.to_numpy(zero_copy_only=False)
    except (pyarrow.ArrowException, ValueError) as error:
        raise unreadable(file, ValueError(first_line(error))) from error
    length = int(lengths[0]) if len(lengths) else 0
    vectors = np.zeros((len(missing), length), plain.dtype)
    vectors[~missing] = plain.reshape(-1, length) if length else vectors[~missing]
    return vectors, missing


def _keys(file: InputFile, array: Any, name: str, id_column: str | None) -> list[str] | list[int]:
    values = array.to_pylist()
    kinds: tuple[type, ...] = (int,) if id_column is None else (str, int)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise InputError(
                f"{file.url}: the column {name!r} has the value {quoted(value)}",
                next_step="ids are text or integers" if id_column else "name the column of ids with `id_column`",
            )
    return values if id_column is None else [str(value) for value in values]
