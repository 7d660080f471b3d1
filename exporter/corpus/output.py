"""The output: a folder of Parquet files, each with a manifest that commits it.

    _plan.json               what the parts are made from, and which there are
    part-000000.parquet      rows: id, kept columns, position, vector, error
    _part-000000.json        its manifest: rows, counts, SHA-256. Without it, the part does not count
    _SUCCESS                 written last: the totals

Readers of Parquet folders skip what begins with ``_`` or ``.``. A part whose manifest is there and agrees with its file
is never written again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from exporter.corpus.places import Place
from exporter.corpus.plan import Identity, Part, Plan
from exporter.corpus.results import Counts
from exporter.corpus.rows import Columns
from exporter.dependencies import require
from exporter.errors import BundleError, InputError

PLAN, SUCCESS = "_plan.json", "_SUCCESS"
METADATA = b"korsbert"
"""Key of the schema's metadata that says what made the vectors, as JSON."""
RESERVED = ("position", "vector", "error")
"""Columns that every output has."""
_OF_PART = re.compile(r"part-\d+\.parquet|_part-\d+\.json")
_LEFT = re.compile(r"\.(part-\d+\.parquet|_part-\d+\.json|_plan\.json|_SUCCESS)\.[0-9a-f]{16}\.partial")


@dataclass(frozen=True)
class PartManifest:
    """What commits a part.

    Attributes:
        part: Its number.
        bundle: Seal of the bundle.
        plan: What the part is made from, as ``Identity.sha256_of`` says it.
        sha256: Of its file.
        version: Of its file, by ``Place.version``: on an object store size and ETag.
        counts: What its rows were.
    """

    part: int
    bundle: str
    plan: str
    sha256: str
    version: str | None
    counts: Counts = field(default_factory=Counts)

    def to_json(self) -> bytes:
        """Return the content of its file."""
        return f"{json.dumps(asdict(self), indent=1)}\n".encode()

    @classmethod
    def from_json(cls, content: bytes) -> PartManifest:
        """Read it.

        Raises:
            ValueError: It is no manifest of a part.
        """
        return _MANIFEST.validate_json(content)


_MANIFEST = TypeAdapter(PartManifest)


class Output:
    """The parts of an output, and what commits them.

    Args:
        place: Where they are.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    def plan(self) -> Plan | None:
        """Return the plan of an earlier run, or None.

        Raises:
            InputError: There is none, and other files are, or it cannot be read.
        """
        names = self.place.names()
        others = {name for name in names if not _LEFT.fullmatch(name)}
        if PLAN not in names and others:
            raise InputError(
                f"{self.place.url}: has other files, {min(others)} for one",
                next_step="choose a folder that is empty or new",
            )
        self.remove_partial_files()
        return Plan.from_json(self.place.read(PLAN), f"{self.place.url}/{PLAN}") if PLAN in names else None

    def remove_partial_files(self) -> None:
        """Remove what processes that were killed have left."""
        for name in self.place.names():
            if _LEFT.fullmatch(name):
                self.place.remove(name)

    def clear(self) -> None:
        """Remove all parts, their end and the plan: that last, as it makes the folder ours."""
        parts = sorted(name for name in self.place.names() if _OF_PART.fullmatch(name))  # manifests are first
        for name in (SUCCESS, *parts, PLAN):
            self.place.remove(name)

    def refuse_other_parts(self, plan: Plan) -> None:
        """Refuse parts that a plan does not have: a late worker of an earlier run may have written them.

        Raises:
            BundleError: There is one. Readers of the folder would take its rows too.
        """
        planned = {name for part in plan.parts for name in (part.name, part.manifest)}
        others = {name for name in self.place.names() if _OF_PART.fullmatch(name)} - planned
        if others:
            raise BundleError(
                f"{self.place.url}/{max(others)}: is of an earlier run, and this output has {len(plan.parts)} parts",
                next_step=f"remove parts and manifests from number {len(plan.parts):06d} on and run the same command "
                "again, or choose another `out`",
            )

    def committed(self, part: Part, identity: Identity) -> PartManifest | None:
        """Return the manifest of a part that is complete; None where it has to be made.

        Raises:
            BundleError: It cannot be read.
        """
        try:
            manifest = PartManifest.from_json(self.place.read(part.manifest))
            version = self.place.version(part.name)
            if (manifest.plan, manifest.counts.rows) != (identity.sha256_of(part), part.rows):
                return None
            if manifest.version != version:
                return None
            return manifest if version is not None or self._sha256(part) == manifest.sha256 else None
        except (FileNotFoundError, ValueError):
            return None

    def _sha256(self, part: Part) -> str:
        with self.place.open(part.name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextmanager
    def writing_part(self, part: Part, schema: Any) -> Iterator[PartWriter]:
        """Yield a writer of a part. Its file is in place at the end of the block; ``commit`` makes it count."""
        self.place.remove(part.manifest)
        writer = PartWriter()
        with self.place.filling(part.name) as path:
            with require("pyarrow.parquet").ParquetWriter(
                path,
                schema,
                compression={leaf: "none" if leaf.startswith("vector.") else "zstd" for leaf in _leaves(schema)},
                use_dictionary=False,
                write_statistics=["position"],
            ) as parquet:
                writer.write = parquet.write_table
                yield writer
            with path.open("rb") as file:
                writer.sha256 = hashlib.file_digest(file, "sha256").hexdigest()

    def commit(self, part: Part, identity: Identity, writer: PartWriter, counts: Counts) -> PartManifest:
        """Write the manifest of a part whose file is in place."""
        version = self.place.version(part.name)
        plan = identity.sha256_of(part)
        manifest = PartManifest(part.number, identity.bundle, plan, writer.sha256, version, counts)
        self.place.write(part.manifest, manifest.to_json())
        return manifest


@dataclass
class PartWriter:
    """Writes a part.

    Attributes:
        write: Appends an Arrow table, as a row group.
        sha256: Of the file, once it is written.
    """

    write: Callable[[Any], None] = lambda _: None
    sha256: str = ""


def schema_of(columns: Columns, vector: Any, facts: Mapping[str, Any]) -> Any:
    """Return the Arrow schema of a part.

    Args:
        columns: Those of the input.
        vector: Arrow type of a vector.
        facts: What made the vectors.

    Raises:
        InputError: A kept column has the name of one that every output has, or a type that Parquet has not.
    """
    pyarrow = require("pyarrow")
    kept = dict(zip(columns.kept, columns.types, strict=True))
    taken = next((name for name in kept if name in RESERVED), None)
    if taken is not None:
        raise InputError(
            f"a kept column is called {taken!r}, which every output has", next_step="rename it in the input"
        )
    fields = [*kept.items(), ("position", pyarrow.int64()), ("vector", vector), ("error", pyarrow.string())]
    schema = pyarrow.schema(fields, metadata={METADATA: json.dumps(facts, ensure_ascii=False).encode()})
    try:
        require("pyarrow.parquet").ParquetWriter(pyarrow.BufferOutputStream(), schema).close()
    except pyarrow.ArrowNotImplementedError as error:
        raise InputError(f"a kept column cannot be written as Parquet: {error}", next_step="leave it out") from error
    return schema


def vector_type(dtype: str, dimension: int) -> Any:
    """Return the Arrow type of vectors of so many dimensions, for a type of ``runtime.contract``."""
    pyarrow = require("pyarrow")
    numbers = -(-dimension // 8) if dtype in ("binary", "ubinary") else dimension
    name = {"binary": "int8", "ubinary": "uint8"}.get(dtype, dtype)
    return pyarrow.list_(pyarrow.from_numpy_dtype(np.dtype(name)), numbers)


def vector_array(vectors: np.ndarray, missing: np.ndarray) -> Any:
    """Return (rows, numbers) vectors as an Arrow array, null where ``missing``, (rows,) bool."""
    pyarrow = require("pyarrow")
    numbers = pyarrow.array(vectors.reshape(-1))
    mask = pyarrow.array(missing) if missing.any() else None
    return pyarrow.FixedSizeListArray.from_arrays(numbers, vectors.shape[1], mask=mask)


def _leaves(schema: Any) -> list[str]:
    """Return the names of the columns as Parquet has them, for options by column."""
    return [f"{field.name}.list.element" if field.name == "vector" else field.name for field in schema]
