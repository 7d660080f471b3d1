"""What a build says while it goes on: progress, errors and the builder's log; and how SIGINT ends it."""

from __future__ import annotations

import logging
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporter.dependencies import require

_PARSER_ERROR = re.compile(
    r"In node \d+ with name: (?P<name>.*?) and operator: (?P<operator>\w+) \(\w+\): (?P<why>.*)", re.DOTALL
)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Note SIGINT in the event it yields: an exception within the builder's callbacks would be lost there."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt


def progress_monitor(trt: Any, tell: Callable[[str], None] | None, interrupted: threading.Event) -> Any:
    """Return a monitor that tells phases as ``"Building engine 3/6"``, and ends the build when it is interrupted."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self._steps[phase_name] = num_steps
            if tell is not None:
                tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if tell is not None:
                tell(f"{phase_name} {step + 1}/{self._steps.get(phase_name, step + 1)}")
            return not interrupted.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def collecting_logger(trt: Any) -> Any:
    """Return a logger that keeps errors and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)

    return Logger()


class _Collector(logging.Handler):
    """Keeps what is an error."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        self._errors.append(record.getMessage())


@contextmanager
def builder_log(path: Path) -> Iterator[list[str]]:
    """Have Polygraphy write to ``path`` instead of stdout; yields the errors, which grow as they come."""
    polygraphy: Any = require("polygraphy.logger").G_LOGGER
    logger = logging.getLogger("Polygraphy")
    errors: list[str] = []
    file, collector = logging.FileHandler(path, encoding="utf-8"), _Collector(errors)
    before = (polygraphy.use_python_logging_system, polygraphy.module_severity, polygraphy.colors)
    outer = (logger.level, logger.propagate)
    polygraphy.use_python_logging_system, polygraphy.module_severity = True, polygraphy.VERBOSE
    polygraphy.colors = False  # it would ask for a package that has them
    logger.setLevel(polygraphy.VERBOSE)
    logger.propagate = False
    logger.addHandler(file)
    logger.addHandler(collector)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # between Polygraphy and TensorRT
            yield errors
    finally:
        logger.removeHandler(collector)
        logger.removeHandler(file)
        file.close()
        polygraphy.use_python_logging_system, polygraphy.module_severity, polygraphy.colors = before
        logger.level, logger.propagate = outer


def cause_of(errors: Sequence[str]) -> str | None:
    """Return what the parser says of a node, or else the first error of the builder."""
    for message in errors:
        found = _PARSER_ERROR.search(message)
        if found:
            return f"{found['name']} ({found['operator']}): {_shorter(found['why'])}"
    return _shorter(errors[0]) if errors else None


def _shorter(message: str) -> str:
    """Return the first line that says something: that a node is invalid is explained by the next."""
    lines = [line.strip() for line in message.removeprefix("[E] ").splitlines()]
    return next(
        (line for line in lines if line and not line.startswith(("[E]", "INVALID_NODE: Invalid Node -"))), message
    )
