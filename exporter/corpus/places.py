"""Where an output goes: a folder here, or a prefix on an object store. One process at a time writes to a place.

Here, a file is written beside its place, synced and renamed. An object is written whole or not at all by the store, and
what names it comes later, so that nothing has to be renamed.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from exporter.bundle.atomic import locked, partial_file, writing
from exporter.corpus.files import is_local, version_of
from exporter.dependencies import require
from exporter.errors import BundleError, InputError, first_line

_LOCK = "_lock"  # an object
_OWN_LOCK = ".lock"  # a file


class Place(Protocol):
    """A flat folder of files.

    Attributes:
        url: Where it is, for messages.
    """

    url: str

    def names(self) -> set[str]:
        """Return the names of the files that are there."""
        ...

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: There is none.
        """
        ...

    def open(self, name: str) -> Any:
        """Open a file for reading bytes."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        ...

    def filling(self, name: str) -> AbstractContextManager[Path]:
        """Yield a file here to fill; at the end of the block it is put in place, and removed by an exception."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, where there is one."""
        ...

    def version(self, name: str) -> str | None:
        """Return what a store says changes with the content of a file; None here, where the content must be compared.

        Raises:
            FileNotFoundError: There is none.
        """
        ...

    def state(self, name: str) -> str:
        """Return what changes when a file is written again, with whatever content.

        Raises:
            FileNotFoundError: There is none.
        """
        ...


@contextmanager
def opened_place(out: str) -> Iterator[Place]:
    """Yield the place that a path or a URL names, and keep other runs away from it until the end.

    Raises:
        BundleError: Another run writes there, or it cannot be written to.
        InputError: There is no such file system.
    """
    place = place_of(out)
    with place.locked():
        yield place


def place_of(out: str) -> _Folder | _Prefix:
    """Return the place that a path or a URL names, for a worker of the run that has locked it.

    Raises:
        InputError: There is no such file system.
    """
    try:
        system, path = require("fsspec").core.url_to_fs(out)
    except (ValueError, ImportError) as error:
        raise InputError(f"{out}: cannot be written: {error}", next_step="choose another `out`") from error
    return _Folder(Path(path).resolve()) if is_local(system) else _Prefix(system, path)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.url = str(folder)
        self._folder = folder

    def locked(self) -> AbstractContextManager[None]:
        return locked(self._folder, "embed", "out", self._folder / _OWN_LOCK)

    def names(self) -> set[str]:
        with writing(self._folder):
            return {path.name for path in self._folder.iterdir()} - {_OWN_LOCK}

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def open(self, name: str) -> Any:
        return (self._folder / name).open("rb")

    def write(self, name: str, content: bytes) -> None:
        with self.filling(name) as path:
            path.write_bytes(content)

    @contextmanager
    def filling(self, name: str) -> Iterator[Path]:
        mark = f".{secrets.token_hex(8)}"  # a worker that is thought dead may still be writing the same part
        with writing(self._folder), partial_file(self._folder / name, mark) as partial:
            yield partial

    def remove(self, name: str) -> None:
        with writing(self._folder):
            (self._folder / name).unlink(missing_ok=True)

    def version(self, name: str) -> str | None:  # noqa: ARG002 - the same for every file
        return None

    def state(self, name: str) -> str:
        facts = (self._folder / name).stat()
        return f"{facts.st_size} {facts.st_ino} {facts.st_mtime_ns}"


class _Prefix:
    def __init__(self, system: Any, path: str) -> None:
        self.url = system.unstrip_protocol(path)
        self._system = system
        self._path = path.rstrip("/")

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._writing():
            try:
                self._system.pipe_file(self._at(_LOCK), b"korsbert embed", mode="create")
            except FileExistsError as error:
                raise BundleError(
                    f"{self.url}: another embed is writing there, or one was killed",
                    next_step=f"wait for it; if there is none, remove {self.url}/{_LOCK}",
                ) from error
        try:
            yield
        finally:
            self.remove(_LOCK)

    def names(self) -> set[str]:
        self._system.invalidate_cache()
        try:
            found = self._system.ls(self._path, detail=False)
        except FileNotFoundError:
            return set()
        return {name.rpartition("/")[2] for name in found} - {_LOCK}

    def read(self, name: str) -> bytes:
        content: bytes = self._system.cat_file(self._at(name))
        return content

    def open(self, name: str) -> Any:
        return self._system.open(self._at(name), "rb")

    def write(self, name: str, content: bytes) -> None:
        with self._writing():
            self._system.pipe_file(self._at(name), content)

    @contextmanager
    def filling(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="korsbert-") as folder:
            path = Path(folder) / name
            with writing(path, "TMPDIR"):
                yield path
            with self._writing():
                self._system.put_file(str(path), self._at(name))

    def remove(self, name: str) -> None:
        with self._writing(), suppress(FileNotFoundError):
            self._system.rm_file(self._at(name))

    def version(self, name: str) -> str:
        self._system.invalidate_cache()
        facts = self._system.info(self._at(name))
        return f"{facts['size']} {version_of(facts)}"

    def state(self, name: str) -> str:
        return self.version(name)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            raise BundleError(
                f"{self.url}: cannot be written: {first_line(error)}", next_step="choose another `out`"
            ) from error
