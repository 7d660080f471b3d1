"""The server's side of the soak: its processes, their memory, and what is done to them while clients send requests."""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from exporter.bundle import Bundle
from exporter.errors import ServerError
from exporter.serving.triton import Options, ship
from exporter.serving.triton.deployment import deployed, probe_command
from exporter.serving.triton.kubernetes import PROBE_FAILURES
from exporter.serving.triton.remote import RemoteEncoder
from tests.support.triton import TritonServer

STUB = "triton_python_backend_stub"
"""Name of a process of the python backend: one for each version of each of its models."""
EVENT_S = 300.0
"""The longest that a reload or a restart is waited for."""
LOOK_S = 0.05
KILLS_SHARE = 0.25
"""The last part of the time, in which processes are killed. Memory is that of the server that ran before."""


@dataclass(frozen=True)
class Stub:
    """A process of the python backend."""

    process: psutil.Process
    model: str
    version: int


@dataclass(frozen=True)
class Sample:
    """Memory of the server and its python processes at one time.

    Attributes:
        at: When, in seconds of ``time.monotonic``.
        stubs: How many python processes there were.
        server_mib: Proportional set size of ``tritonserver``, in MiB: shared pages count in parts.
        total_mib: That of the server and its python processes together.
        resident_mib: Their resident sets, added up: shared pages count once for each process.
        files: Files and sockets that the server has open.
    """

    at: float
    stubs: int
    server_mib: float
    total_mib: float
    resident_mib: float
    files: int


@dataclass(frozen=True)
class Event:
    """Something that was done to the server.

    Attributes:
        kind: ``"reload"``: the bundle was shipped as a new version. ``"process killed"``: a python process of the
            version that serves was. ``"server killed"``: the server was, with all its processes.
        what: The model and the version.
        at: When, in seconds of ``time.monotonic``.
        over: When the new version was ready, or the server answered again; None where that did not come in ``EVENT_S``.
    """

    kind: Literal["reload", "process killed", "server killed"]
    what: str
    at: float
    over: float | None


def stubs_of(server: psutil.Process) -> list[Stub]:
    """Return the python processes of a server that run."""
    found = []
    for process in server.children(recursive=True):
        try:
            arguments = process.cmdline()  # empty for a process that has ended
        except psutil.NoSuchProcess:
            continue
        if len(arguments) > 1 and Path(arguments[0]).name == STUB:
            model, version = Path(arguments[1]).parts[-3:-1]
            found.append(Stub(process, model, int(version)))
    return found


class Memory:
    """Samples of a server's memory, taken at equal distances in a thread.

    Attributes:
        samples: In order.
    """

    def __init__(self, server: TritonServer, every_s: float) -> None:
        self.samples: list[Sample] = []
        self._server, self._every_s = server, every_s

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Take samples for the time of a ``with`` block."""
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(self._every_s):
                with suppress(psutil.NoSuchProcess):  # the server was killed
                    self.samples.append(_sample(psutil.Process(self._server.pid)))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _sample(server: psutil.Process) -> Sample:
    own = server.memory_full_info()
    sizes = []
    for stub in stubs_of(server):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            sizes.append(stub.process.memory_full_info())
    return Sample(
        time.monotonic(),
        len(sizes),
        own.pss / 2**20,
        (own.pss + sum(size.pss for size in sizes)) / 2**20,
        (own.rss + sum(size.rss for size in sizes)) / 2**20,
        server.num_fds(),
    )


class Disturbances:
    """Reloads in turns, then kills in turns.

    A killed server is started again at once, as a container is. A killed python process is not started again by Triton,
    so the probe of the deployment files asks the server, and restarts it after as many failures as in Kubernetes.

    Attributes:
        events: What was done, in order.
        failed_starts: How often the server ended by itself before it served.
    """

    def __init__(self, server: TritonServer, bundle: Bundle, models: Path, name: str, *, probe_s: float) -> None:
        self.events: list[Event] = []
        self.failed_starts = 0
        self._server, self._bundle, self._models, self._name = server, bundle, models, name
        self._probe_s = probe_s
        self._probe = probe_command(deployed(models), int(server.http.rpartition(":")[2]))
        self._version = 1

    def run(self, seconds: float, every_s: float) -> None:
        """Disturb the server for a while, with a pause before each disturbance and after the last.

        Every disturbance happens once, however long that takes.

        Args:
            seconds: How long.
            every_s: The pause.
        """
        end = time.monotonic() + seconds
        kills = [lambda: self._kill_process(self._name), lambda: self._kill_process(f"{self._name}_tokenizer")]
        self._repeat([self._reload], end - KILLS_SHARE * seconds, every_s)
        self._repeat([*kills, self._kill_server], end, every_s)

    def _repeat(self, turn: Sequence[Callable[[], Event]], end: float, every_s: float) -> None:
        for number in itertools.count():
            time.sleep(every_s)
            if number >= len(turn) and time.monotonic() >= end:
                return
            self.events.append(turn[number % len(turn)]())

    def _reload(self) -> Event:
        """Ship the bundle as a new version, and wait until the server serves it."""
        at = time.monotonic()
        (shipped,) = ship([self._bundle], self._models, Options(runtime="python"), name=self._name)
        self._version = shipped.version
        ready = f"/v2/models/{shipped.ensemble}/versions/{shipped.version}/ready"
        return Event(
            "reload", f"{shipped.ensemble} {shipped.version}", at, _moment_of(lambda: self._server.answers(ready))
        )

    def _kill_process(self, model: str) -> Event:
        """Kill the process of a model in the version that serves."""
        stubs = stubs_of(psutil.Process(self._server.pid))
        process = next(stub.process for stub in stubs if (stub.model, stub.version) == (model, self._version))
        at = time.monotonic()
        process.kill()
        failures = 0
        while failures < PROBE_FAILURES and time.monotonic() < at + EVENT_S:
            time.sleep(self._probe_s)
            failures = 0 if self._alive() else failures + 1
        self._server.kill()
        return Event("process killed", f"{model} {self._version}", at, self._started_again())

    def _kill_server(self) -> Event:
        at = time.monotonic()
        self._server.kill()
        return Event("server killed", "", at, self._started_again())

    def _started_again(self) -> float | None:
        """Start the server, and return when it answered over both protocols."""
        self._server.start()
        return _moment_of(self._serves)

    def _serves(self) -> bool:
        """Whether the server answers. One that has ended while it started is started again, as a container is.

        Triton 2.51 aborts at times where two python processes start at once and the machine is busy
        (``boost::interprocess::lock_exception``).
        """
        if not self._server.running:
            self.failed_starts += 1
            self._server.start()
            return False
        return self._alive() and self._answers_over_grpc()

    def _alive(self) -> bool:
        return subprocess.run(["sh", "-c", self._probe], timeout=EVENT_S, check=False).returncode == 0

    def _answers_over_grpc(self) -> bool:
        """Whether gRPC does: its connections, which all clients share, are tried again after growing pauses."""
        with RemoteEncoder("grpc", self._server.grpc, f"{self._name}_text") as remote:
            try:
                remote.encode_batch(["a"])
            except ServerError:
                return False
        return True


def _moment_of(condition: Callable[[], bool]) -> float | None:
    """Return when a condition came true, or None where it did not come."""
    deadline = time.monotonic() + EVENT_S
    while time.monotonic() < deadline:
        if condition():
            return time.monotonic()
        time.sleep(LOOK_S)
    return None
