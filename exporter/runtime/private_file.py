"""Copies of bytes that no other user can replace, for an engine that opens a path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def private_file(content: bytes) -> Iterator[str | bytes]:
    """Yield a path from which ``content`` can be read until the block ends.

    On Linux the copy is in memory and has no name in any folder (``memfd_create``). Elsewhere it is a temporary file
    that only this user can open. ``content`` is released here: give it away, so that it is not in memory twice while
    the engine is opened. Where the copy cannot be written, by a limit on the size of files for one, ``content`` itself
    is yielded.
    """
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("korsbert"), "wb", 0) if in_memory else tempfile.NamedTemporaryFile() as file:
        try:
            _write(file, content)
        except OSError:
            yield content
            return
        del content
        yield f"/proc/self/fd/{file.fileno()}" if in_memory else file.name


@contextmanager
def private_folder(contents: dict[str, bytes]) -> Iterator[Path]:
    """Yield a temporary folder that only this user can open, with files of given names, until the block ends.

    For an engine that reads several files by their names. ``contents`` is emptied while the files are written: a file
    is not held in memory besides.

    Raises:
        OSError: The files cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="korsbert-") as folder:
        while contents:
            name, content = contents.popitem()
            (Path(folder) / name).write_bytes(content)
            del content
        yield Path(folder)


def _write(file: IO[bytes], content: bytes) -> None:
    """Write all of ``content``: without a buffer, a write may take a part of it."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    file.flush()
