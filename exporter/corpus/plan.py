"""The parts of an output, each of a fixed range of rows of one file, and what they are made from.

A plan is a function of the input, the bundle and the options. It is written down before the first part, so that a
resumed run need not count rows again, and so that one folder never holds parts of two plans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from exporter.corpus.files import InputFile
from exporter.corpus.reading import places_of
from exporter.corpus.rows import Place, Range
from exporter.errors import InputError

FORMAT = 1


@dataclass(frozen=True)
class Part:
    """One file of the output.

    Attributes:
        number: From 0 on, in the order of the input.
        file: Number of the input file.
        place: Where its rows begin in that file.
        rows: How many.
        position: How many rows of the input come before.
    """

    number: int
    file: int
    place: Place
    rows: int
    position: int

    @property
    def range(self) -> Range:
        """Its rows in the input file."""
        return Range(self.place, self.place.row + self.rows)

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"part-{self.number:06d}.parquet"

    @property
    def manifest(self) -> str:
        """Name of the file that commits it."""
        return f"_part-{self.number:06d}.json"


@dataclass(frozen=True)
class Identity:
    """What decides every byte of the vectors.

    Attributes:
        bundle: Seal of the bundle.
        options: Those options that the output depends on, as JSON data.
        files: URL, size and version of each input file.
    """

    bundle: str
    options: dict[str, Any]
    files: tuple[InputFile, ...]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of it as JSON."""
        return _hash(json.dumps(asdict(self), sort_keys=True))

    def sha256_of(self, part: Part) -> str:
        """Return the SHA-256 of what decides every byte of a part: of this, and of the part's rows."""
        return _hash(json.dumps([self.sha256, asdict(part)], sort_keys=True))


@dataclass(frozen=True)
class Plan:
    """The parts of an output.

    Attributes:
        identity: What they are made from.
        rows: Rows of each input file.
        parts: In the order of the input.
    """

    identity: Identity
    rows: tuple[int, ...]
    parts: tuple[Part, ...]

    def to_json(self) -> bytes:
        """Return the content of ``_plan.json``."""
        content = json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)
        return f"{json.dumps({'sha256': _hash(content), 'plan': content}, ensure_ascii=False)}\n".encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Plan:
        """Read ``_plan.json``.

        Raises:
            InputError: It is damaged, or of another version of korsbert.
        """
        try:
            stated = json.loads(content)
            plan = json.loads({_hash(stated["plan"]): stated["plan"]}[stated["sha256"]])
            read = _PLAN.validate_python({FORMAT: plan}[plan.pop("format")])
            read.check()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{where}: damaged, or of another version of korsbert",
                next_step="choose another `out`, or remove the whole folder",
            ) from error
        return read

    def check(self) -> None:
        """Refuse parts that are not numbered from 0 on, or do not have every row of every file once and in order.

        Raises:
            ValueError: They are not, or do not.
        """
        count, position = 0, 0
        if len(self.rows) != len(self.identity.files):
            raise ValueError("rows of another number of files")
        for file, rows in enumerate(self.rows):
            row = 0
            while row < rows and count < len(self.parts):
                part = self.parts[count]
                place = (part.number, part.file, part.place.row, part.position)
                if place != (count, file, row, position + row) or part.rows < 1 or part.place.offset < 0:
                    raise ValueError(f"the part {count} is not where the one before it ends")
                row += part.rows
                count += 1
            if row != rows:
                raise ValueError(f"the parts do not have the {rows} rows of file {file}")
            position += rows
        if count != len(self.parts):
            raise ValueError("parts without rows")


_PLAN = TypeAdapter(Plan)


def _hash(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def make_plan(identity: Identity, rows_per_part: int) -> Plan:
    """Count the rows of the input and cut them into parts.

    Raises:
        InputError: A file cannot be read.
    """
    rows: list[int] = []
    parts: list[Part] = []
    position = 0
    for number, file in enumerate(identity.files):
        count, places = places_of(file, rows_per_part)
        for place in places:
            size = min(rows_per_part, count - place.row)
            parts.append(Part(len(parts), number, place, size, position + place.row))
        rows.append(count)
        position += count
    return Plan(identity, tuple(rows), tuple(parts))


def refuse_another(made: Identity, asked: Identity, where: str) -> None:
    """Refuse to go on with a folder that was made from something else.

    Raises:
        InputError: The bundle, an option or the input differs; both values are named.
    """
    differences: list[tuple[str, object, object]] = [("the bundle", made.bundle[:12], asked.bundle[:12])]
    options = sorted(made.options.keys() | asked.options.keys())
    differences += [(f"`{name}`", made.options.get(name), asked.options.get(name)) for name in options]
    differences += _of_files(made.files, asked.files)
    for name, before, now in differences:
        if before != now:
            raise InputError(
                f"{where}: {name} was {before} when it was begun, and now it is {now}",
                next_step="choose another `out`, give what it was begun with, or use `resume=False` to begin again",
            )


def refuse_changed(identity: Identity, files: tuple[InputFile, ...], where: str) -> None:
    """Refuse an input that is not what it was when the run began.

    Raises:
        InputError: A file differs; both values are named.
    """
    for name, before, now in _of_files(identity.files, files):
        if before != now:
            raise InputError(
                f"{where}: the input was changed while it was read: {name} was {before} when it was begun, and now it "
                f"is {now}",
                next_step="run it again with another `out`, or with `resume=False`",
            )


def _of_files(made: Sequence[InputFile], asked: Sequence[InputFile]) -> list[tuple[str, object, object]]:
    differences: list[tuple[str, object, object]] = [("the number of input files", len(made), len(asked))]
    for before, now in zip(made, asked, strict=False):
        differences += [
            ("an input file", before.url, now.url),
            (f"the size of {now.url}", before.size, now.size),
            (f"the version of {now.url}", before.version, now.version),
        ]
    return differences
