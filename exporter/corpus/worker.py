"""A worker is one process: a thread reads and tokenizes the next window while the engine computes this one."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np

from exporter.bundle import Bundle
from exporter.corpus.job import Job
from exporter.corpus.options import OnError
from exporter.corpus.output import Output, vector_array
from exporter.corpus.places import Place
from exporter.corpus.plan import Part
from exporter.corpus.reading import read_rows
from exporter.corpus.results import Counts, Made, Seconds
from exporter.corpus.rows import Fault, Rows
from exporter.corpus.sample import check_sample
from exporter.corpus.windows import Encoded, OnProgress, Tokenized, WindowEncoder
from exporter.dependencies import require
from exporter.engines.cuda import find_gpu
from exporter.errors import InputError
from exporter.machine import machine

_WINDOWS_AHEAD = 2
_THREADS_OF_TOKENIZERS = "RAYON_NUM_THREADS"

_T = TypeVar("_T")


class Worker:
    """Makes parts in this process; see ``job.Workers``.

    Args:
        job: What the parts share.
        windows: Encodes.
        output: Where parts go.
        processor: Name of the processor or GPU that encodes.
        on_progress: See ``opened``.
        on_parts: See ``opened``.
    """

    def __init__(
        self,
        job: Job,
        windows: WindowEncoder,
        output: Output,
        processor: str,
        on_progress: OnProgress,
        on_parts: Callable[[int], None],
    ) -> None:
        self._job = job
        self._windows = windows
        self._output = output
        self._processor = processor
        self._on_progress = on_progress
        self._on_parts = on_parts

    @classmethod
    @contextmanager
    def opened(
        cls,
        job: Job,
        bundle: Bundle,
        place: Place,
        *,
        threads: int,
        on_progress: OnProgress = lambda: None,
        on_parts: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Worker]:
        """Yield a worker with the engine of a bundle.

        Args:
            job: What the parts share.
            bundle: Whose engine encodes.
            place: Where parts go.
            threads: CPU threads of the engine.
            on_progress: Called when it is open, and after every window that is read and tokenized and every batch.
            on_parts: Called with 1 when a part is committed.
        """
        with bundle.encoder(threads=threads) as encoder:
            on_progress()
            windows = WindowEncoder(encoder, job.prompt, job.options, on_progress)
            yield cls(job, windows, Output(place), processor_of(encoder.device), on_progress, on_parts)

    def embed(self, parts: Sequence[Part], sampled: Sequence[Part], on_counts: Callable[[Counts], None]) -> Made:
        """Write and commit parts, one after another, and compare some rows; see ``job.Workers``."""
        counts, seconds, started = Counts(), Seconds(), time.process_time()
        with _ahead(self._tokenized(parts, seconds)) as windows:
            for part in parts:
                counts += self._embed_part(part, windows, seconds, on_counts)
        sample = check_sample(self._job, sampled, self._windows, self._output)
        seconds.processor = time.process_time() - started
        return Made(counts, seconds, sample, frozenset({self._processor}))

    def _embed_part(
        self, part: Part, windows: Iterator[Tokenized], seconds: Seconds, on_counts: Callable[[Counts], None]
    ) -> Counts:
        counts = Counts()
        with self._output.writing_part(part, self._job.schema) as writer:
            while counts.rows < part.rows:
                window = next(windows)
                with seconds.of("encode"):
                    encoded = self._windows.encode(window)
                self._refuse_faults(part, encoded.faults, encoded.rows)
                with seconds.of("write"):
                    writer.write(self._table(part, encoded))
                counts += encoded.counts
                with suppress(OSError):  # of a terminal that is gone
                    on_counts(encoded.counts)
        self._output.commit(part, self._job.identity, writer, counts)
        with suppress(OSError):
            self._on_parts(1)
        return counts

    def _tokenized(self, parts: Sequence[Part], seconds: Seconds) -> Iterator[Tokenized]:
        """Yield the windows of parts; those of each have as many rows as the part."""
        for number, of_file in groupby(parts, key=attrgetter("file")):
            left = deque(of_file)
            ranges = [part.range for part in left]
            windows = read_rows(self._job.identity.files[number], self._job.columns, ranges, self._on_progress)
            count = 0
            while left:
                with seconds.of("read"):
                    rows = next(windows, None)
                if rows is None or rows.start != left[0].place.row + count:
                    raise self._changed(left[0], count)
                with seconds.of("tokenize"):
                    window = self._windows.tokenize(rows)
                self._refuse_faults(left[0], window.faults, rows)
                self._on_progress()
                yield window
                count += len(rows)
                if count == left[0].rows:
                    left.popleft()
                    count = 0

    def _table(self, part: Part, encoded: Encoded) -> Any:
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
        return pyarrow.Table.from_arrays(columns, schema=self._job.schema)

    def _refuse_faults(self, part: Part, faults: Mapping[int, Fault], rows: Rows) -> None:
        """Stop at the first row that cannot be encoded, unless such rows are to be recorded."""
        if not faults or self._job.options.on_error is OnError.RECORD:
            return
        row = min(faults)
        file = self._job.identity.files[part.file]
        raise InputError(
            f"{file.url}: {rows.named(row)} cannot be encoded: {faults[row]}",
            next_step="correct it, or record such rows with `on_error=record`: a null vector and the reason",
        )

    def _changed(self, part: Part, rows: int) -> InputError:
        file = self._job.identity.files[part.file]
        return InputError(
            f"{file.url}: has {rows} rows from row {part.place.row} on, and had {part.rows}: it has changed",
            next_step="choose another `out`",
        )


def processor_of(device: str) -> str:
    """Return the name of the GPU or, where vectors are computed without one, of the processor of this machine."""
    gpu = find_gpu() if device == "cuda" else None
    return str(machine()["processor"]) if gpu is None else gpu.name


@contextmanager
def bounded_threads(threads: int) -> Iterator[None]:
    """Give the tokenizer and pyarrow so many threads each, which have one for every core otherwise.

    The tokenizer starts its threads when it is first used in a process and keeps them. ``RAYON_NUM_THREADS`` is read
    then; a value that the user has set stays. At the end, pyarrow and the environment are as they were.
    """
    pyarrow = require("pyarrow")
    own = _THREADS_OF_TOKENIZERS not in os.environ
    counts = pyarrow.cpu_count(), pyarrow.io_thread_count()
    try:
        os.environ.setdefault(_THREADS_OF_TOKENIZERS, str(threads))
        pyarrow.set_cpu_count(threads)
        pyarrow.set_io_thread_count(threads)
        yield
    finally:
        pyarrow.set_cpu_count(counts[0])
        pyarrow.set_io_thread_count(counts[1])
        if own:
            os.environ.pop(_THREADS_OF_TOKENIZERS, None)


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
