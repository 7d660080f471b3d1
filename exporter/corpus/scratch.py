"""Folders for files that are written here and then sent to an object store. A process that is killed leaves its own."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"korsbert-part-(\d+)-\w+")


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder in the folder for temporary files, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix=f"korsbert-part-{os.getpid()}-") as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield Path(name)
        finally:
            os.close(descriptor)


def remove_left_scratch_folders() -> None:
    """Remove the folders of processes of this user that have ended.

    A number that no process here has may be that of a process in another container, so the folder must be unlocked too.
    """
    for folder in Path(tempfile.gettempdir()).glob("korsbert-part-*"):
        name = _NAME.fullmatch(folder.name)
        if name is not None and not _runs(int(name[1])):
            with suppress(OSError):  # another process has removed it, or it is locked
                _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
