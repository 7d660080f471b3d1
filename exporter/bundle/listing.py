"""What lies in a folder of bundles, by the manifests alone: a damaged bundle gets an entry with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exporter.bundle.bundle import Bundle
from exporter.bundle.manifest import MANIFEST
from exporter.errors import BundleError, InputError

_DEEPEST = 3  # FOLDER/NAME/PRECISION-BACKEND, and one level more where each checkpoint has a folder of its own
_LEFT = {
    "candidates of korsbert tune, which the same command goes on from": re.compile(r"\..+\.tune"),
    "staging folder of an export that goes on or was killed": re.compile(r"\..+\.staging-.+"),
    "bundle that was being replaced": re.compile(r"\..+\.previous"),
    "results of an int8 search that did not end": re.compile(r"\..+\.search\.json"),
    "lock of a command that goes on or was killed": re.compile(r"\..+\.lock"),
}


@dataclass(frozen=True)
class Entry:
    """A folder with a manifest.

    Attributes:
        folder: The folder.
        bundle: The bundle, whose files were compared with their hashes only if that was asked for; None if it is none.
        reason: Why it is no sound bundle, or None.
    """

    folder: Path
    bundle: Bundle | None
    reason: str | None = None


@dataclass(frozen=True)
class Listing:
    """What lies in a folder.

    Attributes:
        entries: The bundles, sound or not, by path.
        left: What exports have left beside them, by path, and what each is.
    """

    entries: tuple[Entry, ...]
    left: dict[Path, str]


def list_bundles(folder: Path, *, check: bool = False) -> Listing:
    """List the bundles in a folder, and what exports have left there.

    Args:
        folder: The folder; a bundle's own folder will do too.
        check: Compare every file with its hash. Otherwise only manifests and records of validation are read.

    Raises:
        InputError: There is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", next_step="give the folder that exports wrote to")
    entries: list[Entry] = []
    left: dict[Path, str] = {}
    for path, unreadable in _found(folder, _DEEPEST):
        kind = next((kind for kind, pattern in _LEFT.items() if pattern.fullmatch(path.name)), None)
        if kind is not None:
            left[path] = kind
        elif unreadable is not None:
            entries.append(Entry(path, None, f"{path}: cannot be read: {unreadable}"))
        elif (path / MANIFEST).is_file():
            entries.append(_entry(path, check=check))
    return Listing(tuple(entries), left)


def _found(folder: Path, depth: int) -> Iterator[tuple[Path, str | None]]:
    """Yield a folder and what is in it, in order, down to a depth; nothing inside of bundles and of hidden folders.

    Beside each path is why it cannot be read, or None.
    """
    try:
        inside = [] if (folder / MANIFEST).is_file() or depth == 0 else sorted(folder.iterdir())
    except OSError as error:
        yield folder, error.strerror or str(error)
        return
    yield folder, None
    for path in inside:
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _found(path, depth - 1)
        else:
            yield path, None


def _entry(folder: Path, *, check: bool) -> Entry:
    try:
        bundle = Bundle.open(folder) if check else Bundle.open_manifest(folder)
    except BundleError as error:
        return Entry(folder, None, error.message)
    return Entry(folder, bundle)
