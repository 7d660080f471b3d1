"""How much longer an export takes than with another revision of korsbert, in one run.

    git worktree add ../before REVISION
    python -m benchmarks.export_cost --before ../before

Every export is a process of its own. The two revisions take turns, in reverse order every second round, and the ratio
is the median over the rounds of the ratio within a round: what the machine did meanwhile, it did to both. Beside the
wall time stands the time of all cores: where another program was busy, the first ratio moves, the second hardly does.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import run_to_success
from benchmarks.results import ROOT, Target, arguments, publish, revision, table, twin, twin_recipe, work_folder
from tests.support.twins import MEASURED

MODELS = MEASURED
LIMIT = 1.5
COMMAND = "from exporter.cli import export_main; export_main()"  # every revision has it


def main() -> None:
    """Export every model by both revisions in turns, and write ``export_cost`` to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", required=True, help="checkout of the other revision")
    parser.add_argument("--model", action="append", choices=MODELS, help="by default all; repeatable")
    parser.add_argument(
        "--precision", action="append", choices=("fp32", "fp16", "int8"), help="by default fp32 and fp16; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=1, help="exports of each kind by each revision")
    options = parser.parse_args()
    checkouts = {"before": options.before.resolve(), "after": ROOT}
    runs = []
    for name in options.model or MODELS:
        with work_folder(options.work) as work:
            folder, recipe = twin(name, options.size, work), twin_recipe(name, options.size, work)
            for precision in options.precision or ("fp32", "fp16"):
                runs.append(_compare(name, precision, recipe, folder, checkouts, options.rounds))
                print(f"{name} {precision}: {runs[-1]['ratio']:.2f}", file=sys.stderr)
    conditions = (
        f"Wall time of `korsbert-export` in a new process, from start to exit, {options.rounds} rounds, both revisions "
        f"in turns. Before: {revision(checkouts['before'])}. After: {revision()}."
    )
    header = ("model", "precision", "seconds before", "seconds after", "ratio", "ratio of the cores' time")
    rows = [
        (
            run["model"],
            run["precision"],
            f"{run['before_s']:.1f}",
            f"{run['after_s']:.1f}",
            f"{run['ratio']:.2f}",
            f"{run['cores_ratio']:.2f}",
        )
        for run in runs
    ]
    targets = [
        Target(f"{run['model']} {run['precision']}: times the cores' time before", run["cores_ratio"], LIMIT)
        for run in runs
    ]
    sections = ("# What the proof costs", conditions, table(header, rows), "## Seconds by stage, after", _stages(runs))
    publish("export_cost", options.results, {"size": options.size, "runs": runs}, sections, targets)


def _compare(
    name: str, precision: str, recipe: Path, folder: Path, checkouts: dict[str, Path], rounds: int
) -> dict[str, Any]:
    """Export by both revisions in turns; return medians, their ratio, and the stages of the last export after."""
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    cores: dict[str, list[float]] = {"before": [], "after": []}
    stages: list[dict[str, Any]] = []
    for number in range(rounds):
        for side in list(checkouts)[:: -1 if number % 2 else 1]:
            wall_s, cpu_s, told = _export(precision, recipe, folder, checkouts[side])
            seconds[side].append(wall_s)
            cores[side].append(cpu_s)
            if side == "after":  # names and seconds: a result may hold the path of a temporary bundle
                stages = [{"name": stage["name"], "seconds": stage["seconds"]} for stage in told["stages"]]
    ratios = [after / before for before, after in zip(seconds["before"], seconds["after"], strict=True)]
    return {
        "model": name,
        "precision": precision,
        "before_s": statistics.median(seconds["before"]),
        "after_s": statistics.median(seconds["after"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cores_ratio": statistics.median(
            after / before for before, after in zip(cores["before"], cores["after"], strict=True)
        ),
        "stages": stages,
    }


def _export(precision: str, recipe: Path, folder: Path, checkout: Path) -> tuple[float, float, dict[str, Any]]:
    """Run one export by the code of a checkout; return seconds by the clock and of all cores, and its JSON."""
    out = Path(tempfile.mkdtemp(prefix="bundles-", dir=recipe.parent))
    flags = [] if precision == "fp32" else [f"--{precision}"]
    command = [sys.executable, "-c", COMMAND, "--recipe", str(recipe), "--checkpoint", str(folder), *flags]
    try:
        done = run_to_success(
            [*command, "--out", str(out), "--json"], cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}
        )
        return done.wall_s, done.cpu_s, json.loads(done.output)
    finally:
        shutil.rmtree(out)


def _stages(runs: list[dict[str, Any]]) -> str:
    """Return seconds by stage, one row per export."""
    columns = dict.fromkeys(stage["name"] for run in runs for stage in run["stages"])
    rows = []
    for run in runs:
        seconds = {stage["name"]: f"{stage['seconds']:.1f}" for stage in run["stages"]}
        rows.append((run["model"], run["precision"], *(seconds.get(column, "") for column in columns)))
    return table(("model", "precision", *columns), rows)


if __name__ == "__main__":
    main()
