"""measure(): encoders timed in turns, on a clock.

Two programs that are timed one after the other differ by whatever else the machine did meanwhile. So all subjects are
measured in the same run, in turns: each round times all of them, every second round in reverse order, and a ratio is
the median of the ratios within rounds. Times are from string to vector, tokenization included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.dependencies import require

if TYPE_CHECKING:
    from exporter.checkpoint import Checkpoint
    from exporter.runtime.encoder import Encoder

Encode = Callable[[list[str], int], object]
"""Encodes sentences in batches of so many rows. What it returns is not looked at."""

SINGLES = 128
"""Sentences that are encoded alone in each round, for latency."""


@dataclass(frozen=True)
class Subject:
    """What was measured of one encoder.

    Attributes:
        name: What it is called in tables.
        sentences_per_s: Median over the rounds.
        p50_ms: Median latency of a single sentence (batch 1) over all rounds, in milliseconds.
        p99_ms: 99th percentile of the same.
        ratio: Throughput relative to the first subject: the median over the rounds of the ratio within a round.
        round_s: Seconds that all sentences took, by round.
    """

    name: str
    sentences_per_s: float
    p50_ms: float
    p99_ms: float
    ratio: float
    round_s: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON data."""
        return {
            "name": self.name,
            "sentences_per_s": round(self.sentences_per_s, 2),
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "ratio": round(self.ratio, 4),
            "round_s": [round(seconds, 5) for seconds in self.round_s],
        }


def measure(
    encoders: Mapping[str, Encode],
    sentences: Sequence[str],
    *,
    batch_size: int,
    rounds: int,
    singles: int = SINGLES,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Subject, ...]:
    """Time encoders in turns.

    A round that is not counted comes first: engines choose kernels and allocate memory by shape.

    Args:
        encoders: What to time, by name; the first is what the others are relative to.
        sentences: What they encode.
        batch_size: Rows per batch.
        rounds: Counted rounds, 1 or more.
        singles: How many of the sentences, evenly spread, are also encoded alone for latency.
        clock: Returns seconds.
        progress: Told what is timed next, outside of the time that is measured.
    """
    if not encoders or not sentences or rounds < 1 or singles < 1:
        raise ValueError("there must be an encoder, a sentence, a round and a single sentence at least")
    alone = evenly_spread(sentences, singles)
    round_s: dict[str, list[float]] = {name: [] for name in encoders}
    latency_ms: dict[str, list[float]] = {name: [] for name in encoders}
    in_order = tuple(encoders.items())
    for number in range(rounds + 1):
        for name, encode in in_order if number % 2 else in_order[::-1]:
            progress(f"{name}, {f'round {number} of {rounds}' if number else 'warm-up'}")
            started = clock()
            encode(list(sentences), batch_size)
            elapsed_s = clock() - started
            alone_ms = [_time_ms(encode, sentence, clock) for sentence in alone]
            if number:
                round_s[name].append(elapsed_s)
                latency_ms[name] += alone_ms
    baseline_s = np.array(next(iter(round_s.values())))
    return tuple(
        Subject(
            name=name,
            sentences_per_s=len(sentences) / float(np.median(seconds)),
            p50_ms=float(np.percentile(latency_ms[name], 50)),
            p99_ms=float(np.percentile(latency_ms[name], 99)),
            ratio=float(np.median(baseline_s / np.array(seconds))),
            round_s=tuple(seconds),
        )
        for name, seconds in round_s.items()
    )


def _time_ms(encode: Encode, sentence: str, clock: Callable[[], float]) -> float:
    started = clock()
    encode([sentence], 1)
    return 1000 * (clock() - started)


def evenly_spread(sentences: Sequence[str], count: int) -> list[str]:
    """Return ``count`` of the sentences at equal distances, or all where there are no more."""
    kept = min(count, len(sentences))
    return [sentences[position * len(sentences) // kept] for position in range(kept)]


def encode_of(encoder: Encoder) -> Encode:
    """Return an encoder's ``encode``."""

    def encode(sentences: list[str], batch_size: int) -> object:
        return encoder.encode(sentences, batch_size=batch_size)

    return encode


def reference_encode(checkpoint: Checkpoint) -> Encode:
    """Return the SentenceTransformer's own ``encode``, without the progress bar."""

    def encode(sentences: list[str], batch_size: int) -> object:
        return checkpoint.model.encode(sentences, batch_size=batch_size, show_progress_bar=False)

    return encode


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Have torch compute with so many threads meanwhile; None leaves it alone, and unimported."""
    if threads is None:
        yield
        return
    torch = require("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
