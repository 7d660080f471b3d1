"""Some of the vectors that were written are encoded again, alone, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from exporter.corpus.job import Job
from exporter.corpus.output import Output
from exporter.corpus.plan import Part
from exporter.corpus.reading import read_rows
from exporter.corpus.results import Sample
from exporter.corpus.rows import Range, Rows
from exporter.corpus.stores import cause_of, errors_of_stores
from exporter.corpus.windows import WindowEncoder
from exporter.dependencies import require
from exporter.errors import BundleError, GateError, InputError
from exporter.runtime.vector_types import Stored

PARTS, ROWS = 16, 4  # at most, and of each of them
_ROWS_READ = 512  # at once of what was written
_BATCH_DEVIATION = 0.05  # of a gate that bounds none
_HALF = 1e-3  # relative step of float16: a last digit of float32 may turn one over
_CODES, _SIGNS = 0.2, 0.05  # shares of codes that differ by more than a step, and of signs that differ


def sampled(parts: Sequence[Part]) -> list[Part]:
    """Return up to 16 of the parts, from the first to the last."""
    chosen = {int(place) for place in np.linspace(0, len(parts) - 1, PARTS)} if parts else set()
    return [parts[place] for place in sorted(chosen)]


def check_sample(job: Job, parts: Sequence[Part], windows: WindowEncoder, output: Output) -> Sample:
    """Encode rows of the first window of parts again, each in a batch of its own; see ``job.Workers``."""
    dtype, gate = job.options.dtype, job.gate
    floats = (gate.max_batch_deviation or _BATCH_DEVIATION) + (_HALF if dtype == "float16" else 0)
    bound = {"int8": _CODES, "uint8": _CODES, "binary": _SIGNS, "ubinary": _SIGNS}.get(dtype, floats)
    few = {"int8": 2, "uint8": 2, "binary": 2 / 8, "ubinary": 2 / 8}  # two of few dimensions are a large share
    largest, count = 0.0, 0
    for part, row, written, again in _rows_of(job, parts, windows, output):
        difference = _difference(written, again, dtype)
        if not difference <= max(bound, few.get(dtype, 0) / len(again)):
            raise GateError(
                f"{output.place.url}/{part.name}, row {row}: the vector differs from that of its text by "
                f"{difference:.2g}, allowed {bound:g}",
                report={"row": row, "difference": difference, "bound": bound},
                next_step="embed again into another folder, and please report this",
            )
        largest, count = max(largest, difference), count + 1
    return Sample(count, largest, bound)


def _rows_of(
    job: Job, parts: Sequence[Part], windows: WindowEncoder, output: Output
) -> Iterator[tuple[Part, int, Stored, Stored]]:
    """Yield some rows of the first window of parts: part, row, the vector that was written, and that of now."""
    for number, of_file in groupby(parts, key=attrgetter("file")):
        some = list(of_file)
        written = [_first_window(output, part, job.schema) for part in some]
        firsts = [Range(part.place, part.place.row + window.rows) for part, window in zip(some, written, strict=True)]
        read = read_rows(job.identity.files[number], job.columns, firsts)
        for part, window in zip(some, written, strict=True):
            rows = next(read, None)
            if rows is None or len(rows) != window.rows:
                raise InputError(f"{job.identity.files[number].url}: has changed", next_step="choose another `out`")
            for row, vector in window.vectors.items():
                alone = windows.encode(windows.tokenize(_one(rows, row))).vectors
                yield part, row, np.array(vector, alone.dtype), alone[0]


@dataclass(frozen=True)
class _Window:
    """How many rows the first window of a part has, and the vectors of some of them, by row."""

    rows: int
    vectors: dict[int, list[float]]


def _first_window(output: Output, part: Part, schema: Any) -> _Window:
    """Read the first window of a part.

    Raises:
        BundleError: It cannot be read, or is not what was written: it was replaced, and its manifest with it.
    """
    try:
        with output.place.open(part.name) as file:
            return _window_of(require("pyarrow.parquet").ParquetFile(file), part, schema)
    except errors_of_stores(require("pyarrow").ArrowException, ValueError, LookupError) as error:
        raise BundleError(
            f"{output.place.url}/{part.name}: cannot be read as a part: {cause_of(error)}",
            next_step="run the same command again; if it says the same, remove this file first: it is made again",
        ) from error


def _window_of(parquet: Any, part: Part, schema: Any) -> _Window:
    for name in ("vector", "error"):
        if parquet.schema_arrow.field(name).type != schema.field(name).type:
            raise ValueError(f"the column {name!r} has another type")
    rows = parquet.metadata.row_group(0).num_rows if parquet.num_row_groups else 0
    if not 0 < rows <= part.rows:
        raise ValueError("the first row group has another number of rows")
    return _Window(rows, _some_vectors(parquet))


def _some_vectors(parquet: Any) -> dict[int, list[float]]:
    errors = parquet.read_row_group(0, columns=["error"])["error"]
    encoded = np.flatnonzero(np.asarray(errors.is_null()))
    chosen = encoded[np.linspace(0, len(encoded) - 1, min(ROWS, len(encoded))).astype(int)]
    vectors = {}
    first = 0
    for batch in parquet.iter_batches(_ROWS_READ, row_groups=[0], columns=["vector"], use_threads=False):
        for row in chosen[(first <= chosen) & (chosen < first + len(batch))].tolist():
            vectors[row] = batch["vector"][row - first].as_py()
            if vectors[row] is None:
                raise ValueError(f"row {row} has neither a vector nor an error")
        first += len(batch)
    return vectors


def _one(rows: Rows, row: int) -> Rows:
    return Rows(rows.start + row, [rows.texts[row]], [])


def _difference(written: Stored, again: Stored, dtype: str) -> float:
    if dtype in ("binary", "ubinary"):
        return float(np.unpackbits(written.view(np.uint8) ^ again.view(np.uint8)).mean())
    if dtype in ("int8", "uint8"):
        return float((np.abs(written.astype(int) - again.astype(int)) > 1).mean())
    first, second = written.astype(np.float64), again.astype(np.float64)
    return float(np.linalg.norm(first - second)) / max(float(np.linalg.norm(second)), 1e-30)
