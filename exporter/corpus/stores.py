"""What file systems raise, told in one sentence. Object stores have errors of their own, which are no ``OSError``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from exporter.errors import BundleError, printable

_MOST = 300  # characters of what a library says


def errors_of_stores(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return what a file system raises, and others, for an ``except`` clause.

    That is ``OSError``, and what botocore raises where a store has not answered: for credentials, the network.
    """
    botocore = sys.modules.get("botocore.exceptions")  # whose errors cannot come before it is imported
    return (OSError, *others) if botocore is None else (OSError, botocore.BotoCoreError, *others)


def cause_of(error: Exception) -> str:
    """Return what is wrong, in one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(str(said).split()), _MOST) or type(error).__name__


def remedy_of(url: str) -> str:
    """Return what to do about an error of the file system that a path or a URL is on."""
    return (
        "check the address, the credentials and the network" if "://" in url else "check the path and its permissions"
    )


@contextmanager
def reading_output(url: str) -> Iterator[None]:
    """Turn what a file system raises into a sentence about a file of the output.

    Args:
        url: The file.

    Raises:
        BundleError: It cannot be read.
        FileNotFoundError: There is none.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except errors_of_stores() as error:
        raise _of_output(f"{url}: cannot be read: {cause_of(error)}", url) from error


@contextmanager
def writing_output(url: str) -> Iterator[None]:
    """Turn what an object store raises into a sentence about the place of the output.

    Args:
        url: The place.

    Raises:
        BundleError: It cannot be written to.
        FileExistsError: An object that was to be new is there.
    """
    try:
        yield
    except FileExistsError:
        raise
    except errors_of_stores() as error:
        raise _of_output(f"{url}: cannot be written: {cause_of(error)}", url) from error


def _of_output(message: str, url: str) -> BundleError:
    return BundleError(message, next_step=f"{remedy_of(url)}, or choose another `out`")
