"""Some of the vectors that were written are encoded again, alone, and compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from exporter.corpus.local import Work
from exporter.corpus.plan import Part
from exporter.corpus.reading import read_rows
from exporter.corpus.rows import WINDOW, Range, Rows
from exporter.dependencies import require
from exporter.errors import GateError
from exporter.recipe import Gate
from exporter.runtime.vector_types import Stored

PARTS, ROWS = 16, 4  # at most, and of each of them
_ROWS_READ = 512  # at once of what was written
_BATCH_DEVIATION = 0.05  # of a gate that bounds none
_HALF = 1e-3  # relative step of float16: a last digit of float32 may turn one over
_CODES, _SIGNS = 0.2, 0.05  # shares of codes that differ by more than a step, and of signs that differ


@dataclass(frozen=True)
class Sample:
    """What the comparison came to.

    Attributes:
        rows: How many rows were encoded again.
        largest: Largest relative difference of a row; of stored codes or signs, the largest share that differs.
        bound: What is allowed.
    """

    rows: int
    largest: float
    bound: float


def check_sample(work: Work, gate: Gate, dtype: str) -> Sample:
    """Encode rows of the first window of up to 16 parts again, each in a batch of its own.

    Raises:
        GateError: A written vector is another than that of its text.
    """
    floats = (gate.max_batch_deviation or _BATCH_DEVIATION) + (_HALF if dtype == "float16" else 0)
    bound = {"int8": _CODES, "uint8": _CODES, "binary": _SIGNS, "ubinary": _SIGNS}.get(dtype, floats)
    few = {"int8": 2, "uint8": 2, "binary": 2 / 8, "ubinary": 2 / 8}  # two of few dimensions are a large share
    largest, count = 0.0, 0
    for part, row, written, again in _rows_of(work):
        difference = _difference(written, again, dtype)
        if not difference <= max(bound, few.get(dtype, 0) / len(again)):
            raise GateError(
                f"{work.output.place.url}/{part.name}, row {row}: the vector differs from that of its text by "
                f"{difference:.2g}, allowed {bound:g}",
                report={"row": row, "difference": difference, "bound": bound},
                next_step="embed again into another folder, and please report this",
            )
        largest, count = max(largest, difference), count + 1
    return Sample(count, largest, bound)


def _rows_of(work: Work) -> Iterator[tuple[Part, int, Stored, Stored]]:
    """Yield some rows of the first window of some parts: part, row, the vector that was written, and that of now."""
    parts = work.plan.parts
    chosen = sorted({int(place) for place in np.linspace(0, len(parts) - 1, PARTS)}) if parts else []
    for number, of_file in groupby((parts[place] for place in chosen), key=attrgetter("file")):
        sampled = list(of_file)
        firsts = [Range(part.place, min(part.range.stop, part.place.row + WINDOW)) for part in sampled]
        windows = read_rows(work.plan.identity.files[number], work.columns, firsts)
        for part, rows in zip(sampled, windows, strict=True):
            for row, written in _written(work, part):
                alone = work.windows.encode(work.windows.tokenize(_one(rows, row))).vectors
                yield part, row, np.array(written, alone.dtype), alone[0]


def _written(work: Work, part: Part) -> Iterator[tuple[int, list[float]]]:
    """Yield some rows of a part's first window that have a vector, and these vectors."""
    with work.output.place.open(part.name) as file:
        parquet = require("pyarrow.parquet").ParquetFile(file)
        errors = parquet.read_row_group(0, columns=["error"])["error"]
        encoded = np.flatnonzero(np.asarray(errors.is_null()))
        chosen = encoded[np.linspace(0, len(encoded) - 1, min(ROWS, len(encoded))).astype(int)]
        first = 0
        for batch in parquet.iter_batches(_ROWS_READ, row_groups=[0], columns=["vector"], use_threads=False):
            for row in chosen[(first <= chosen) & (chosen < first + len(batch))].tolist():
                yield row, batch["vector"][row - first].as_py()
            first += len(batch)


def _one(rows: Rows, row: int) -> Rows:
    return Rows(rows.start + row, [rows.texts[row]], [])


def _difference(written: Stored, again: Stored, dtype: str) -> float:
    if dtype in ("binary", "ubinary"):
        return float(np.unpackbits(written.view(np.uint8) ^ again.view(np.uint8)).mean())
    if dtype in ("int8", "uint8"):
        return float((np.abs(written.astype(int) - again.astype(int)) > 1).mean())
    first, second = written.astype(np.float64), again.astype(np.float64)
    return float(np.linalg.norm(first - second)) / max(float(np.linalg.norm(second)), 1e-30)
