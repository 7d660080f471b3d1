"""What an export does, how long each stage takes, and its result, told to a listener as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from exporter.memory import return_freed_memory


@dataclass
class Stage:
    """One stage of an export.

    Attributes:
        name: What is done.
        result: What came of it, one line. The code that runs the stage sets it.
        seconds: Wall-clock time.
    """

    name: str
    result: str = ""
    seconds: float = 0.0


@dataclass
class Stages:
    """The stages of one export.

    Attributes:
        on_start: Called with the name of each stage as it begins.
        on_progress: Called with details while a long stage runs.
        on_warning: Called with warnings: what may make the result worse, and what to do about it.
        done: The stages that ended.
    """

    on_start: Callable[[str], None] | None = None
    on_progress: Callable[[str], None] | None = None
    on_warning: Callable[[str], None] | None = None
    done: list[Stage] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[Stage]:
        """Time a stage."""
        if self.on_start is not None:
            self.on_start(name)
        stage = Stage(name)
        started = time.perf_counter()
        yield stage
        return_freed_memory()  # the next stage may need as much again
        stage.seconds = time.perf_counter() - started
        self.done.append(stage)

    def warn(self, warning: str) -> None:
        """Pass a warning on."""
        if self.on_warning is not None:
            self.on_warning(warning)

    def progress(self, detail: str) -> None:
        """Pass a detail of the running stage on."""
        if self.on_progress is not None:
            self.on_progress(detail)
