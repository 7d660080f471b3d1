"""How a command ended, and what a refusal must look like."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Done", "refused", "run_program", "wait_until"]


@dataclass(frozen=True)
class Done:
    """How a process ended. ``status`` is the exit code, or minus the number of the signal that ended it."""

    status: int
    stdout: str
    stderr: str


def run_program(
    command: Sequence[object],
    *,
    cwd: Path | None = None,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 600,
) -> Done:
    """Run a program to its end, without colors and on one core, as the tests run beside each other."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        input=stdin,
        env={**(os.environ if environment is None else environment), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def refused(done: Done, status: int, *parts: str) -> None:
    """Assert that a command said no as it should.

    The exit code is ``status``, stdout is empty, and stderr is a message of a few lines that begins with ``error:`` and
    holds all ``parts``: no traceback, no warning, no progress.
    """
    assert done.status == status, done
    assert done.stdout == ""
    assert done.stderr.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.rstrip("\n").split("\n")
    assert len(lines) <= 5, done.stderr
    assert all(line.startswith("  ") for line in lines[1:]), done.stderr
    for part in parts:
        assert part in done.stderr, (part, done.stderr)


def wait_until(condition: Callable[[], bool], timeout_s: float = 300) -> None:
    """Wait for a condition that comes sooner or later; that it never comes is an error after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"nothing came of it in {timeout_s} s"
        time.sleep(0.02)
