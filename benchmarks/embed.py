"""Bulk embedding on one machine: rows per second beside ``Encoder.encode`` and sentence-transformers.

    python -m benchmarks.embed --text sentences.txt

``korsbert embed`` reads Parquet and writes Parquet; ``Encoder.encode`` gets a list and returns an array, with the same
threads; sentence-transformers encodes with its pool of processes, of one thread each. All take turns in one run.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

import exporter
from benchmarks.corpora import DEMO_NAME, MINILM, bundle_of, checkpoint_of
from benchmarks.results import Target, arguments, publish, table, work_folder
from exporter.calibration import calibration_sentences

OURS = "korsbert embed"
PROMISED = {"Encoder.encode": 0.95, "sentence-transformers pool": 2.0}


def main() -> None:
    """Measure a model, and write ``embed-MODEL``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--model", choices=(MINILM, "ko-sbert-sts", DEMO_NAME), default=MINILM)
    parser.add_argument("--text", type=Path, metavar="FILE", help="one sentence a line (default: calibration text)")
    parser.add_argument("--rows", type=int, default=50_000, help="in each round; repeated text has a number before it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with work_folder(options.work) as work:
        checkpoint = checkpoint_of(options.model, work, options.size)
        bundle = bundle_of(checkpoint, work / f"bundle-{options.model}-{options.size}")
        _report(options, _measure(options, checkpoint, bundle, work))


def _measure(options: Namespace, checkpoint: Path, bundle: Path, work: Path) -> dict[str, list[float]]:
    """Return the seconds of each round by subject."""
    sentences = calibration_sentences(options.text, probes=())
    numbered = (f"{number} {text}" for number, text in enumerate(cycle(sentences)))
    source, out = work / "in.parquet", work / "out"
    texts: list[str] = []
    model = SentenceTransformer(str(checkpoint), device="cpu")

    def embed() -> None:
        shutil.rmtree(out, ignore_errors=True)
        exporter.embed(bundle, source, out, threads=options.threads)

    seconds: dict[str, list[float]] = {}
    with exporter.load(bundle, threads=options.threads) as encoder:
        pool = _pool(model, options.threads)
        subjects: dict[str, Callable[[], object]] = {
            OURS: embed,
            "Encoder.encode": lambda: encoder.encode_document(texts),
            "sentence-transformers pool": lambda: model.encode_document(texts, pool=pool),
        }
        for _ in range(options.rounds):
            texts[:] = islice(numbered, options.rows)
            pq.write_table(pa.table({"text": texts}), source)
            for name, act in subjects.items():
                started = time.perf_counter()
                act()
                seconds.setdefault(name, []).append(time.perf_counter() - started)
                print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
        model.stop_multi_process_pool(pool)
    return seconds


def _pool(model: SentenceTransformer, processes: int) -> dict[str, Any]:
    """Return its pool of processes. Each has one thread: by default each has one for every core, which is slower."""
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        pool: dict[str, Any] = model.start_multi_process_pool(["cpu"] * processes)
    return pool


def _report(options: Namespace, seconds: dict[str, list[float]]) -> None:
    def ratio(name: str) -> float:
        """Return how much faster ours is than another: the median over the rounds."""
        return statistics.median(_ratios(seconds[name], seconds[OURS]))

    rows = [
        (name, f"{options.rows / statistics.median(each):.0f}", f"{ratio(name):.2f}x") for name, each in seconds.items()
    ]
    targets = [
        Target(f"{OURS}: rows/s relative to {name}", ratio(name), bound, at_least=True)
        for name, bound in PROMISED.items()
    ]
    conditions = (
        f"{options.model}, float32, {options.threads} threads, medians of {options.rounds} rounds in which all take "
        f"turns, each with {options.rows:,} rows of its own. `embed` opens the bundle, reads and writes Parquet, and "
        "encodes a sample again; the others have texts and vectors in memory, and were loaded before."
    )
    sections = (f"# Bulk embedding: {options.model}", conditions, table(("", "rows/s", "embed relative to it"), rows))
    publish(f"embed-{options.model}", options.results, {"seconds": seconds, "rows": options.rows}, sections, targets)


def _ratios(seconds: Sequence[float], ours: Sequence[float]) -> list[float]:
    return [other / own for other, own in zip(seconds, ours, strict=True)]


if __name__ == "__main__":
    main()
