"""The server's side of the soak: its processes, their memory, and what is done to them while clients send requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from exporter.bundle import Bundle
from exporter.serving.triton import Options, ship
from tests.support.triton import TritonServer

STUB = "triton_python_backend_stub"
"""Name of a process of the python backend: one for each version of each of its models."""
EVENT_S = 120.0
"""The longest that a reload or a restart is waited for."""
LOOK_S = 0.05


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
        kind: ``"reload"``: the bundle was shipped as a new version. ``"kill"``: a process of the version that serves
            was killed. ``"idle kill"``: one of the version before, which nothing asks for.
        what: The model and the version.
        at: When, in seconds of ``time.monotonic``.
        over: When the new version was ready, or the killed process had a successor; None where that did not come in
            ``EVENT_S``. An idle process has no successor.
    """

    kind: Literal["reload", "kill", "idle kill"]
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
        if arguments and Path(arguments[0]).name == STUB:
            model, version = Path(arguments[1]).parts[-3:-1]
            found.append(Stub(process, model, int(version)))
    return found


class Memory:
    """Samples of a server's memory, taken at equal distances in a thread.

    Attributes:
        samples: In order.
    """

    def __init__(self, pid: int, every_s: float) -> None:
        self.samples: list[Sample] = []
        self._server, self._every_s = psutil.Process(pid), every_s

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Take samples for the time of a ``with`` block."""
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(self._every_s):
                self.samples.append(self._sample())

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _sample(self) -> Sample:
        own = self._server.memory_full_info()
        sizes = []
        for stub in stubs_of(self._server):
            try:
                sizes.append(stub.process.memory_full_info())
            except psutil.NoSuchProcess:  # it ended meanwhile
                continue
        return Sample(
            time.monotonic(),
            len(sizes),
            own.pss / 2**20,
            (own.pss + sum(size.pss for size in sizes)) / 2**20,
            (own.rss + sum(size.rss for size in sizes)) / 2**20,
            self._server.num_fds(),
        )


class Disturbances:
    """Reloads and kills in turns.

    Attributes:
        events: What was done, in order.
    """

    def __init__(self, server: TritonServer, bundle: Bundle, models: Path, name: str) -> None:
        self.events: list[Event] = []
        self._server, self._process = server, psutil.Process(server.pid)
        self._bundle, self._models, self._name = bundle, models, name
        self._version = 1

    def run(self, seconds: float, every_s: float, least: int) -> None:
        """Disturb the server for a while, with a pause before each disturbance and after the last.

        Args:
            seconds: How long.
            every_s: The pause.
            least: Disturbances that there must be, however long they take.
        """
        end = time.monotonic() + seconds
        turn: list[Callable[[], Event]] = [
            self.reload,
            lambda: self.kill(self._name),
            self.reload,
            lambda: self.kill(f"{self._name}_tokenizer"),
            self.reload,
            lambda: self.kill_idle(self._name),
        ]
        while True:
            left = end - time.monotonic()
            enough = len(self.events) >= least
            time.sleep(max(0.0, min(every_s, left)) if enough else every_s)
            if enough and left <= every_s:
                return
            self.events.append(turn[len(self.events) % len(turn)]())

    def reload(self) -> Event:
        """Ship the bundle as a new version, and wait until the server serves it."""
        at = time.monotonic()
        (shipped,) = ship([self._bundle], self._models, Options(runtime="python"), name=self._name)
        self._version = shipped.version
        ready = f"/v2/models/{shipped.ensemble}/versions/{shipped.version}/ready"
        over = _moment_of(lambda: self._server.answers(ready))
        return Event("reload", f"{shipped.ensemble} {shipped.version}", at, over)

    def kill(self, model: str) -> Event:
        """Kill the process of a model in the version that serves, and wait for its successor."""
        at, killed = self._kill(model, self._version)
        over = _moment_of(lambda: bool(self._find(model, self._version) - {killed}))
        return Event("kill", f"{model} {self._version}", at, over)

    def kill_idle(self, model: str) -> Event:
        """Kill the process of a model in the version before, which the server keeps and nothing asks for."""
        at, _ = self._kill(model, self._version - 1)
        return Event("idle kill", f"{model} {self._version - 1}", at, at)

    def _kill(self, model: str, version: int) -> tuple[float, int]:
        (pid,) = self._find(model, version)
        at = time.monotonic()
        psutil.Process(pid).kill()
        return at, pid

    def _find(self, model: str, version: int) -> set[int]:
        return {stub.process.pid for stub in stubs_of(self._process) if (stub.model, stub.version) == (model, version)}


def _moment_of(condition: Callable[[], bool]) -> float | None:
    """Return when a condition came true, or None where it did not come."""
    deadline = time.monotonic() + EVENT_S
    while time.monotonic() < deadline:
        if condition():
            return time.monotonic()
        time.sleep(LOOK_S)
    return None
