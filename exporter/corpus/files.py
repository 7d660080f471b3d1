"""The files of an input: which there are, in what order, of what format, and what tells that one has changed.

An input is a file, a folder or a glob, here or on an object store, or several of them. ``fsspec`` opens them all.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from exporter.corpus.stores import cause_of, errors_of_stores, remedy_of
from exporter.dependencies import require
from exporter.errors import InputError, quoted
from exporter.runtime.texts import lone_surrogate

_MAGIC = frozenset("*?[{")
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
_BUFFER = 2**17  # bytes of a file of text that are read at once
# What file systems of fsspec call the thing that changes with the content of a file.
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "md5Hash", "created")


@dataclass(frozen=True)
class InputFile:
    """One file of an input.

    Attributes:
        url: Where it is, as ``fsspec`` opens it; an absolute path where it is here.
        format: How its rows are written down.
        size: In bytes.
        version: What changes when its content does: the ETag on an object store, here the time of the last change in
            nanoseconds. An inode's number would tell more, and changes also where a folder is copied.
    """

    url: str
    format: Format
    size: int
    version: str

    @property
    def compressed(self) -> bool:
        """Whether it must be read from its beginning."""
        return self.url.endswith(_COMPRESSIONS)

    @property
    def is_local(self) -> bool:
        """Whether it is a file here."""
        return "://" not in self.url


def input_files(given: Sequence[str]) -> tuple[InputFile, ...]:
    """Return the files of an input: those of a folder or a glob by name, those of a saved dataset in its order.

    Args:
        given: Files, folders and globs.

    Raises:
        InputError: One of them is not there, has no data or data of two formats, is given twice or cannot be read.
    """
    files = tuple(file for one in given for file in _files_of(one))
    if not files:
        raise InputError("there is no input", next_step="give a file, a folder or a glob")
    other = next((file for file in files if file.format is not files[0].format), None)
    if other is not None:
        raise InputError(
            f"the input has files of two formats, {files[0].url} and {other.url}",
            next_step="give a glob of one of them, for example 'folder/**/*.parquet'",
        )
    places = Counter(os.path.realpath(file.url) if file.is_local else file.url for file in files)
    url, times = places.most_common(1)[0]
    if times > 1:
        raise InputError(f"{url}: is given twice", next_step="give it once: every row gets one vector")
    return files


def takes_in(given: str, place: str) -> bool:
    """Whether files in the folder ``place``, a path or a URL, would be among those of an input."""
    core = require("fsspec").core
    (system, path), (other, folder) = core.url_to_fs(given), core.url_to_fs(place)
    if is_local(system) != is_local(other) or (not is_local(system) and system.protocol != other.protocol):
        return False
    if is_local(system):
        path, folder = os.path.realpath(path), os.path.realpath(folder)
    parents = [str(each) for each in PurePosixPath(folder, "part.parquet").parents] + [f"{folder}/part-000000.parquet"]
    if core.has_magic(path) and not system.exists(path):
        pattern = re.compile(require("fsspec").utils.glob_translate(path))
        return any(pattern.match(each) for each in parents)
    return path.rstrip("/") in parents


def open_file(file: InputFile) -> Any:
    """Open a file for reading bytes, decompressed if its name says that it is compressed.

    Of a file of text, lines can be read up to a length, which most file systems of ``fsspec`` do not offer.
    """
    zstandard = file.url.endswith(".zst")
    compression = "infer" if file.format.is_text and not zstandard else None
    opened: Any = require("fsspec").open(file.url, "rb", compression=compression).open()
    if zstandard:  # pyarrow tells when the end is missing, which Python's package for it does not
        pyarrow = require("pyarrow")
        opened = pyarrow.CompressedInputStream(pyarrow.PythonFile(opened, "r"), "zstd")
    return io.BufferedReader(opened, _BUFFER) if file.format.is_text else opened


def _files_of(given: str) -> Iterator[InputFile]:
    core = require("fsspec").core
    try:
        system, path = core.url_to_fs(given)
        system.invalidate_cache()  # of what an earlier run in this process has listed
        if "::" in given and not system.exists(path):
            raise InputError(f"{given}: there is no such file, and URLs in a chain are not supported")
        is_glob = core.has_magic(path) and not system.exists(path)
        if is_glob and is_local(system):
            _refuse_unreadable_folders(system, path)
        found = [each for each in sorted(system.glob(path)) if not _is_hidden(_name(each))] if is_glob else [path]
        if not found or not system.exists(found[0]):
            raise InputError(f"{given}: there is no such file or folder", next_step="check the path")
        # A glob may find a folder and its files too.
        listed = (each for one in found for each in (_of_folder(system, one) if system.isdir(one) else [one]))
        paths = list(dict.fromkeys(listed))
        if not paths:
            raise InputError(f"{given}: no data in it", next_step=f"files must end in {', '.join(_SUFFIXES)}")
        for each in paths:
            yield _input_file(system, each)
    except errors_of_stores(ValueError, ImportError) as error:  # an unknown protocol, a store that refuses
        raise InputError(f"{given}: cannot be read: {cause_of(error)}", next_step=remedy_of(given)) from error


def _of_folder(system: Any, folder: str) -> list[str]:
    """Return the data files of a folder; of a dataset that ``datasets`` has saved, those that it names."""
    splits = _json(system, f"{folder}/dataset_dict.json").get("splits")
    if isinstance(splits, list):
        known = ", ".join(name for name in splits if isinstance(name, str))
        raise InputError(f"{folder}: a dataset of several splits", next_step=f"give the folder of one: {known}")
    named = _json(system, f"{folder}/state.json").get("_data_files")
    found = [one.get("filename") for one in named if isinstance(one, dict)] if isinstance(named, list) else []
    names = [name for name in found if isinstance(name, str)]
    if names and len(names) == len(found):
        elsewhere = next((name for name in names if "/" in name or name in ("", ".", "..")), None)
        if elsewhere is not None:
            raise InputError(
                f"{folder}/state.json: names {quoted(elsewhere)}, which is no file of this folder",
                next_step="save the dataset again, or give its files with a glob",
            )
        return [f"{folder}/{name}" for name in names]
    paths = _walk(folder) if is_local(system) else system.find(folder)
    seen = [path for path in sorted(paths) if not _is_hidden(path.removeprefix(folder))]
    return [path for path in seen if _suffix(path) in _SUFFIXES.keys() - _NOT_FROM_FOLDERS]


def _json(system: Any, path: str) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where there is none."""
    try:
        if is_local(system):
            _stat_of_file(path)
        found = json.loads(system.cat_file(path))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _walk(folder: str) -> Iterator[str]:
    """Yield the files of a folder here and of those in it, also behind links, each folder once."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (f"{root}/{name}" for name in names)


def _refuse_unreadable_folders(system: Any, pattern: str) -> None:
    """Refuse a pattern that leads through a folder that cannot be read: what is in it would be missing.

    Raises:
        OSError: Of the first one.
    """
    parts = PurePosixPath(pattern).parts
    first = next(depth for depth, part in enumerate(parts) if _MAGIC.intersection(part))
    for depth in range(first, len(parts)):
        above = str(PurePosixPath(*parts[:depth]))
        for folder in system.glob(above) if depth > first else [above]:
            if parts[depth] == "**":
                deque(_walk(folder), maxlen=0)
            elif os.path.isdir(folder):  # noqa: PTH112
                os.scandir(folder).close()
        if parts[depth] == "**":
            return


def _raise(error: OSError) -> None:
    raise error


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)


def _input_file(system: Any, path: str) -> InputFile:
    format_ = _SUFFIXES.get(_suffix(path))
    if format_ is None or (path.endswith(_COMPRESSIONS) and not format_.is_text):
        raise InputError(f"{path}: its name says no format", next_step=f"files must end in {', '.join(_SUFFIXES)}")
    if lone_surrogate(path):
        raise InputError(f"{path!r}: its name is not UTF-8", next_step="rename it")
    if is_local(system):
        here = _stat_of_file(path)
        return InputFile(str(Path(path).absolute()), format_, here.st_size, str(here.st_mtime_ns))
    facts = system.info(path)
    version = version_of(facts)
    if version is None or facts.get("size") is None:
        raise InputError(
            f"{path}: its server does not say when it was changed, so a later run could not know",
            next_step="download it first",
        )
    return InputFile(system.unstrip_protocol(path), format_, int(facts["size"]), version)


def _stat_of_file(path: str) -> os.stat_result:
    """Return the facts of a file here. A device has no end, and opening a pipe waits for somebody who writes to it."""
    facts = Path(path).stat()
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(f"{path}: is not a regular file", next_step="write its content to a file first")
    return facts


def version_of(facts: Mapping[str, Any]) -> str | None:
    """Return what changes with the content of a file, by what a file system says of it; None if it says nothing."""
    return next((str(facts[name]) for name in _VERSIONS if facts.get(name) is not None), None)


def is_local(system: Any) -> bool:
    """Whether a file system of ``fsspec`` is that of this machine."""
    protocol = system.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _suffix(path: str) -> str:
    plain = path
    for compression in _COMPRESSIONS:
        plain = plain.removesuffix(compression)
    return PurePosixPath(plain).suffix.lower()
