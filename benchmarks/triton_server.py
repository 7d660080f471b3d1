"""What ``benchmarks.triton`` asks: one real Triton server, with a model for each way to serve a bundle."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.results import ROOT
from exporter.bundle import Bundle
from exporter.serving.triton import Options, ship
from exporter.serving.triton.address import Protocol
from exporter.serving.triton.config import FILE, read_config, to_text
from exporter.serving.triton.remote import RemoteEncoder
from tests.support.triton import TritonServer, has_backend, running

MODELS = Path("exporter/serving/triton/models")
EARLIER_QUEUE_DELAY_US = 500
"""The default of the versions that ``--against`` is for."""


@dataclass(frozen=True)
class Served:
    """A model of the server, and the protocol that it is asked over.

    Attributes:
        name: In tables.
        encoder: The model whose batches are counted. Its ensemble is called after it.
        protocol: ``"http"`` or ``"grpc"``.
    """

    name: str
    encoder: str
    protocol: Protocol


@dataclass(frozen=True)
class BatchSettings:
    """What the python runtime batches by.

    Attributes:
        batch_size: Rows per batch, at most.
        batch_tokens: Tokens per batch, at most.
    """

    batch_size: int
    batch_tokens: int


class BenchmarkServer:
    """A running server.

    Attributes:
        ways: To ask it.
        settings: Of the python runtime.
    """

    def __init__(self, server: TritonServer, encoders: dict[str, str], settings: BatchSettings) -> None:
        """Remember a server.

        Args:
            server: Ready.
            encoders: The models by their name in tables.
            settings: Of the python runtime.
        """
        self._server, self.settings = server, settings
        protocols: tuple[tuple[str, Protocol], ...] = (("gRPC", "grpc"), ("HTTP", "http"))
        self.ways = [
            Served(f"{name}, {spoken}", encoder, protocol)
            for name, encoder in encoders.items()
            for spoken, protocol in protocols
        ]

    def connect(self, way: Served) -> RemoteEncoder:
        """Return a connection for one client."""
        address = self._server.http if way.protocol == "http" else self._server.grpc
        return RemoteEncoder(way.protocol, address, f"{way.encoder}_text")

    def counts(self, way: Served, expected: int = 0) -> tuple[int, int]:
        """Return inferences and executions of the encoder, when ``expected`` inferences are counted."""
        with RemoteEncoder("http", self._server.http, f"{way.encoder}_text") as asked:
            return asked.counts(way.encoder, expected)

    def cpu_s(self) -> float:
        """Return the seconds that server and python processes have kept a core busy, of all cores together."""
        server = psutil.Process(self._server.pid)
        times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
        return sum(float(one.user + one.system) for one in times)


@contextmanager
def serving(bundle: Bundle, work: Path, threads: int, against: str | None) -> Iterator[BenchmarkServer]:
    """Yield a server of a bundle: with the python runtime, and Triton's own backend where the server has it.

    Args:
        bundle: With an engine for onnxruntime on the CPU.
        work: Where the repository is written.
        threads: Of each engine.
        against: A revision whose python runtime is served too.
    """
    models = work / "models"
    encoders = {"python runtime": "bench"}
    ship([bundle], models, Options(runtime="python"), name="bench")
    if against is not None:
        encoders[f"python runtime of {against}"] = "earlier"
        earlier = Options(runtime="python", queue_delay_us=EARLIER_QUEUE_DELAY_US)
        ship([bundle], models, earlier, name="earlier")
        for model, file in (("earlier", "encoder.py"), ("earlier_tokenizer", "tokenizer.py")):
            (models / model / "1" / "model.py").write_bytes(_of_revision(against, MODELS / file))
    for encoder in encoders.values():
        _set_threads(models / encoder / FILE, "threads", threads)
    if has_backend("onnxruntime"):
        encoders["onnxruntime backend"] = "native"
        ship([bundle], models, Options(), name="native")
        _set_threads(models / "native" / FILE, "intra_op_thread_count", threads)
    with running(models, work / "triton") as server:
        yield BenchmarkServer(server, encoders, _settings(models / encoders["python runtime"] / FILE))


def _of_revision(revision: str, file: Path) -> bytes:
    command = ["git", "-C", str(ROOT), "show", f"{revision}:{file}"]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def _settings(path: Path) -> BatchSettings:
    config = read_config(path)
    return BatchSettings(config.max_batch_size, int(config.parameters["batch_tokens"].string_value))


def _set_threads(path: Path, parameter: str, threads: int) -> None:
    config = read_config(path)
    config.parameters[parameter].string_value = str(threads)
    path.write_text(to_text(config), encoding="utf-8")
