"""Triton against the in-process encoder, on the same text: throughput, latency and CPU time at 1, 8 and 32 clients."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from benchmarks.results import DEMO, Target, arguments, publish, table, twin, twin_recipe, work_folder
from benchmarks.triton_server import BatchSettings, BenchmarkServer, Served, serving
from exporter.benchmark import evenly_spread
from exporter.bundle import TOKENIZER
from exporter.calibration import calibration_sentences
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.recipe import load_recipe
from exporter.runtime.tokens import TextTokenizer
from tests.support.twins import MEASURED

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from pathlib import Path

    from exporter.bundle import Bundle
    from exporter.runtime.encoder import Encoder
    from exporter.serving.triton.remote import RemoteEncoder

CLIENTS = (1, 8, 32)
IN_PROCESS = "in process"
SENTENCES = {"demo": 512}
"""Per round and number of clients; 128 of other models, which are larger."""
LEAST_RATIO = {"demo": 0.8}
"""Of the encoder in process, at 8 clients or more; 1.0 for other models."""
LEAST_GAIN = 1.3
"""On the python runtime of the revision that ``--against`` names, at 8 clients or more."""
PADDING = (0, 16, 64, 256, 1 << 30)
NO_BOUND = "no bound"
GROUP = 16
"""Sentences that stand for what requests of a server's batch hold, in the table on padding."""


@dataclass
class Measured:
    """What was measured of one way to ask, at one number of clients.

    Attributes:
        name: In tables.
        sentences_per_s: Per round.
        latency_ms: Of every request of every round, one sentence each.
        cpu_ms: CPU time of one sentence per round, of clients, server and encoder together.
        batching: Inferences over executions of the encoder, per round; empty in process.
    """

    name: str
    clients: int
    sentences_per_s: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    batching: list[float] = field(default_factory=list)

    def ratio(self, other: Measured) -> float:
        """Return the median over the rounds of the throughput relative to that of another way."""
        return float(np.median(np.array(self.sentences_per_s) / np.array(other.sentences_per_s)))

    def row(self, first: Measured) -> tuple[str, ...]:
        """Return the cells of a table; ``first`` is what throughput is relative to."""
        p50, p90, p99 = np.percentile(self.latency_ms, (50, 90, 99))
        batching = f"{np.median(self.batching):.2f}" if self.batching else ""
        return (
            self.name,
            str(self.clients),
            f"{np.median(self.sentences_per_s):.0f}",
            f"{self.ratio(first):.2f}x",
            f"{np.median(self.cpu_ms):.2f}",
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
            "cpu_ms": [round(value, 3) for value in self.cpu_ms],
            "p50_ms": round(float(np.percentile(self.latency_ms, 50)), 3),
            "p90_ms": round(float(np.percentile(self.latency_ms, 90)), 3),
            "p99_ms": round(float(np.percentile(self.latency_ms, 99)), 3),
            "batching": [round(value, 3) for value in self.batching],
        }


def main() -> None:
    """Measure models, and write ``triton`` (the demo) and ``triton-MODEL`` to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument(
        "--model", choices=(*MEASURED, "demo"), action="append", help="by default demo and klue-sroberta; repeatable"
    )
    parser.add_argument("--sentences", type=int, help="per round and number of clients (default: demo 512, others 128)")
    parser.add_argument("--threads", type=int, default=2, help="of the engine, in process and in the server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", metavar="REVISION", help="measure the python runtime of this commit too")
    options = parser.parse_args()
    for model in options.model or ("demo", "klue-sroberta"):
        _run(options, model)


def _run(options: Namespace, model: str) -> None:
    count = options.sentences or SENTENCES.get(model, 128)
    sentences = evenly_spread(list(dict.fromkeys(calibration_sentences(None, probes=()))), count)
    with work_folder(options.work) as work:
        place = work / f"triton-{model}"
        place.mkdir(exist_ok=True)
        bundle = _bundle(model, options.size, work, place)
        load_average = os.getloadavg()
        with (
            bundle.encoder(threads=options.threads) as encoder,
            serving(bundle, place, options.threads, options.against) as server,
        ):
            encoder.encode(sentences)
            padding = _padding(bundle, server.settings, sentences, options.threads, options.rounds)
            measured = _measure(encoder, server, sentences, options.rounds)
            tokens = float(np.mean(encoder.count_tokens(sentences)))
    _report(options, model, sentences, tokens, load_average, measured, padding)


def _bundle(model: str, size: str, work: Path, place: Path) -> Bundle:
    recipe = load_recipe(twin_recipe(model, size, work))
    checkpoint = DEMO if model == "demo" else twin(model, size, work)
    return export(recipe, ExportOptions(out=place / "bundles", checkpoint=checkpoint, force=True))


def _measure(encoder: Encoder, server: BenchmarkServer, sentences: Sequence[str], rounds: int) -> list[Measured]:
    """Time all ways in turns, every second round in reverse order; a round that is not counted comes first."""
    ways: dict[str, Served | None] = {IN_PROCESS: None, **{way.name: way for way in server.ways}}
    measured = [Measured(name, clients) for clients in CLIENTS for name in ways]
    for number in range(rounds + 1):
        for one in measured if number % 2 else measured[::-1]:
            way = ways[one.name]
            before = (0, 0) if way is None else server.counts(way)
            busy = time.process_time() + server.cpu_s()
            seconds, latencies = _round(server, way, encoder, sentences, one.clients)
            busy = time.process_time() + server.cpu_s() - busy
            if not number:
                continue
            one.sentences_per_s.append(len(sentences) / seconds)
            one.latency_ms += latencies
            one.cpu_ms.append(1000 * busy / len(sentences))
            if way is not None:
                inferences, executions = np.subtract(server.counts(way, before[0] + len(sentences)), before)
                one.batching.append(float(inferences / executions))
    return measured


def _round(
    server: BenchmarkServer, way: Served | None, encoder: Encoder, sentences: Sequence[str], clients: int
) -> tuple[float, list[float]]:
    """Have clients ask for every sentence once, alone; return the seconds of all and the milliseconds of each."""
    left, turn = iter(sentences), threading.Lock()
    latencies: list[float] = []

    def client(_: int) -> None:
        remote: RemoteEncoder | None = None if way is None else server.connect(way)
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


def _padding(
    bundle: Bundle, settings: BatchSettings, sentences: Sequence[str], threads: int, rounds: int
) -> list[tuple[str, ...]]:
    """Time groups of ragged sentences at several bounds on padding, in turns, encoded as the python runtime does."""
    ids = TextTokenizer(Tokenizer.from_file(str(bundle.folder / TOKENIZER))).ids(sentences)
    groups = [ids[start : start + GROUP] for start in range(0, len(ids), GROUP)]
    seconds: dict[int, list[float]] = {bound: [] for bound in PADDING}
    with bundle.encoder(threads=threads, spinning=False) as encoder, ThreadPoolExecutor(threads) as pool:
        for number in range(rounds + 1):
            for bound in PADDING if number % 2 else PADDING[::-1]:
                started = time.perf_counter()
                for group in groups:
                    _encode_group(encoder, group, settings, bound, pool)
                if number:
                    seconds[bound].append(time.perf_counter() - started)
    most = np.array(seconds[PADDING[-1]])
    return [
        (
            str(bound) if bound < PADDING[-1] else NO_BOUND,
            f"{len(ids) / np.median(taken):.0f}",
            f"{np.median(most / np.array(taken)):.2f}x",
        )
        for bound, taken in seconds.items()
    ]


def _encode_group(
    encoder: Encoder, group: list[list[int]], settings: BatchSettings, padding_tokens: int, pool: Executor
) -> None:
    batches = encoder.encode_tokens_by_batch(
        group,
        batch_size=settings.batch_size,
        padding_tokens=padding_tokens,
        batch_tokens=settings.batch_tokens,
        pool=pool,
    )
    for _, result in batches:
        if isinstance(result, Exception):
            raise result


def _report(
    options: Namespace,
    model: str,
    sentences: Sequence[str],
    tokens: float,
    load_average: tuple[float, float, float],
    measured: list[Measured],
    padding: list[tuple[str, ...]],
) -> None:
    native = any(one.name.startswith("onnxruntime") for one in measured)
    conditions = (
        f"{len(sentences)} calibration sentences that ship ({tokens:.1f} tokens each), one a request, engine fp32 on "
        f"onnxruntime with {options.threads} threads on both sides, string to vector; medians of {options.rounds} "
        "rounds in turns after a warm-up, the ratio within rounds to the encoder in process at as many clients. In "
        "process, clients are threads that share one encoder and do not batch. The server (tritonserver 2.51.0), its "
        "clients and the encoder share the machine. Its load average was "
        f"{load_average[0]:.1f} before the run: where that is not near 0, others were at work, absolute figures are "
        "too low, and so are ratios: the threads of more clients get more of a busy machine. CPU ms is the time of a "
        "sentence on all cores together, of clients, server and encoder. Batching is the encoder's inferences over "
        "executions." + ("" if native else " The server lacks Triton's onnxruntime backend, so it was not measured.")
    )
    rows = [one.row(_at(measured, IN_PROCESS, one.clients)) for one in measured]
    header = ("", "clients", "sentences/s", "ratio", "CPU ms", "p50 ms", "p90 ms", "p99 ms", "batching")
    padded = (
        f"Padding that a batch may hold, in tokens, over groups of {GROUP} sentences as they come "
        "(`Encoder.encode_tokens_by_batch` in process, with the tokens per batch, threads and pool of the python "
        "runtime):\n\n" + table(("padding_tokens", "sentences/s", f"to {NO_BOUND}"), padding)
    )
    data = {
        "model": model,
        "size": options.size,
        "sentences": len(sentences),
        "tokens_per_sentence": round(tokens, 1),
        "threads": options.threads,
        "rounds": options.rounds,
        "load_average": list(load_average),
        "measured": [one.to_dict() for one in measured],
        "padding": [list(row) for row in padding],
    }
    heading = f"# Triton, with {model}" + ("" if model == "demo" else f" (a {options.size} twin)")
    file = "triton" if model == "demo" else f"triton-{model}"
    sections = (heading, conditions, table(header, rows), padded)
    publish(file, options.results, data, sections, _targets(model, measured, options.against))


def _targets(model: str, measured: list[Measured], against: str | None) -> list[Target]:
    """Return what the python runtime must reach at 8 clients or more."""
    targets = []
    for one in measured:
        name, _, spoken = one.name.partition(", ")
        if name != "python runtime" or one.clients < 8:
            continue
        where = f"{one.clients} clients, {spoken}"
        first = _at(measured, IN_PROCESS, one.clients)
        bound = LEAST_RATIO.get(model, 1.0)
        targets.append(Target(f"throughput to in process, {where}", one.ratio(first), bound, at_least=True))
        if against is not None:
            earlier = _at(measured, f"python runtime of {against}, {spoken}", one.clients)
            told = f"throughput to {against}, {where}"
            targets.append(Target(told, one.ratio(earlier), LEAST_GAIN, at_least=True))
    return targets


def _at(measured: list[Measured], name: str, clients: int) -> Measured:
    return next(one for one in measured if (one.name, one.clients) == (name, clients))


if __name__ == "__main__":
    main()
