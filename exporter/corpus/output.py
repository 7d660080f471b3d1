"""The output: a folder of Parquet files, each with a manifest that commits it.

    _plan.json               what the parts are made from, and which there are
    part-000000.parquet      rows: id, position, vector, error, kept columns
    _part-000000.json        its manifest: rows, counts, SHA-256. Without it, the part does not count
    _SUCCESS                 written last: the totals

Readers of Parquet folders skip what begins with ``_`` or ``.``. A file is written beside its place and renamed. A part
whose manifest is there and agrees with its bytes is never written again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from exporter.bundle.atomic import locked, partial_file, write_file, writing
from exporter.corpus.counts import Counts
from exporter.corpus.plan import Part, Plan
from exporter.dependencies import require
from exporter.errors import InputError

PLAN, SUCCESS = "_plan.json", "_SUCCESS"
METADATA = b"korsbert"
"""Key of the schema's metadata that says what made the vectors, as JSON."""
RESERVED = ("position", "vector", "error")
"""Columns that every output has."""
_BLOCK = 2**20
_LEFT = re.compile(r"\.(part-\d+\.parquet|_part-\d+\.json|_plan\.json|_SUCCESS)\.partial")


@dataclass(frozen=True)
class PartManifest:
    """What commits a part.

    Attributes:
        part: Its number.
        bundle: Seal of the bundle.
        sha256: Of its file.
        size: Of its file, in bytes.
        counts: What its rows were.
    """

    part: int
    bundle: str
    sha256: str
    size: int
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
    """A folder that one process writes to at a time.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Output]:
        """Yield the output, and keep other processes away from it until the end.

        Raises:
            BundleError: Another process writes there, or the folder cannot be made.
        """
        folder = folder.resolve()  # a lock is beside the folder: there is one, whatever path leads there
        with locked(folder, "embed", "out"):
            with writing(folder):
                folder.mkdir(exist_ok=True)
            yield cls(folder)

    def plan(self) -> Plan | None:
        """Return the plan of an earlier run, or None.

        Raises:
            InputError: There is none, and other files are, or it cannot be read.
        """
        names = {path.name for path in self.folder.iterdir()}
        left = {name for name in names if _LEFT.fullmatch(name)}  # of a process that was killed
        if PLAN not in names and names - left:
            raise InputError(
                f"{self.folder}: has other files, {min(names - left)} for one",
                next_step="choose a folder that is empty or new",
            )
        with writing(self.folder):
            for name in left:
                (self.folder / name).unlink()
        if PLAN not in names:
            return None
        return Plan.from_json((self.folder / PLAN).read_bytes(), str(self.folder / PLAN))

    def clear(self, plan: Plan) -> None:
        """Remove the parts of a plan, its end and the plan itself."""
        parts = [path for part in plan.parts for path in (self._manifest(part), self.folder / part.name)]
        with writing(self.folder):
            for path in (self.folder / SUCCESS, *parts, self.folder / PLAN):  # the plan last: it makes the folder ours
                path.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole or not at all."""
        with writing(self.folder):
            write_file(self.folder / name, content)

    def committed(self, part: Part, seal: str) -> PartManifest | None:
        """Return the manifest of a part that is complete; None where it has to be made."""
        path = self.folder / part.name
        try:
            manifest = PartManifest.from_json(self._manifest(part).read_bytes())
            sound = (manifest.part, manifest.bundle, manifest.size) == (part.number, seal, path.stat().st_size)
            return manifest if sound and _sha256(path) == manifest.sha256 else None
        except (OSError, ValueError):
            return None

    @contextmanager
    def writing_part(self, part: Part, schema: Any) -> Iterator[Any]:
        """Yield a Parquet writer for a part; its file is put in place at the end, and removed by an exception."""
        parquet = require("pyarrow.parquet")
        self._manifest(part).unlink(missing_ok=True)
        with (
            writing(self.folder),
            partial_file(self.folder / part.name) as partial,
            parquet.ParquetWriter(
                partial,
                schema,
                compression={leaf: "none" if leaf.startswith("vector.") else "zstd" for leaf in _leaves(schema)},
                use_dictionary=False,
                write_statistics=["position"],
            ) as writer,
        ):
            yield writer

    def commit(self, part: Part, seal: str, counts: Counts) -> PartManifest:
        """Write the manifest of a part whose file is in place."""
        path = self.folder / part.name
        manifest = PartManifest(part.number, seal, _sha256(path), path.stat().st_size, counts)
        self.write(self._manifest(part).name, manifest.to_json())
        return manifest

    def _manifest(self, part: Part) -> Path:
        return self.folder / f"_{Path(part.name).stem}.json"


def schema_of(kept: Mapping[str, Any], vector: Any, facts: Mapping[str, Any]) -> Any:
    """Return the Arrow schema of a part.

    Args:
        kept: Types of the columns of the input that the output has too, by name.
        vector: Arrow type of a vector.
        facts: What made the vectors.

    Raises:
        InputError: A kept column has the name of one that every output has, or a type that Parquet has not.
    """
    pyarrow = require("pyarrow")
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


def vector_type(dtype: str, numbers: int) -> Any:
    """Return the Arrow type of vectors of so many numbers, for a type of ``runtime.contract``."""
    pyarrow = require("pyarrow")
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
