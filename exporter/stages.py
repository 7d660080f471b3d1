"""What a long command does, how long each stage takes, and its result, told to a listener as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from exporter.memory import return_freed_memory

UNCOMPILED = "the CPU, uncompiled"
"""What runs the graph of an engine that this machine cannot run, in the names of stages."""


@dataclass
class Stage:
    """One stage.

    Attributes:
        name: What is done.
        result: What came of it, one line. The code that runs the stage sets it.
        seconds: Wall-clock time.
        failed: Whether it ended with an error, or what it judged did not pass. The code that judges sets it.
    """

    name: str
    result: str = ""
    seconds: float = 0.0
    failed: bool = False


@dataclass
class Stages:
    """The stages of one command.

    Attributes:
        on_start: Called with the name of each stage as it begins.
        on_progress: Called with details while a long stage runs.
        on_warning: Called with warnings: what may make the result worse, and what to do about it.
        on_end: Called with each stage as it ends; not with one that is interrupted.
        keeps: Files and folders that a later run of the same command takes up, whether they are there or not.
        done: The stages that ended. The last one may have failed.
    """

    on_start: Callable[[str], None] | None = None
    on_progress: Callable[[str], None] | None = None
    on_warning: Callable[[str], None] | None = None
    on_end: Callable[[Stage], None] | None = None
    keeps: list[Path] = field(default_factory=list)
    done: list[Stage] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[Stage]:
        """Time a stage. One that an error ends has failed."""
        if self.on_start is not None:
            self.on_start(name)
        stage = Stage(name)
        started = time.perf_counter()
        try:
            yield stage
        except Exception:
            stage.failed = True
            self._end(stage, started)
            raise
        return_freed_memory()  # the next stage may need as much again
        self._end(stage, started)

    def kept(self) -> str | None:
        """Return the files of results that are there, or None."""
        return ", ".join(str(path) for path in self.keeps if path.exists()) or None

    def warn(self, warning: str) -> None:
        """Pass a warning on."""
        if self.on_warning is not None:
            self.on_warning(warning)

    def progress(self, detail: str) -> None:
        """Pass a detail of the running stage on."""
        if self.on_progress is not None:
            self.on_progress(detail)

    def _end(self, stage: Stage, started: float) -> None:
        stage.seconds = time.perf_counter() - started
        self.done.append(stage)
        if self.on_end is not None:
            self.on_end(stage)
