"""What Ctrl-C says: ``interrupted``, and how to go on where the command has kept what it did so far."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from exporter.errors import printable


@contextmanager
def resumable(kept: Callable[[], str | None]) -> Iterator[None]:
    """Say how to go on, if the block is interrupted.

    Args:
        kept: Returns where the results so far are; None where the same command would begin anew.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        with suppress(OSError):  # a folder that cannot be looked into
            if (place := kept()) is not None:
                interrupt.add_note(f"run the same command to resume: the results so far are in {place}")
        raise


def print_interrupted(end: BaseException) -> None:
    """Print that a command was interrupted, with the notes of the interrupt that ``end`` came from."""
    notes: list[str] = []
    error: BaseException | None = end
    while error is not None and not notes:
        notes = getattr(error, "__notes__", [])
        error = error.__cause__ or error.__context__
    with suppress(OSError):  # `| tee` ends by the same Ctrl-C, and the exit code must still be that of an interrupt
        print(printable("; ".join(("interrupted", *notes))), file=sys.stderr, flush=True)  # noqa: T201
