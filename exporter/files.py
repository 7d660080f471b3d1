"""Files of users and strangers, read only if they are files, and only up to a size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MiB = 2**20
CONFIGURATION = 64 * MiB
"""Most bytes of JSON, YAML or PEM. The largest ``tokenizer.json`` in use has about 35 MiB."""
SMALL = 8 * MiB
"""Most bytes of JSON that has no vocabulary in it. JSON of small objects takes 25 times its size in memory."""
TEXT = 1024 * MiB
"""Most bytes of a text file."""


def read_file(path: Path, most: int = CONFIGURATION, *, stream: bool = False) -> bytes:
    """Return the content of a file.

    Args:
        path: A file, or a link to one.
        most: Largest number of bytes.
        stream: Whether a pipe will do too, as in ``<(zcat corpus.gz)``. Its end is waited for.

    Raises:
        OSError: It cannot be read, is a device or a pipe, or is larger than ``most``. ``strerror`` says which.
    """
    # A pipe that nobody writes to would block the opening itself.
    descriptor = os.open(path, os.O_RDONLY | (0 if stream else getattr(os, "O_NONBLOCK", 0)))
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode) and not (stream and stat.S_ISFIFO(mode)):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        content = file.read(most + 1)
    if len(content) > most:
        limit = f"{most // MiB:,} MiB" if most >= MiB else f"{most // 1024} KiB"
        raise OSError(errno.EFBIG, f"it is larger than {limit}", str(path))
    return content


def read_text(path: Path, most: int = CONFIGURATION, *, stream: bool = False) -> str:
    """Return the text of a UTF-8 file, without its byte order mark. Line ends are kept as they are.

    Args:
        path: A file, or a link to one.
        most: Largest number of bytes.
        stream: Whether a pipe will do too.

    Raises:
        OSError: As ``read_file``.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_file(path, most, stream=stream).decode("utf-8-sig")
