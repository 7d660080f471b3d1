"""The rows of a file, and what is wrong with some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exporter.corpus.files import InputFile
from exporter.errors import InputError, first_line

WINDOW = 8192  # rows that are sorted by length together, at most
WINDOW_BYTES = 2**24  # of what is read of them: a window ends with the row that reaches it
ROW_BYTES = 2**26  # of a row of text, at most: a quote that nobody closes takes in the rest of the file

Fault = str
"""What is wrong with a row: a key of the table in ``docs/embed.md``."""
KEPT_FAULT = "a kept column of another type"


@dataclass(frozen=True)
class Columns:
    """Which columns are read.

    Attributes:
        text: The column of texts.
        kept: The columns that the output has too, the id first where there is one.
        types: Their Arrow types in the output.
        as_json: Those among them whose values are written as JSON: of JSON Lines, what has no simple type.
    """

    text: str
    kept: tuple[str, ...]
    types: tuple[Any, ...] = ()
    as_json: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Place:
    """Where reading can begin.

    Attributes:
        row: Row of the file.
        offset: Its first byte, or in an Arrow file its record batch; 0 where the file is read from its beginning.
        skip: Rows of that record batch before it; 0 in other files.
    """

    row: int
    offset: int = 0
    skip: int = 0

    @property
    def from_the_beginning(self) -> bool:
        """Whether rows before it have to be read. Not of Parquet, where row groups are found by their number."""
        return self.row > 0 and not self.offset and not self.skip


@dataclass(frozen=True)
class Range:
    """Consecutive rows of a file, from a place to the row ``stop`` (excluded)."""

    place: Place
    stop: int


@dataclass(frozen=True)
class Rows:
    """A window: consecutive rows of a file.

    Attributes:
        start: Row of the file that is the first here.
        texts: The column of texts, whatever is in it.
        kept: The columns that the output has too, as Arrow arrays.
        faults: What is wrong with a row besides its text, by its number here.
        offsets: The first byte of each row, in files of text.
    """

    start: int
    texts: Sequence[object]
    kept: Sequence[Any]
    faults: Mapping[int, Fault] = field(default_factory=dict)
    offsets: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def named(self, number: int) -> str:
        """Return what a user finds a row by: its row of the file, and where it begins, by its number here."""
        where = f", at byte {self.offsets[number]}" if self.offsets else ""
        return f"row {self.start + number} (counted from 0{where})"


def refuse_missing(file: InputFile, known: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a file that lacks a column, or has it twice.

    Raises:
        InputError: The column is named, and those that there are.
    """
    for name in wanted:
        if name not in known:
            raise InputError(
                f"{file.url}: there is no column {name!r}", next_step=f"its columns are {', '.join(map(repr, known))}"
            )
        if known.count(name) > 1:
            raise InputError(f"{file.url}: the column {name!r} is there twice", next_step="rename one of them")


def unreadable(file: InputFile, error: Exception) -> InputError:
    """Return the error of a file that a library cannot read."""
    return InputError(f"{file.url}: cannot be read as {file.format}: {first_line(error)}", next_step="check the file")
