"""Triton against the in-process encoder, on the same text: throughput and latency at 1, 8 and 32 clients."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from benchmarks.results import DEMO, arguments, publish, table, twin, twin_recipe, work_folder
from exporter.benchmark import evenly_spread
from exporter.bundle import TOKENIZER
from exporter.calibration import calibration_sentences
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.recipe import load_recipe
from exporter.runtime.tokens import TextTokenizer
from exporter.serving.triton import Options, ship
from exporter.serving.triton.config import FILE, read_config, to_text
from exporter.serving.triton.remote import RemoteEncoder
from tests.support.triton import running
from tests.support.twins import MEASURED

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from exporter.bundle import Bundle
    from exporter.runtime.encoder import Encoder

CLIENTS = (1, 8, 32)
PADDING = (0, 16, 64, 256, 1 << 30)
GROUP = 16
"""Sentences that stand for what requests of a server's batch hold, in the table on padding."""


@dataclass
class Measured:
    """What was measured of one way to ask, at one number of clients.

    Attributes:
        name: In tables.
        sentences_per_s: Per round.
        latency_ms: Of every request of every round, one sentence each.
        batching: Inferences over executions of the encoder, per round; empty in process.
    """

    name: str
    clients: int
    sentences_per_s: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    batching: list[float] = field(default_factory=list)

    def row(self, first: Measured) -> tuple[str, ...]:
        """Return the cells of a table; ``first`` is what throughput is relative to."""
        ratio = np.median(np.array(self.sentences_per_s) / np.array(first.sentences_per_s))
        p50, p90, p99 = np.percentile(self.latency_ms, (50, 90, 99))
        batching = f"{np.median(self.batching):.2f}" if self.batching else ""
        return (
            self.name,
            str(self.clients),
            f"{np.median(self.sentences_per_s):.0f}",
            f"{ratio:.2f}x",
            f"{p50:.1f}",
            f"{p90:.1f}",
            f"{p99:.1f}",
            batching,
        )

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON data."""
        return {
            "name": self.name,
            "clients": self.clients,
            "sentences_per_s": [round(value, 2) for value in self.sentences_per_s],
            "p50_ms": round(float(np.percentile(self.latency_ms, 50)), 3),
            "p90_ms": round(float(np.percentile(self.latency_ms, 90)), 3),
            "p99_ms": round(float(np.percentile(self.latency_ms, 99)), 3),
            "batching": [round(value, 3) for value in self.batching],
        }


def main() -> None:
    """Measure one model, and write ``triton`` (or ``triton-MODEL``) to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--model", choices=(*MEASURED, "demo"), default="demo")
    parser.add_argument("--sentences", type=int, default=512, help="per round and number of clients")
    parser.add_argument("--threads", type=int, default=2, help="of the engine, in process and in the server")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    load_average = os.getloadavg()
    sentences = evenly_spread(list(dict.fromkeys(calibration_sentences(None, probes=()))), options.sentences)
    with work_folder(options.work) as work:
        bundle = _bundle(options, work)
        models = work / "models"
        ship([bundle], models, Options(runtime="python"), name="bench")
        _set_threads(models, options.threads)
        with bundle.encoder(threads=options.threads) as encoder, running(models, work / "triton") as server:
            encoder.encode(sentences)
            padding = _padding(bundle, encoder, sentences, options.rounds)
            measured = _measure(encoder, server.http, server.grpc, sentences, options.rounds)
            tokens = float(np.mean(encoder.count_tokens(sentences)))
    _report(options, sentences, tokens, load_average, measured, padding)


def _bundle(options: Namespace, work: Path) -> Bundle:
    recipe = load_recipe(twin_recipe(options.model, options.size, work))
    checkpoint = DEMO if options.model == "demo" else twin(options.model, options.size, work)
    return export(recipe, ExportOptions(out=work / "bundles", checkpoint=checkpoint, force=True))


def _set_threads(models: Path, threads: int) -> None:
    path = models / "bench" / FILE
    config = read_config(path)
    config.parameters["threads"].string_value = str(threads)
    path.write_text(to_text(config), encoding="utf-8")


def _measure(encoder: Encoder, http: str, grpc: str, sentences: Sequence[str], rounds: int) -> list[Measured]:
    """Time all ways in turns, every second round in reverse order; a round that is not counted comes first."""
    ways: dict[str, Callable[[], RemoteEncoder | None]] = {
        "in process": lambda: None,
        "Triton, gRPC": lambda: RemoteEncoder("grpc", grpc, "bench_text"),
        "Triton, HTTP": lambda: RemoteEncoder("http", http, "bench_text"),
    }
    measured = [Measured(name, clients) for clients in CLIENTS for name in ways]
    with RemoteEncoder("http", http, "bench_text") as statistics:
        for number in range(rounds + 1):
            for one in measured if number % 2 else measured[::-1]:
                before = statistics.counts("bench")
                seconds, latencies = _round(ways[one.name], encoder, sentences, one.clients)
                asked = 0 if one.name == "in process" else len(sentences)
                inferences, executions = np.subtract(statistics.counts("bench", before[0] + asked), before)
                if not number:
                    continue
                one.sentences_per_s.append(len(sentences) / seconds)
                one.latency_ms += latencies
                if executions:
                    one.batching.append(float(inferences / executions))
    return measured


def _round(
    connect: Callable[[], RemoteEncoder | None], encoder: Encoder, sentences: Sequence[str], clients: int
) -> tuple[float, list[float]]:
    """Have clients ask for every sentence once, alone; return the seconds of all and the milliseconds of each."""
    left, turn = iter(sentences), threading.Lock()
    latencies: list[float] = []

    def client(_: int) -> None:
        remote = connect()
        try:
            while True:
                with turn:
                    sentence = next(left, None)
                if sentence is None:
                    return
                started = time.perf_counter()
                (encoder.encode if remote is None else remote.encode)([sentence])
                latencies.append(1000 * (time.perf_counter() - started))
        finally:
            if remote is not None:
                remote.close()

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return time.perf_counter() - started, latencies


def _padding(bundle: Bundle, encoder: Encoder, sentences: Sequence[str], rounds: int) -> list[tuple[str, ...]]:
    """Time groups of ragged sentences at several bounds on padding, in turns."""
    ids = TextTokenizer(Tokenizer.from_file(str(bundle.folder / TOKENIZER))).ids(sentences)
    groups = [ids[start : start + GROUP] for start in range(0, len(ids), GROUP)]
    seconds: dict[int, list[float]] = {bound: [] for bound in PADDING}
    for number in range(rounds + 1):
        for bound in PADDING if number % 2 else PADDING[::-1]:
            started = time.perf_counter()
            for group in groups:
                encoder.encode_tokens(group, batch_size=128, padding_tokens=bound)
            if number:
                seconds[bound].append(time.perf_counter() - started)
    most = np.array(seconds[PADDING[-1]])
    return [
        (
            str(bound) if bound < PADDING[-1] else "one batch",
            f"{len(ids) / np.median(taken):.0f}",
            f"{np.median(most / np.array(taken)):.2f}x",
        )
        for bound, taken in seconds.items()
    ]


def _report(
    options: Namespace,
    sentences: Sequence[str],
    tokens: float,
    load_average: tuple[float, float, float],
    measured: list[Measured],
    padding: list[tuple[str, ...]],
) -> None:
    conditions = (
        f"{len(sentences)} calibration sentences that ship ({tokens:.1f} tokens each), one a request, engine fp32 on "
        f"onnxruntime with {options.threads} threads on both sides, string to vector; medians of {options.rounds} "
        "rounds in turns after a warm-up, the ratio within rounds to the encoder in process at as many clients. In "
        "process, clients are threads that share one encoder and do not batch. The server (tritonserver 2.51.0, python "
        "runtime), its clients and the encoder share the machine. Its load average was "
        f"{load_average[0]:.1f} before the run: where that is not near 0, others were at work, and absolute figures "
        "are too low. Batching is the encoder's inferences over executions."
    )
    rows = [one.row(next(first for first in measured if first.clients == one.clients)) for one in measured]
    header = ("", "clients", "sentences/s", "ratio", "p50 ms", "p90 ms", "p99 ms", "batching")
    padded = (
        f"Padding that a batch may hold, in tokens, over groups of {GROUP} sentences as they come "
        "(`Encoder.encode_tokens`, in process):\n\n"
        + table(("padding_tokens", "sentences/s", "to one batch a group"), padding)
    )
    data = {
        "model": options.model,
        "size": options.size,
        "sentences": len(sentences),
        "tokens_per_sentence": round(tokens, 1),
        "threads": options.threads,
        "rounds": options.rounds,
        "load_average": list(load_average),
        "measured": [one.to_dict() for one in measured],
        "padding": [list(row) for row in padding],
    }
    heading = f"# Triton, with {options.model}" + ("" if options.model == "demo" else f" (a {options.size} twin)")
    file = "triton" if options.model == "demo" else f"triton-{options.model}"
    publish(file, options.results, data, (heading, conditions, table(header, rows), padded), [])


if __name__ == "__main__":
    main()
