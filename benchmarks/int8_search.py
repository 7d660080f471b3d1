"""How much longer calibration and search of INT8 take than with another revision, step by step, in one run.

    git worktree add ../before REVISION
    python -m benchmarks.int8_search --before ../before

The folded graph is planned (``make_plan``, as an export does) with the sentences that ship, in a process of its own.
The two revisions take turns, in reverse order every second round. Seconds are those of all cores: where another program
is busy, they move less than the wall time. Whether scales, integers, biases, losses and choices of both are equal is in
the table, and what the chosen assignment loses on the held-out sentences.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, Target, arguments, publish, revision, table, twin, twin_recipe, work_folder
from exporter.checkpoint import load_checkpoint
from exporter.graph.folding import fold
from exporter.recipe import load_recipe

MODELS = ("demo", "albert-small", "ko-sbert-sts")
PLAN = """
import hashlib, json, re, sys, time
from pathlib import Path
import onnx_ir as ir
from tokenizers import Tokenizer
from exporter.calibration import calibration_set
from exporter.graph import Graph
from exporter.precisions.int8.plan import Request, make_plan
from exporter.precisions.int8.scheme import scheme_of
from exporter.recipe import Gates

STEPS = {
    "float32": "float32 graph",
    "calibration: outliers": "smoothing",
    "search: ": "assignments",
    "calibration: ": "methods",
}

def step_of(told):
    if told.endswith("tokens"):
        return "observation"
    if "alone (" in told:
        return "sensitivities"
    return next(step for beginning, step in STEPS.items() if told.startswith(beginning))

def digest(plan):
    said = hashlib.sha256()
    quantization = plan.calibrated.quantization
    for name, how in sorted(quantization.activations.items()):
        said.update(repr((name, how.scale, how.zero_point)).encode())
        said.update(b"" if how.smooth is None else how.smooth.tobytes())
    for name, weight in sorted(quantization.weights.items()):
        said.update(name.encode() + weight.values.tobytes() + weight.scales.tobytes())
    for name, bias in sorted(quantization.biases.items()):
        said.update(name.encode() + bias.tobytes())
    found = plan.found
    assignments = [(sorted(one.excluded), one.loss) for one in (*found.candidates, *found.frontier)]
    said.update(repr((plan.calibrated.trials, sorted(found.sensitivities.items()), assignments)).encode())
    return said.hexdigest()

path, tokenizer, dimension, longest = sys.argv[1:5]
text = calibration_set(None, (), Tokenizer.from_file(tokenizer), "")
graph = Graph(ir.load(path), int(dimension), int(longest))
seconds, last, started = {}, ("float32 graph", time.process_time()), time.perf_counter()

def progress(told):
    global last
    now = time.process_time()
    seconds[last[0]] = seconds.get(last[0], 0.0) + now - last[1]
    last = step_of(told), now

plan = make_plan(graph, Request(scheme_of("int8", "onnxruntime", "cpu"), text, Gates().int8), progress)
progress("float32")
wall_s = time.perf_counter() - started
# Not getrusage: its maximum outlives exec, and would be the parent's.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20
lost = 1 - plan.found.candidates[0].loss.min_cosine
calibrated_by = plan.calibrated.trial.name
facts = {"matmuls": len(plan.matmuls), "sha256": digest(plan), "lost": lost, "calibrated_by": calibrated_by}
told = {"steps": seconds, "wall_s": wall_s, "peak": peak, **facts}
print(json.dumps(told))
"""


def main() -> None:
    """Plan every model by both revisions in turns, and write ``int8_search`` to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", required=True, help="checkout of the other revision")
    parser.add_argument("--model", action="append", choices=MODELS, help="by default all; repeatable")
    parser.add_argument("--rounds", type=int, default=3, help="plans of each model by each revision")
    options = parser.parse_args()
    checkouts = {"before": options.before.resolve(), "after": ROOT}
    found: list[dict[str, Any]] = []
    with work_folder(options.work) as work:
        for name in options.model or MODELS:
            checkpoint = load_checkpoint(
                load_recipe(twin_recipe(name, options.size, work)), folder=twin(name, options.size, work)
            )
            graph = fold(checkpoint)
            graph.save(work / "graph.onnx")
            checkpoint.tokenizer.save(str(work / "tokenizer.json"))
            facts = (str(graph.dimension), str(graph.max_sequence))
            found.append({"model": name, **_compare(work, facts, checkouts, options.rounds)})
            print(found[-1], file=sys.stderr)
    conditions = (
        f"Seconds of all cores, medians of {options.rounds} rounds, both revisions in turns; before / after. Wall time "
        "is that of planning, GiB those of the whole process. Load of the machine in the last 15 minutes: "
        f"{os.getloadavg()[2]:.1f}, other programs included. "
        f"Before: {revision(checkouts['before'])}. After: {revision()}."
    )
    columns = tuple(found[0]["before"]["steps"])
    header = ("", "MatMuls", *columns, "together", "wall", "peak GiB", "calibrated by", "1 - min cosine", "same plan")
    targets = [
        Target(f"{one['model']}: seconds of all cores, as a share of those before", _together(one), 0.5)
        for one in found
    ]
    text = ("# Calibration and search of INT8", conditions, table(header, [_row(one, columns) for one in found]))
    publish("int8_search", options.results, {"size": options.size, "runs": found}, text, targets)


def _compare(work: Path, facts: tuple[str, str], checkouts: dict[str, Path], rounds: int) -> dict[str, Any]:
    """Plan by both revisions in turns; return the medians of each, and whether all plans are equal."""
    command = [sys.executable, "-c", PLAN, str(work / "graph.onnx"), str(work / "tokenizer.json"), *facts]
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in checkouts}
    for number in range(rounds):
        for side in list(checkouts)[:: -1 if number % 2 else 1]:
            folder = checkouts[side]
            done = subprocess.run(
                command, cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, stdout=subprocess.PIPE, check=True
            )
            runs[side].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "matmuls": runs["after"][0]["matmuls"],
        "same": len({one["sha256"] for side in runs.values() for one in side}) == 1,
        **{
            side: {**_medians(several), **{name: several[0][name] for name in ("lost", "calibrated_by")}}
            for side, several in runs.items()
        },
    }


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    steps = {name: statistics.median(one["steps"][name] for one in runs) for name in runs[0]["steps"]}
    return {"steps": steps, **{name: statistics.median(one[name] for one in runs) for name in ("wall_s", "peak")}}


def _together(one: dict[str, Any]) -> float:
    before, after = (sum(one[side]["steps"].values()) for side in ("before", "after"))
    return round(float(after / before), 3)


def _row(one: dict[str, Any], columns: tuple[str, ...]) -> tuple[str, ...]:
    before, after = one["before"], one["after"]
    together = (sum(before["steps"].values()), sum(after["steps"].values()))
    return (
        one["model"],
        str(one["matmuls"]),
        *(f"{before['steps'][name]:.1f} / {after['steps'][name]:.1f}" for name in columns),
        "{:.1f} / {:.1f}".format(*together),
        f"{before['wall_s']:.0f} / {after['wall_s']:.0f}",
        f"{before['peak']:.2f} / {after['peak']:.2f}",
        f"{before['calibrated_by']} / {after['calibrated_by']}",
        f"{before['lost']:.2e} / {after['lost']:.2e}",
        "yes" if one["same"] else "no",
    )


if __name__ == "__main__":
    main()
