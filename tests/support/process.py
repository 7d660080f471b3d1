"""How a command ended, and what a refusal must look like."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Done", "failed_after", "refused", "run_program", "split_stages", "succeeded", "wait_until"]

_SLOW = re.compile(r"^.+: \d+ s so far(, .*)?\n", re.MULTILINE)
_STAGE = re.compile(r"(?P<name>[^\n]+?): \d+\.\d s(, [^\n]*)?\n")


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
    holds all ``parts``: no traceback, no warning, no progress. Only a busy machine has lines of slow stages before it.
    """
    assert done.status == status, done
    assert done.stdout == ""
    _is_error(_SLOW.sub("", done.stderr), parts)


def failed_after(done: Done, status: int, stages: Sequence[str], *parts: str) -> None:
    """Assert that a command failed as it should after some work.

    As ``refused``, but stderr has a line for each of ``stages`` before the message, and one says that it failed.
    """
    assert done.status == status, done
    assert done.stdout == ""
    told, message = split_stages(done.stderr)
    assert told == list(stages), done.stderr
    assert ", FAILED" in done.stderr, done.stderr
    _is_error(message, parts)


def split_stages(stderr: str) -> tuple[list[str], str]:
    """Return the names of the stages that the beginning of stderr tells, and what is behind their lines."""
    rest, names = _SLOW.sub("", stderr), []
    while (found := _STAGE.match(rest)) is not None:
        names.append(found["name"])
        rest = rest[found.end() :]
    return names, rest


def succeeded(done: Done, rest: str = "") -> None:
    """Assert that a command succeeded, and that stderr has lines of stages, then ``rest`` and nothing else."""
    assert done.status == 0, done
    assert split_stages(done.stderr)[1] == rest, done.stderr
    assert ", FAILED" not in done.stderr, done.stderr


def _is_error(message: str, parts: Sequence[str]) -> None:
    assert message.startswith("error: "), message
    assert "Traceback" not in message
    lines = message.rstrip("\n").split("\n")
    assert len(lines) <= 5, message
    assert all(line.startswith("  ") for line in lines[1:]), message
    for part in parts:
        assert part in message, (part, message)


def wait_until(condition: Callable[[], bool], timeout_s: float = 300) -> None:
    """Wait for a condition that comes sooner or later; that it never comes is an error after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"nothing came of it in {timeout_s} s"
        time.sleep(0.02)
