"""The files of an input: which there are, in what order, of what format, and what tells that one has changed.

An input is a file, a folder or a glob, here or on an object store, or several of them. ``fsspec`` opens them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from exporter.dependencies import require
from exporter.errors import InputError

_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


class Format(StrEnum):
    """How the rows of a file are written down."""

    PARQUET = "parquet"
    ARROW = "arrow"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    TEXT = "text"

    @property
    def is_text(self) -> bool:
        """Whether its rows are lines of text: it may be compressed, and is read row by row."""
        return self not in (Format.PARQUET, Format.ARROW)


_SUFFIXES = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".arrow": Format.ARROW,
    ".feather": Format.ARROW,
    ".ipc": Format.ARROW,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".txt": Format.TEXT,
}
# A folder often has files of these beside its data, which are about it.
_NOT_FROM_FOLDERS = {".json", ".txt"}


@dataclass(frozen=True)
class InputFile:
    """One file of an input.

    Attributes:
        url: Where it is, as ``fsspec`` opens it; a path without ``file://`` where it is here.
        format: How its rows are written down.
        size: In bytes.
        version: What changes when its content does: the ETag on an object store, here the time of the last change.
    """

    url: str
    format: Format
    size: int
    version: str

    @property
    def compressed(self) -> bool:
        """Whether it must be read from its beginning."""
        return self.url.endswith(_COMPRESSIONS)


def input_files(given: Sequence[str]) -> tuple[InputFile, ...]:
    """Return the files of an input: those of a folder or a glob by name, those of a saved dataset in its order.

    Args:
        given: Files, folders and globs.

    Raises:
        InputError: One of them is not there, has no data or data of two formats, or cannot be read.
    """
    files = tuple(file for one in given for file in _files_of(one))
    formats = {file.format for file in files}
    if len(formats) > 1:
        first, other = (next(file for file in files if file.format is each) for each in sorted(formats)[:2])
        raise InputError(
            f"the input has files of two formats, {first.url} and {other.url}",
            next_step="give a glob of one of them, for example 'folder/**/*.parquet'",
        )
    return files


def open_file(file: InputFile) -> Any:
    """Open a file for reading bytes, decompressed if its name says that it is compressed."""
    opened: Any = require("fsspec").open(file.url, "rb", compression="infer" if file.format.is_text else None).open()
    return opened


def _files_of(given: str) -> Iterator[InputFile]:
    fsspec = require("fsspec")
    try:
        system, path = fsspec.core.url_to_fs(given)
        if fsspec.core.has_magic(path):
            paths = sorted(system.glob(path))
        elif system.isdir(path):
            paths = _of_folder(system, path)
        else:
            paths = [path]
        for each in paths:
            if not system.isdir(each):
                yield _input_file(system, each)
    except FileNotFoundError as error:
        raise InputError(f"{given}: there is no such file or folder", next_step="check the path") from error
    except PermissionError as error:
        raise InputError(f"{given}: cannot be read: permission denied", next_step="check its owner") from error
    except (OSError, ValueError, ImportError) as error:  # an unknown protocol, a store that refuses
        raise InputError(
            f"{given}: cannot be read: {error}", next_step="check the path and your credentials"
        ) from error
    if not paths:
        raise InputError(f"{given}: no data in it", next_step=f"files must end in {', '.join(_SUFFIXES)}")


def _of_folder(system: Any, folder: str) -> list[str]:
    """Return the data files of a folder; of a dataset that ``datasets`` has saved, those that it names."""
    if system.exists(f"{folder}/dataset_dict.json"):
        splits = ", ".join(json.loads(system.cat_file(f"{folder}/dataset_dict.json"))["splits"])
        raise InputError(
            f"{folder}: a dataset of several splits", next_step=f"give the folder of one of them: {splits}"
        )
    if system.exists(f"{folder}/state.json"):
        state = json.loads(system.cat_file(f"{folder}/state.json"))
        return [f"{folder}/{one['filename']}" for one in state["_data_files"]]
    found = [path for path in sorted(system.find(folder)) if not _is_hidden(path.removeprefix(folder))]
    return [path for path in found if _suffix(path) in _SUFFIXES.keys() - _NOT_FROM_FOLDERS]


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)


def _input_file(system: Any, path: str) -> InputFile:
    format_ = _SUFFIXES.get(_suffix(path))
    if format_ is None or (path.endswith(_COMPRESSIONS) and not format_.is_text):
        raise InputError(f"{path}: its name says no format", next_step=f"files must end in {', '.join(_SUFFIXES)}")
    facts = system.info(path)
    version = facts.get("ETag") or facts.get("etag") or facts.get("mtime") or system.ukey(path)
    url = path if "file" in _protocols(system) else system.unstrip_protocol(path)
    return InputFile(url, format_, int(facts["size"]), str(version))


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _suffix(path: str) -> str:
    plain = path
    for compression in _COMPRESSIONS:
        plain = plain.removesuffix(compression)
    return PurePosixPath(plain).suffix.lower()
