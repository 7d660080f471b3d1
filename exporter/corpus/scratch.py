"""Folders that a process fills for a while. One that is killed leaves its folder, and another process removes it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder, and remove it at the end if it is still there.

    Args:
        prefix: What its name begins with; the number of this process follows.
        parent: Where it is; by default in the folder for temporary files.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks: the number of the process has to do
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_left_scratch_folders(prefix: str, parent: Path | None = None) -> None:
    """Remove the folders of processes of this user that have ended.

    The number of a process says too little where containers share a folder, as each counts its own processes. So a
    folder must be unlocked too.
    """
    name = re.compile(rf"{re.escape(prefix)}(\d{{1,9}})-\w+")
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{prefix}*"):
        found = name.fullmatch(folder.name)
        if found is not None and not _runs(int(found[1])):
            with suppress(OSError):  # another process has removed it, it is locked, or it is a link or a file
                _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
