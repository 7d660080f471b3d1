"""What a run came to: rows, seconds, and the comparison at its end. All of them add up over workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields


@dataclass
class Counts:
    """Counts of rows and tokens.

    Attributes:
        rows: Of the input.
        encoded: Rows that have a vector.
        duplicates: Rows among them whose text stood in the same window before, and was not encoded again.
        truncated: Rows among them that have more tokens than the model reads.
        faults: Rows without a vector, by what is wrong with them.
        tokens: That were encoded, padding left out.
        padding: Tokens of padding.
    """

    rows: int = 0
    encoded: int = 0
    duplicates: int = 0
    truncated: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    padding: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.rows + other.rows,
            self.encoded + other.encoded,
            self.duplicates + other.duplicates,
            self.truncated + other.truncated,
            dict(Counter(self.faults) + Counter(other.faults)),
            self.tokens + other.tokens,
            self.padding + other.padding,
        )


@dataclass
class Seconds:
    """What took how long, in seconds of wall-clock time. Reading and tokenizing overlap with encoding.

    Attributes:
        read: Reading the input.
        tokenize: Texts to token ids.
        encode: Token ids to vectors.
        write: Writing the output.
        processor: Processor time of all of it.
    """

    read: float = 0.0
    tokenize: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    processor: float = 0.0

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the time of a block."""
        started = time.perf_counter()
        yield
        setattr(self, name, getattr(self, name) + time.perf_counter() - started)

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


@dataclass(frozen=True)
class Sample:
    """What the comparison at the end came to.

    Attributes:
        rows: How many rows were encoded again.
        largest: Largest relative difference of a row; of stored codes or signs, the largest share that differs.
        bound: What is allowed.
    """

    rows: int = 0
    largest: float = 0.0
    bound: float = 0.0

    def __add__(self, other: Sample) -> Sample:
        return Sample(self.rows + other.rows, max(self.largest, other.largest), max(self.bound, other.bound))


@dataclass(frozen=True)
class Made:
    """What parts came to, what they took, the comparison, and the names of the processors or GPUs that encoded them."""

    counts: Counts = field(default_factory=Counts)
    seconds: Seconds = field(default_factory=Seconds)
    sample: Sample = field(default_factory=Sample)
    processors: frozenset[str] = frozenset()

    def __add__(self, other: Made) -> Made:
        return Made(
            self.counts + other.counts,
            self.seconds + other.seconds,
            self.sample + other.sample,
            self.processors | other.processors,
        )
