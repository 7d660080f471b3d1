"""What ``korsbert tune`` finds, and whether a separate ``korsbert bench`` of the same bundles finds it again.

    python -m benchmarks.tuning

``tune --keep`` publishes every engine that passes; then ``bench`` measures them anew, in a process of its own. The
winner is confirmed if none of them is faster than it by more than 1.1 times, which is what ``tune`` gives away for a
nearer engine.
"""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.corpora import DEMO_NAME, MINILM, checkpoint_of
from benchmarks.processes import run_to_success
from benchmarks.results import Target, arguments, publish, table, work_folder
from exporter.benchmark.bundles import WORTH_IT
from exporter.report.numbers import figure

KORSBERT = Path(sysconfig.get_path("scripts")) / "korsbert"
MODELS = (DEMO_NAME, MINILM, "klue-sroberta")
HEADER = (
    "model", "engine", "min cosine", "neighbors", "sentences/s", "p50 ms", "p99 ms", "peak MB", "MB", "in `bench`", ""
)  # fmt: skip


def main() -> None:
    """Tune each model, measure what it published again, and write ``tuning`` after each."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--model", action="append", help="by default the demo, MiniLM and the twin of klue-sroberta")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with work_folder(options.work) as work:
        for model in options.model or MODELS:
            runs.append(_measure(model, options, work))
            _report(options, runs)


def _measure(model: str, options: Namespace, work: Path) -> dict[str, Any]:
    checkpoint, out = checkpoint_of(model, work, options.size), work / f"tuned-{model}"
    shutil.rmtree(out, ignore_errors=True)
    load = os.getloadavg()[0]
    command = [str(KORSBERT), "tune", "--model", str(checkpoint), "--name", model, "--out", str(out)]
    options.results.mkdir(parents=True, exist_ok=True)
    page = options.results / f"tuning-{model}.html"
    done = run_to_success([*command, "--rounds", str(options.rounds), "--keep", "--json", "--report", str(page)])
    tuned = json.loads(done.output)
    winner = Path(tuned["bundle"])
    others = [word for folder in sorted(winner.parent.iterdir()) if folder != winner for word in ("--against", folder)]
    measured = run_to_success(
        [str(KORSBERT), "bench", str(winner), *map(str, others), "--rounds", str(options.rounds), "--json"]
    )
    shutil.rmtree(out)
    return {
        "model": model,
        "seconds": round(done.wall_s, 1),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "tuned": tuned,
        "bench": json.loads(measured.output),
    }


def _report(options: Namespace, runs: list[dict[str, Any]]) -> None:
    rows = [row for one in runs for row in _rows(one)]
    told = "\n".join(
        f"- {one['model']}: {one['tuned']['sentence']} ({one['seconds'] / 60:.1f} minutes, load {one['load'][0]} "
        f"before and {one['load'][1]} after)"
        for one in runs
    )
    conditions = (
        "`korsbert tune --keep`, then `korsbert bench` of all that it published. The winners are bold. Weights of "
        "klue-sroberta are seeded: its cosines say nothing about the published model. "
        f"{runs[0]['tuned']['conditions']}."
    )
    targets = [Target(f"{one['model']}: `bench` over the winner, times", _beaten_by(one), WORTH_IT) for one in runs]
    sections = ("# The best engine", conditions, table(HEADER, rows), told)
    publish("tuning", options.results, {"runs": runs}, sections, targets)


def _rows(one: dict[str, Any]) -> list[tuple[str, ...]]:
    again = {subject["name"].removeprefix(f"{one['model']} "): subject for subject in one["bench"]["subjects"]}
    rows = []
    for candidate in one["tuned"]["candidates"]:
        name, found = f"{candidate['precision']} on {candidate['backend']}", candidate["measured"]
        if found is None:
            rows.append((one["model"], name, *[""] * 8, f"{candidate['verdict']}: {candidate['reason'][:120]}"))
            continue
        speed = found["speed"]
        rows.append(
            (
                one["model"],
                f"**{name}**" if name == one["tuned"]["winner"] else name,
                figure(found["min_cosine"]),
                f"{found['mean_neighbor_overlap']:.3f}",
                f"{speed['sentences_per_s']:.0f}",
                f"{speed['p50_ms']:.2f}",
                f"{speed['p99_ms']:.2f}",
                f"{(found['peak_bytes'] or 0) / 1e6:.0f}",
                f"{found['size_bytes'] / 1e6:.1f}",
                f"{again[name]['sentences_per_s']:.0f}",
                ", ".join(f"best {goal}" for goal in candidate["best_at"]),
            )
        )
    return rows


def _beaten_by(one: dict[str, Any]) -> float:
    """Return how many times as fast as the winner the fastest engine is in ``bench``: 1 where it is the winner."""
    return max(float(subject["ratio"]) for subject in one["bench"]["subjects"])


if __name__ == "__main__":
    main()
