"""Where an output goes: a folder here, or a prefix on an object store. One process at a time writes to a place.

Here, a file is written beside its place, synced and renamed. An object is written whole or not at all by the store, and
what names it comes later, so that nothing has to be renamed. What a file system raises is told in one sentence.
"""

from __future__ import annotations

import errno
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from exporter.bundle.atomic import locked, partial_file, writing
from exporter.corpus.files import is_local, version_of
from exporter.corpus.lease import Lease
from exporter.corpus.scratch import remove_left_scratch_folders, scratch_folder
from exporter.corpus.stores import reading_output, writing_output
from exporter.dependencies import require
from exporter.errors import InputError
from exporter.files import TEXT, read_file

_LOCK = "_lock"  # an object
_OWN_LOCK = ".lock"  # a file
_FOLDER_OF_PARTS = "korsbert-part-"  # on their way to a store


class Place(Protocol):
    """A flat folder of files.

    Where a file cannot be read or written, its functions raise a ``BundleError`` that says why.

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
        """Open a file for reading bytes.

        Raises:
            FileNotFoundError: There is none.
        """
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
def opened_place(out: str, on_wait: Callable[[str], None] = lambda _: None) -> Iterator[Place]:
    """Yield the place that a path or a URL names, and keep other runs away from it until the end.

    Args:
        out: A path or a URL.
        on_wait: Called with a sentence where the lock of a run that may have been killed is watched; see ``lease``.

    Raises:
        BundleError: Another run writes there, or it cannot be written to.
        InputError: There is no such file system.
    """
    place = place_of(out)
    with place.locked(on_wait):
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
    if is_local(system):
        return _Folder(Path(path).resolve())
    remove_left_scratch_folders(_FOLDER_OF_PARTS)
    return _Prefix(system, path)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.url = str(folder)
        self._folder = folder

    def locked(self, on_wait: Callable[[str], None]) -> AbstractContextManager[None]:  # noqa: ARG002 - nobody waits
        return locked(self._folder, "embed", "out", self._folder / _OWN_LOCK)

    def names(self) -> set[str]:
        with writing(self._folder):
            return {path.name for path in self._folder.iterdir()} - {_OWN_LOCK}

    def read(self, name: str) -> bytes:
        with reading_output(f"{self.url}/{name}"):
            return read_file(self._folder / name, TEXT)

    def open(self, name: str) -> Any:
        path = self._folder / name
        with reading_output(str(path)):
            if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe may never end
                raise OSError(errno.EINVAL, "it is not a regular file")
            return path.open("rb")

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
        with reading_output(f"{self.url}/{name}"):
            facts = (self._folder / name).stat()
        return f"{facts.st_size} {facts.st_ino} {facts.st_mtime_ns}"


class _Prefix:
    def __init__(self, system: Any, path: str) -> None:
        self.url = system.unstrip_protocol(path)
        self._system = system
        self._path = path.rstrip("/")
        self._lease: Lease | None = None  # a worker has none: its run has locked the place

    @contextmanager
    def locked(self, on_wait: Callable[[str], None]) -> Iterator[None]:
        self._lease = Lease(_LockObject(self))
        with self._lease.held(on_wait):
            yield

    def names(self) -> set[str]:
        with reading_output(self.url):
            self._system.invalidate_cache()
            try:
                found = self._system.ls(self._path, detail=False)
            except FileNotFoundError:
                return set()
        return {name.rpartition("/")[2] for name in found} - {_LOCK}

    def read(self, name: str) -> bytes:
        with reading_output(f"{self.url}/{name}"):
            content: bytes = self._system.cat_file(self._at(name))
            return content

    def open(self, name: str) -> Any:
        with reading_output(f"{self.url}/{name}"):
            return self._system.open(self._at(name), "rb")

    def write(self, name: str, content: bytes) -> None:
        self._refuse_lost()
        self.put(name, content)

    def put(self, name: str, content: bytes) -> None:
        """Write an object, whoever has locked the place."""
        with writing_output(self.url):
            self._system.pipe_file(self._at(name), content)

    def create(self, name: str, content: bytes) -> None:
        """Write an object where there is none.

        Raises:
            FileExistsError: There is one, and the store has conditional writes.
        """
        with writing_output(self.url):
            self._system.pipe_file(self._at(name), content, mode="create")

    @contextmanager
    def filling(self, name: str) -> Iterator[Path]:
        with scratch_folder(_FOLDER_OF_PARTS) as folder:
            path = folder / name
            with writing(path, "TMPDIR"):
                yield path
            self._refuse_lost()
            with writing_output(self.url):
                self._system.put_file(str(path), self._at(name))

    def remove(self, name: str) -> None:
        with writing_output(self.url), suppress(FileNotFoundError):
            self._system.rm_file(self._at(name))

    def version(self, name: str) -> str:
        with reading_output(f"{self.url}/{name}"):
            self._system.invalidate_cache()
            facts = self._system.info(self._at(name))
        return f"{facts['size']} {version_of(facts)}"

    def state(self, name: str) -> str:
        return self.version(name)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _refuse_lost(self) -> None:
        if self._lease is not None:
            self._lease.refuse_lost()


class _LockObject:
    def __init__(self, prefix: _Prefix) -> None:
        self.url = prefix.url
        self._prefix = prefix

    def read(self) -> bytes:
        return self._prefix.read(_LOCK)

    def create(self, content: bytes) -> None:
        self._prefix.create(_LOCK, content)

    def replace(self, content: bytes) -> None:
        self._prefix.put(_LOCK, content)

    def remove(self) -> None:
        self._prefix.remove(_LOCK)
