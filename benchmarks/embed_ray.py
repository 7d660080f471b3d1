"""Bulk embedding on Ray beside one process, on one machine, and what the way costs without an engine.

    python -m benchmarks.embed_ray

The demo and MiniLM encode with one thread: in one process, by one worker on Ray, and by two. All take turns in one run,
each in a process of its own that starts a cluster of its own. Then a stand-in that costs nothing takes the place of
tokenizer and engine: what is left is the plan, reading, the transport, writing and the commit.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.corpora import DEMO_NAME, MINILM, WITHOUT_ENGINE, bundle_of, checkpoint_of, short_texts
from benchmarks.processes import run_to_success
from benchmarks.results import Target, arguments, publish, table, work_folder

LOCAL, ONE, TWO = "one process", "Ray, 1 worker", "Ray, 2 workers"
STAND_IN = "a stand-in"
_EMBED = """
import json, sys, exporter
print(json.dumps(exporter.embed(*sys.argv[1:4], **json.loads(sys.argv[4])).to_dict()))
"""
_EMBED_WITHOUT_ENGINE = f"""
import json, logging, sys, ray
{WITHOUT_ENGINE}
if "ray" in sys.argv[4]:
    hooks = {{"worker_process_setup_hook": without_engine}}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env=hooks)
else:
    without_engine()
{_EMBED}
"""
SUBJECTS: dict[str, dict[str, Any]] = {
    LOCAL: {"threads": 1},
    ONE: {"threads": 1, "engine": "ray", "workers": 1},
    TWO: {"threads": 1, "engine": "ray", "workers": 2},
}


def main() -> None:
    """Measure, and write ``embed_ray``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rows-per-part", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with work_folder(options.work) as work:
        bundles = {model: bundle_of(checkpoint_of(model, work), work / model) for model in (DEMO_NAME, MINILM)}
        measures = {model: _measure(_EMBED, bundle, options.rows, options, work) for model, bundle in bundles.items()}
        stand_in = _measure(_EMBED_WITHOUT_ENGINE, bundles[DEMO_NAME], 10 * options.rows, options, work)
    _report(options, {**measures, STAND_IN: stand_in})


def _measure(program: str, bundle: Path, rows: int, options: Namespace, work: Path) -> dict[str, list[float]]:
    """Return the seconds of each round by subject, from the plan to the end."""
    source, out = short_texts(work, rows), work / "out"
    seconds: dict[str, list[float]] = {}
    for name, how in list(SUBJECTS.items()) * options.rounds:
        shutil.rmtree(out, ignore_errors=True)
        named = json.dumps({**how, "rows_per_part": options.rows_per_part, "truncate_dim": 64})
        done = run_to_success([sys.executable, "-c", program, *map(str, (bundle, source, out)), named])
        seconds.setdefault(name, []).append(json.loads(done.output)["seconds"])
        print(f"{rows:,} rows, {name}: {seconds[name][-1]:.1f} s", flush=True)
    return seconds


def _report(options: Namespace, measures: dict[str, dict[str, list[float]]]) -> None:
    rows = [
        (
            engine,
            name,
            f"{options.rows * (10 if engine == STAND_IN else 1) / statistics.median(each):.0f}",
            f"{_faster(seconds, name, LOCAL):.2f}x",
        )
        for engine, seconds in measures.items()
        for name, each in seconds.items()
    ]
    targets = []
    for model in (DEMO_NAME, MINILM):
        scale, share = (_faster(measures[model], *pair) for pair in ((TWO, ONE), (ONE, LOCAL)))
        targets.append(Target(f"{model}: two workers relative to one", scale, 1.8, at_least=True))
        targets.append(Target(f"{model}: one worker on Ray relative to one process", share, 0.9, at_least=True))
    conditions = (
        "Short texts, float32, 64 dimensions stored, one thread a worker, parts of "
        f"{options.rows_per_part:,} rows; medians of {options.rounds} rounds in which all take turns, {options.rows:,} "
        f"rows with an engine and {10 * options.rows:,} with the stand-in. Time is from the plan to the end: on Ray it "
        "includes that workers start and load the engine, and not that a cluster starts. With the stand-in, token ids "
        "are fixed and vectors are zeros. A worker reads and tokenizes in a thread beside the engine's: one worker has "
        "both cores for it, two have one each."
    )
    header = ("engine", "", "rows/s", "relative to one process")
    sections = ("# Bulk embedding on Ray", conditions, table(header, rows))
    publish("embed_ray", options.results, {"seconds": measures}, sections, targets)


def _faster(seconds: dict[str, list[float]], name: str, other: str) -> float:
    """Return how much faster one is than another: the median over the rounds."""
    return statistics.median(b / a for a, b in zip(seconds[name], seconds[other], strict=True))


if __name__ == "__main__":
    main()
