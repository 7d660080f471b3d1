"""A command in a process of its own: what it printed, how long it took, and how much memory it held.

Peak memory is ``ru_maxrss`` of ``wait4(2)``: the kernel's own high-water mark of the resident set, over the whole life
of the process and of the children it waited for, so nothing is missed between two polls. That mark starts at what the
caller's own memory peaked at before the fork; a benchmark that measures memory must therefore not import torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One process, after its end.

    Attributes:
        exit_code: 0, or why it failed.
        output: What it wrote to stdout.
        errors: What it wrote to stderr.
        wall_s: Seconds from its start to its end.
        cpu_s: Seconds that it kept a core busy, of all cores together.
        peak_bytes: The most memory that was resident.
    """

    exit_code: int
    output: str
    errors: str
    wall_s: float
    cpu_s: float
    peak_bytes: int


def run(command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        cwd: Where to run it; by default here.
        env: Its environment; by default this one.

    Raises:
        SystemExit: This process holds more memory than the command did, which hides the command's.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        said, complained = output.read().decode(), errors.read().decode()
    held = usage.ru_maxrss * 1024
    if held <= peak_bytes():
        sys.exit(f"the peak memory of {command[0]} is hidden behind this process's own")
    return Run(process.returncode, said, complained, wall_s, usage.ru_utime + usage.ru_stime, held)


def peak_bytes() -> int:
    """Return the most memory that was resident in this process, since its start or ``reset_peak``.

    It is ``VmHWM`` of ``proc_pid_status(5)``: unlike ``ru_maxrss``, without what the starting process held.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def reset_peak() -> None:
    """Let ``peak_bytes`` begin anew, at what is resident now (``clear_refs`` of ``proc_pid_clear_refs(5)``)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def run_to_success(command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Run:
    """Run a command that must exit with 0; ``run`` says the rest."""
    done = run(command, cwd, env)
    if done.exit_code:
        sys.exit(f"{done.errors}\nexit code {done.exit_code}: {' '.join(command[1:])}")
    return done
