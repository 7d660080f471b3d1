"""Folders and files that appear whole: written beside their place, synced, and renamed to it.

At every moment a place holds the old content, the new content or nothing, never a part of one. Nothing else stays: no
lock, no empty parent folder. Only a process that ends without an exception (SIGKILL, a power failure) leaves a hidden
folder and a lock file beside the place, and the next one removes both. The command line turns SIGTERM and SIGHUP into
exceptions; a Python program must do so itself.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exporter.errors import BundleError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TRIES = 1000  # to lock a place whose folder or lock file other processes remove in between
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


@contextmanager
def staging(target: Path, *, force: bool, command: str = "export", option: str = "out") -> Iterator[Path]:
    """Yield an empty folder beside ``target`` to fill; ``put_in_place`` then moves it to ``target``.

    While it is open no other process can write to the same place. Whatever happens inside, the folder is removed at the
    end unless it was moved.

    Args:
        target: The place.
        force: Allow a place that is taken.
        command: What writes there, for messages.
        option: The option that names the place, for messages.

    Raises:
        BundleError: ``target`` exists and ``force`` is off, another process is writing there, the place cannot be
            written to, or the disk is full.
    """
    parent = target.parent
    with locked(target, command, option):
        if _aside(target).exists():
            _finish_replacement(target)
        if not force:
            refuse_taken(target)
        _remove_staging(target)
        try:
            with writing(target, option):
                folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.staging-", dir=parent))
            yield folder
        finally:
            _remove_staging(target)  # by its name: a signal may come when it is made and not yet known here


def refuse_taken(target: Path) -> None:
    """Refuse a place where something stands.

    Raises:
        BundleError: Something does.
    """
    if os.path.lexists(target):
        raise BundleError(
            f"{target}: already exists",
            next_step="`force` replaces it once the new bundle has passed; `name` gives this one another folder",
        )


def refuse_unwritable(target: Path, option: str = "out") -> None:
    """Refuse a place that cannot be written to, as far as that is known without writing.

    Args:
        target: The place. Folders above it that are missing would be made.
        option: The option that names it, for messages.

    Raises:
        BundleError: What it would be made in is no folder, or may not be written to.
    """
    above = next((parent for parent in target.absolute().parents if os.path.lexists(parent)), Path("/"))
    number = None
    if not above.is_dir():
        number = errno.ENOTDIR
    elif os.statvfs(above).f_flag & os.ST_RDONLY:
        number = errno.EROFS
    elif not os.access(above, os.W_OK | os.X_OK):
        number = errno.EACCES
    if number is not None:
        raise _cannot_write(target, OSError(number, os.strerror(number)), option)


@contextmanager
def without_empty_folders(folder: Path) -> Iterator[None]:
    """Remove ``folder`` and its parents at the end, where they were not there before and are empty."""
    missing = [each for each in (folder, *folder.parents) if not os.path.exists(each)]  # noqa: PTH110 - never an error
    try:
        yield
    finally:
        for each in missing:
            with suppress(OSError):  # it was not made, or something stands in it
                each.rmdir()


@contextmanager
def locked(target: Path, command: str, option: str, lock: Path | None = None) -> Iterator[None]:
    """Make the folder that the lock is in, and keep other processes away from ``target`` until the end.

    Args:
        target: The place.
        command: What writes there, for messages.
        option: The option that names the place, for messages.
        lock: The file that is locked; by default one beside ``target``. The folder of it is made.

    Raises:
        BundleError: Another process is writing there, or the place cannot be written to.
    """
    path = lock or target.parent / f".{target.name}.lock"
    with without_empty_folders(path.parent):
        descriptor = None
        try:
            descriptor = _lock(path, target, command, option)
            yield
        finally:
            if descriptor is None:
                _remove_free_lock(path)
            else:
                with suppress(OSError):
                    path.unlink()
                os.close(descriptor)


def _lock(path: Path, target: Path, command: str, option: str) -> int:
    """Lock a file by flock(2), and return its descriptor.

    The package filelock leaves its files for ever, because whoever locks a file that another process has removed keeps
    nobody away. So here the file that was locked must still be the one that stands at ``path``.
    """
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(target, error, option) from error
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # another process has removed the folder that was empty
        except OSError as error:
            raise _cannot_write(target, error, option) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _stands_at(path, descriptor):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise BundleError(
                f"{target}: another {command} is writing there",
                next_step=f"wait for it to finish, or choose another `{option}`",
            ) from error
        except OSError as error:  # a file system without locks
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise _cannot_write(target, error, option) from error
        except BaseException:  # of a signal
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise _cannot_write(target, OSError("other processes remove its folder again and again"), option)


def _remove_free_lock(path: Path) -> None:
    """Remove a lock file that no process holds: a signal may come when it is made and not yet locked."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)


def _stands_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def writing(target: Path, option: str = "out") -> Iterator[None]:
    """Turn the errors of writing files into a message about the place that they go to.

    Args:
        target: The place.
        option: The option that names it, for messages.

    Raises:
        BundleError: The disk is full, or the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise _cannot_write(target, error, option) from error
    except Exception as error:
        # tokenizers and safetensors, which are Rust, state the number of a failed write in the text of an Exception.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None or int(number[1]) not in _NO_SPACE:
            raise
        raise _disk_is_full(target, option) from error


def put_in_place(folder: Path, target: Path) -> None:
    """Sync a folder and rename it to ``target``.

    The swap with a folder that is there is one system call where the kernel has it (Linux ``renameat2``); elsewhere
    that folder is moved aside first. Afterwards it has the new folder's old name, or is removed.

    Raises:
        OSError: Files cannot be synced or renamed.
    """
    for path in (*folder.rglob("*"), folder):
        _sync(path)
    if not os.path.lexists(target):
        folder.rename(target)
    elif not _exchange(folder, target):
        target.rename(_aside(target))
        folder.rename(target)
        _remove(_aside(target))
    _sync(target.parent)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with partial_file(path) as partial:
        partial.write_bytes(content)


@contextmanager
def partial_file(path: Path, mark: str = "") -> Iterator[Path]:
    """Yield a file beside ``path`` to write; at the end it is synced and renamed to it, or removed by an exception.

    Args:
        path: The place.
        mark: Stands in the name of the file, where several processes may write to one place.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}{mark}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _cannot_write(target: Path, error: OSError, option: str) -> BundleError:
    if error.errno in _NO_SPACE:
        return _disk_is_full(target, option)
    cause = error.strerror or error
    return BundleError(f"{target}: cannot be written: {cause}", next_step=f"choose another `{option}`")


def _disk_is_full(target: Path, option: str) -> BundleError:
    next_step = f"free some space, or choose another `{option}` on another disk"
    return BundleError(f"{target}: the disk is full", next_step=next_step)


def _remove(path: Path) -> None:
    """Remove a folder, a file or a link."""
    if path.is_dir() and not path.is_symlink():
        try:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            shutil.rmtree(path, ignore_errors=True)  # the rest, where the exception of a signal ended the first call
    else:
        path.unlink(missing_ok=True)


def _remove_staging(target: Path) -> None:
    """Remove every folder that was made to become ``target``. The caller holds the lock, so all are its own."""
    pattern = f".{target.name}.staging-*"
    try:
        for left in target.parent.glob(pattern):
            _remove(left)
    finally:  # again, where the exception of a signal ended the first loop
        for left in target.parent.glob(pattern):
            _remove(left)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def _finish_replacement(target: Path) -> None:
    """Restore the old folder after a process was killed between the two renames of ``put_in_place``."""
    if os.path.lexists(target):
        _remove(_aside(target))
    else:
        _aside(target).rename(target)


def _sync(path: Path) -> None:
    mode = path.lstat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return  # a pipe would not even open
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically; False where the system cannot."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "renameat2"):
        return False
    done = libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return bool(done == 0)
