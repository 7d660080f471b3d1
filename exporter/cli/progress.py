"""Progress on stderr: a spinner on a terminal, and elsewhere one plain line for each stage as it ends.

A stage that takes long has a line every 30 seconds, so that a log shows what is going on and a CI system does not take
the job for a dead one. A first stage that fails has no line: the error says it all, and begins stderr.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from exporter.cli.output import print_table, stderr_console
from exporter.errors import ExportError, printable
from exporter.stages import Stage, Stages

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 30


@contextmanager
def progress(first: str, *, quiet: bool = False) -> Iterator[Stages]:
    """Yield the stages of a command, which are shown on stderr.

    On a terminal, an error is preceded by a table of the stages so far; elsewhere the lines have told them.

    Args:
        first: What is done before the first stage.
        quiet: Show warnings only.
    """
    stderr = stderr_console()
    stages = Stages(on_warning=lambda warning: _warn(stderr, warning))
    try:
        with ExitStack() as shown:
            if _draws(stderr) and not quiet:
                shown.enter_context(_spinner(stderr, stages, first))
            elif not quiet:
                shown.enter_context(_lines(stages, first))
            yield stages
    except ExportError:
        if _draws(stderr) and not quiet and _worth_telling(stages):
            print_stages(stages, stderr=True)
        raise


def _draws(stderr: Console) -> bool:
    """Whether a spinner can be drawn: rich takes a pipe for a terminal under FORCE_COLOR, and TERM=dumb has none."""
    return sys.stderr.isatty() and stderr.is_terminal and not stderr.is_dumb_terminal


@contextmanager
def in_turn(stages: Stages) -> Iterator[Callable[[str], None]]:
    """Yield a function that ends the running stage and begins the one that it is given the name of."""
    with ExitStack() as running:

        def begin(name: str) -> None:
            running.close()
            running.enter_context(stages(name))

        yield begin


def print_stages(stages: Stages, *, stderr: bool = False) -> None:
    """Print a table of the stages that ended, and of the one that failed."""
    rows = [(stage.name, f"{stage.seconds:.1f} s", _result(stage)) for stage in stages.done]
    if not any(stage.failed for stage in stages.done):
        rows.append(("total", f"{sum(stage.seconds for stage in stages.done):.1f} s", ""))
    print_table(("stage", "time", "result"), rows, stderr=stderr)


def _worth_telling(stages: Stages) -> bool:
    return bool(stages.done) and not (len(stages.done) == 1 and stages.done[0].failed)


def _result(stage: Stage) -> str:
    return ", ".join(filter(None, ("FAILED" if stage.failed else "", stage.result)))


@contextmanager
def _spinner(stderr: Console, stages: Stages, first: str) -> Iterator[None]:
    """Show the current stage and its elapsed time."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True) as shown:
        task = shown.add_task(first)
        stages.on_start = lambda name: shown.reset(task, description=name)
        stages.on_progress = lambda detail: shown.update(task, description=detail)
        yield


@contextmanager
def _lines(stages: Stages, first: str) -> Iterator[None]:
    """Print a line for each stage as it ends, and now and then one for a stage that takes long."""
    running = _Running(first)
    watch = threading.Thread(target=running.watch, daemon=True)

    def end(stage: Stage) -> None:
        if _worth_telling(stages):
            _print_line(", ".join(filter(None, (f"{stage.name}: {stage.seconds:.1f} s", _result(stage)))))

    stages.on_start, stages.on_progress, stages.on_end = running.begin, running.tell, end
    watch.start()
    try:
        yield
    finally:
        running.end()
        watch.join()


class _Running:
    """What is running now, watched by a thread."""

    def __init__(self, name: str) -> None:
        self._name, self._detail, self._started = name, "", time.monotonic()
        self._changed, self._over = threading.Event(), False

    def begin(self, name: str) -> None:
        self._name, self._detail, self._started = name, "", time.monotonic()
        self._changed.set()

    def tell(self, detail: str) -> None:
        self._detail = detail

    def end(self) -> None:
        self._over = True
        self._changed.set()

    def watch(self) -> None:
        while True:
            if self._changed.wait(SECONDS_BETWEEN_LINES):
                self._changed.clear()
                if self._over:
                    return
            else:
                elapsed = f"{self._name}: {time.monotonic() - self._started:.0f} s so far"
                _print_line(", ".join(filter(None, (elapsed, self._detail))))


def _warn(stderr: Console, warning: str) -> None:
    if _draws(stderr):
        stderr.print(f"warning: {warning}")  # above the spinner
    else:
        _print_line(f"warning: {warning}")


def _print_line(line: str) -> None:
    with suppress(OSError):  # a log that cannot be written must not end the work
        sys.stderr.write(printable(line) + "\n")  # in one piece: two threads write lines
        sys.stderr.flush()
