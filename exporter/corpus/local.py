"""One process: a thread reads and tokenizes the next window while the engine computes this one."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

from exporter.corpus.counts import Counts
from exporter.corpus.options import OnError
from exporter.corpus.output import Output, vector_array
from exporter.corpus.plan import Part, Plan
from exporter.corpus.reading import read_rows
from exporter.corpus.rows import Columns, Fault, Rows
from exporter.corpus.windows import Encoded, Tokenized, WindowEncoder
from exporter.dependencies import require
from exporter.errors import InputError

_WINDOWS_AHEAD = 2

_T = TypeVar("_T")


@dataclass
class Seconds:
    """What took how long, in seconds of wall-clock time. Reading and tokenizing overlap with encoding."""

    read: float = 0.0
    tokenize: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the time of a block."""
        started = time.perf_counter()
        yield
        setattr(self, name, getattr(self, name) + time.perf_counter() - started)


@dataclass(frozen=True)
class Work:
    """What every part of a run shares.

    Attributes:
        plan: The parts.
        columns: What is read.
        schema: Of the output.
        windows: Encodes.
        output: Where parts go.
        on_error: What is done with a text that cannot be encoded.
        seconds: What took how long.
    """

    plan: Plan
    columns: Columns
    schema: Any
    windows: WindowEncoder
    output: Output
    on_error: OnError
    seconds: Seconds = field(default_factory=Seconds)


def embed_parts(work: Work, parts: Sequence[Part], on_window: Callable[[Counts], None] = lambda _: None) -> Counts:
    """Write and commit parts, one after another.

    Args:
        work: What they share.
        parts: Which.
        on_window: Called with the counts of each window that is written.

    Raises:
        InputError: A row cannot be encoded and rows are not to be recorded, or a file cannot be read or written.
    """
    total = Counts()
    with _ahead(_tokenized(work, parts)) as windows:
        for part in parts:
            counts = Counts()
            with work.output.writing_part(part, work.schema) as writer:
                while counts.rows < part.rows:
                    window = next(windows)
                    with work.seconds.of("encode"):
                        encoded = work.windows.encode(window)
                    _refuse_faults(work, part, encoded.faults, encoded.rows)
                    with work.seconds.of("write"):
                        writer.write(_table(work, part, encoded))
                    counts += encoded.counts
                    with suppress(OSError):  # of a terminal that is gone
                        on_window(encoded.counts)
            work.output.commit(part, work.plan.identity.bundle, writer, counts)
            total += counts
    return total


def _tokenized(work: Work, parts: Sequence[Part]) -> Iterator[Tokenized]:
    """Yield the windows of parts; those of each have as many rows as the part."""
    for number, of_file in groupby(parts, key=attrgetter("file")):
        left = deque(of_file)
        windows = read_rows(work.plan.identity.files[number], work.columns, [part.range for part in left])
        count = 0
        while left:
            with work.seconds.of("read"):
                rows = next(windows, None)
            if rows is None or rows.start != left[0].place.row + count:
                raise _changed(work, left[0], count)
            with work.seconds.of("tokenize"):
                window = work.windows.tokenize(rows)
            _refuse_faults(work, left[0], window.faults, rows)
            yield window
            count += len(rows)
            if count == left[0].rows:
                left.popleft()
                count = 0


def _table(work: Work, part: Part, encoded: Encoded) -> Any:
    """Return the Arrow table of a window."""
    pyarrow = require("pyarrow")
    rows = encoded.rows
    first = part.position + rows.start - part.place.row
    faults = [encoded.faults.get(row) for row in range(len(rows))]
    columns = [
        *rows.kept,
        pyarrow.array(np.arange(first, first + len(rows))),
        vector_array(encoded.vectors, np.array([fault is not None for fault in faults])),
        pyarrow.array(faults, pyarrow.string()),
    ]
    return pyarrow.Table.from_arrays(columns, schema=work.schema)


def _refuse_faults(work: Work, part: Part, faults: Mapping[int, Fault], rows: Rows) -> None:
    """Stop at the first row that cannot be encoded, unless such rows are to be recorded."""
    if not faults or work.on_error is OnError.RECORD:
        return
    row = min(faults)
    file = work.plan.identity.files[part.file]
    raise InputError(
        f"{file.url}: row {rows.start + row} cannot be encoded: {faults[row]}",
        next_step="correct it, or record such rows with `on_error=record`: a null vector and the reason",
    )


def _changed(work: Work, part: Part, rows: int) -> InputError:
    file = work.plan.identity.files[part.file]
    return InputError(
        f"{file.url}: has {rows} rows from row {part.place.row} on, and had {part.rows}: it has changed",
        next_step="choose another `out`",
    )


@contextmanager
def _ahead(items: Iterable[_T]) -> Iterator[Iterator[_T]]:
    """Yield an iterator over items that a thread makes ahead; an exception of theirs is raised where it belongs."""
    made: queue.Queue[tuple[_T | None, BaseException | None]] = queue.Queue(_WINDOWS_AHEAD)
    stopped = threading.Event()

    def put(item: _T | None, error: BaseException | None) -> bool:
        while not stopped.is_set():
            with suppress(queue.Full):
                made.put((item, error), timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
            put(None, None)
        except BaseException as error:  # noqa: BLE001 - raised by the reader
            put(None, error)

    def read() -> Iterator[_T]:
        while True:
            item, error = made.get()
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback refers to this frame
            if item is None:
                return
            yield item

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        yield read()
    finally:
        stopped.set()
        thread.join()
