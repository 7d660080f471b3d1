"""A real ``tritonserver`` on the loopback, without a container.

nvidia-pytriton ships the server and its python backend in a wheel. ``make .venv-triton/ready`` installs it in an
environment of its own (it wants numpy 1), together with the runtime part of korsbert, which the python backend imports
there as it would in NVIDIA's image after ``pip install 'korsbert[cpu]'``.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import pytest

from tests.support.ports import free_ports

__all__ = ["TritonServer", "has_backend", "running"]

ROOT = Path(__file__).parents[2]
VENV = ROOT / os.environ.get("KORSBERT_TRITON_VENV", ".venv-triton")
"""``make test-oldest`` names one with the lowest versions: both sides of a comparison then have the same engine."""
READY_S = 300


def tritonserver() -> Path:
    """Return the folder of the server in its environment; skip, with the reason, where it is not installed."""
    found = list(VENV.glob("lib/python3.*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    if not found:
        pytest.skip(f"there is no tritonserver: `make {VENV.name}/ready` installs nvidia-pytriton")
    return found[0].parents[1]


def has_backend(name: str) -> bool:
    """Whether the server has a backend: nvidia-pytriton brings ``"python"``; others may lie beside it."""
    return (tritonserver() / "backends" / name).is_dir()


def _backends(server: Path, folder: Path) -> Path:
    """Put the backends together with the stub of that environment's Python."""
    python = server.parents[2].name.removeprefix("python")
    place = folder / "backends"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(server / "backends", place, ignore=shutil.ignore_patterns("__pycache__"))
    stub = server / "python_backend_stubs" / python / "triton_python_backend_stub"
    shutil.copy2(stub, place / "python" / stub.name)
    return place


class TritonServer:
    """A server on a repository, for the time of a ``with`` block.

    Attributes:
        http: Address of HTTP, ``"127.0.0.1:12345"``.
        grpc: Address of gRPC.
        metrics: Address of the metrics.
        log: What the server says.
    """

    def __init__(self, repository: Path, work: Path, arguments: Sequence[str] = ()) -> None:
        self._repository, self._work, self._arguments = repository, work, arguments
        self.log = work / "server.log"
        self.http, self.grpc, self.metrics = (f"127.0.0.1:{port}" for port in free_ports(3))

    def start(self) -> None:
        """Start the server, on the same ports each time; it may not be ready yet."""
        server = tritonserver()
        packages = server.parents[1]
        self._work.mkdir(parents=True, exist_ok=True)
        ports = [
            part
            for name in ("http", "grpc", "metrics")
            for part in (f"--{name}-address=127.0.0.1", f"--{name}-port={getattr(self, name).rpartition(':')[2]}")
        ]
        libraries = [packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
        environment = {
            **{name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(packages),
            "OMP_NUM_THREADS": "1",
        }
        command = [
            server / "bin" / "tritonserver",
            f"--backend-directory={_backends(server, self._work)}",
            f"--cache-directory={server / 'caches'}",
            f"--model-repository={self._repository}",
            "--cuda-memory-pool-byte-size=0:0",
            "--exit-timeout-secs=10",
            *ports,
            *self._arguments,
        ]
        with self.log.open("ab") as log:
            # A group of its own: the python backend's processes must end with it, however it ends.
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until the server answers that it is ready.

        Raises:
            AssertionError: It ended, or took too long; its log is in the message.
        """
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"tritonserver ended with {self._process.returncode}:\n{self.tail()}")
            if self.answers("/v2/health/ready"):
                return
            time.sleep(0.1)
        raise AssertionError(f"tritonserver was not ready after {READY_S} s:\n{self.tail()}")

    def answers(self, path: str) -> bool:
        """Whether HTTP answers a path with 200."""
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def read_metrics(self) -> str:
        """Return the metrics page."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=60) as response:
            return str(response.read().decode())

    @property
    def pid(self) -> int:
        """The process of the server; the python backend's processes are its children."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the server and its backends at once, as a failing machine would."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def tail(self, lines: int = 60) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> TritonServer:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"tritonserver's log, {self.log}:\n{self.tail()}", file=sys.stderr)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def running(repository: Path, work: Path, *arguments: str) -> Iterator[TritonServer]:
    """Yield a ready server on a repository."""
    with TritonServer(repository, work, arguments) as server:
        yield server
