"""Where an output goes: a folder here, or a prefix on an object store. One process at a time writes to a place.

Here, a file is written beside its place, synced and renamed. An object is written whole or not at all by the store, and
what names it comes later, so that nothing has to be renamed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from exporter.bundle.atomic import locked, partial_file, write_file, writing
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


@contextmanager
def opened_place(out: str) -> Iterator[Place]:
    """Yield the place that a path or a URL names, and keep other processes away from it until the end.

    Raises:
        BundleError: Another process writes there, or it cannot be written to.
        InputError: There is no such file system.
    """
    try:
        system, path = require("fsspec").core.url_to_fs(out)
    except (ValueError, ImportError) as error:
        raise InputError(f"{out}: cannot be written: {error}", next_step="choose another `out`") from error
    with _Folder.opened(Path(path)) if is_local(system) else _Prefix.opened(system, path) as place:
        yield place


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.url = str(folder)
        self._folder = folder

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Place]:
        folder = folder.resolve()
        with locked(folder, "embed", "out", folder / _OWN_LOCK):
            yield cls(folder)

    def names(self) -> set[str]:
        with writing(self._folder):
            return {path.name for path in self._folder.iterdir()} - {_OWN_LOCK}

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def open(self, name: str) -> Any:
        return (self._folder / name).open("rb")

    def write(self, name: str, content: bytes) -> None:
        with writing(self._folder):
            write_file(self._folder / name, content)

    @contextmanager
    def filling(self, name: str) -> Iterator[Path]:
        with writing(self._folder), partial_file(self._folder / name) as partial:
            yield partial

    def remove(self, name: str) -> None:
        with writing(self._folder):
            (self._folder / name).unlink(missing_ok=True)

    def version(self, name: str) -> str | None:  # noqa: ARG002 - the same for every file
        return None


class _Prefix:
    def __init__(self, system: Any, path: str) -> None:
        self.url = system.unstrip_protocol(path)
        self._system = system
        self._path = path.rstrip("/")

    @classmethod
    @contextmanager
    def opened(cls, system: Any, path: str) -> Iterator[Place]:
        place = cls(system, path)
        with place._writing():
            try:
                system.pipe_file(place._at(_LOCK), b"korsbert embed", mode="create")
            except FileExistsError as error:
                raise BundleError(
                    f"{place.url}: another embed is writing there, or one was killed",
                    next_step=f"wait for it; if there is none, remove {place.url}/{_LOCK}",
                ) from error
        try:
            yield place
        finally:
            place.remove(_LOCK)

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

    def version(self, name: str) -> str | None:
        self._system.invalidate_cache()
        facts = self._system.info(self._at(name))
        return f"{facts['size']} {version_of(facts)}"

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
