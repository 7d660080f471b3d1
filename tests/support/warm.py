"""A Python process that has imported torch already, and forks for every run.

Importing torch costs seconds, and a command line has many ways to be called wrongly. Every run is a process of its own
all the same: it has its own arguments, folder, environment and streams, ends by itself or by a signal, and its exit
status is the operating system's.

    with WarmPython() as python:
        done = python.run(CLI, "export", "--model", "demo")
        assert done.status == 0, done.stderr
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.process import Done

__all__ = ["CLI", "Process", "WarmPython"]

CLI = "from exporter.cli.main import main; main()"
"""Statements that run ``korsbert`` with the arguments of the run."""

# Imported by the parent of all runs. Nothing of it starts threads, which a fork would lose.
_WARM = (
    "exporter.cli.main",
    "exporter.cli.bundles",
    "exporter.cli.embed",
    "exporter.cli.export",
    "exporter.pipeline",
    "exporter.engines.onnxruntime",
    "torch.onnx._internal.exporter._core",
)


@dataclass(frozen=True)
class Process:
    """A run that was started and may be going on."""

    pid: int
    streams: Path
    server: WarmPython

    def wait(self, timeout_s: float = 600) -> Done:
        """Wait for the end; a run that takes longer than ``timeout_s`` is killed and is an error."""
        status = self.server._ask({"wait": self.pid, "timeout_s": timeout_s})
        out, err = ((self.streams / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        if status is None:
            raise TimeoutError(f"a run took more than {timeout_s} s; it wrote\n{out}{err}")
        return Done(status, out, err)


class WarmPython:
    """The warm process, for the time of a ``with`` block."""

    def __enter__(self) -> WarmPython:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._count = 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=10)
        self._server.stdout.close()
        self._folder.cleanup()

    def start(
        self,
        code: str,
        *arguments: str | Path,
        cwd: Path | None = None,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start statements in a process of their own, with ``sys.argv[1:]`` set to ``arguments``."""
        self._count += 1
        streams = Path(self._folder.name) / str(self._count)
        streams.mkdir()
        (streams / "stdin").write_bytes(stdin)
        request = {
            "code": code,
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd or streams),
            "streams": str(streams),
            "environment": dict(environment or {}),
        }
        return Process(self._ask(request), streams, self)

    def run(
        self,
        code: str,
        *arguments: str | Path,
        cwd: Path | None = None,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 600,
    ) -> Done:
        """Start statements and wait for their end."""
        return self.start(code, *arguments, cwd=cwd, stdin=stdin, environment=environment).wait(timeout_s)

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError("the warm process has ended")
        return json.loads(answer)


def _serve() -> dict[str, Any]:
    """Answer requests until there are no more; in a forked child, return the request it is to run."""
    for name in _WARM:
        __import__(name)
    gc.freeze()  # a collection would touch, and so copy, all of the parent's memory
    while line := _read_line():
        request: dict[str, Any] = json.loads(line)
        if "wait" in request:
            answer = _wait(request["wait"], request["timeout_s"])
        else:
            answer = os.fork()
            if answer == 0:
                return request
        os.write(1, json.dumps(answer).encode() + b"\n")
    sys.exit(0)


def _read_line() -> bytes:
    """Read one line without reading ahead: what ``sys.stdin`` buffered would be a child's input."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


def _wait(pid: int, timeout_s: float) -> int | None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _become(request: dict[str, Any]) -> None:
    """Make this forked process the run that was asked for, up to its code."""
    streams = Path(request["streams"])
    for descriptor, (name, flags) in enumerate(
        (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY | os.O_CREAT), ("stderr", os.O_WRONLY | os.O_CREAT))
    ):
        opened = os.open(streams / name, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=False)
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = ["korsbert", *request["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup


def _run(code: str) -> int:
    """Run statements as an interpreter runs a script; return the exit status."""
    try:
        exec(compile(code, "<run>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001 - the interpreter prints whatever a script ends with
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    try:
        job = _serve()
    except KeyboardInterrupt:
        sys.exit(130)
    _become(job)
    status = _run(job["code"])
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking down the modules, which the parent holds too, would take seconds
