"""Time, memory and size of exports, each in a process of its own, and the start-up time of the command line.

    python -m benchmarks.export

``benchmarks/processes.py`` measures a process.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import run_to_success
from benchmarks.results import Target, arguments, publish, table, twin, twin_recipe, work_folder
from tests.support.twins import MEASURED

MODELS = ("demo", *MEASURED)
PRECISIONS = ("fp32", "fp16")
GIB = 1024**3
# The promises: seconds from start to end, by model.
WALL_S = {"demo": 20.0, "albert-small": 90.0}
ALBERT_FILE_RATIO = 1.02
BYTES = {"fp32": 4, "fp16": 2}
# Prints the number of parameters that a sentence vector depends on: the pooler, which some checkpoints carry, is none.
COUNT = """
import sys
from pathlib import Path
from exporter.checkpoint import load_checkpoint
from exporter.recipe import load_recipe
checkpoint = load_checkpoint(load_recipe(Path(sys.argv[1])), folder=Path(sys.argv[2]))
print(sum(p.numel() for name, p in checkpoint.model.named_parameters() if ".pooler." not in name))
"""
IMPORT = """
import sys, time
started = time.perf_counter()
import exporter
elapsed = time.perf_counter() - started
if "torch" in sys.modules:
    sys.exit("import exporter brought in torch")
print(elapsed)
"""
SCRIPTS = Path(sysconfig.get_path("scripts"))


def main() -> None:
    """Export every model in both precisions, then time the start-up, and write ``export`` to the results."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--model", action="append", choices=MODELS, help="by default all; repeatable")
    parser.add_argument("--repeats", type=int, default=10, help="of the start-up times")
    options = parser.parse_args()
    startup = _startup(options.repeats)
    runs = []
    for name in options.model or MODELS:
        with work_folder(options.work) as work:
            folder = twin(name, options.size, work)
            recipe = twin_recipe(name, options.size, work)
            parameters = int(_output([sys.executable, "-c", COUNT, str(recipe), str(folder)]))
            runs += [_export(name, precision, recipe, folder, parameters) for precision in PRECISIONS]
    full = options.size == "full"
    targets = [target for run in runs if full or run["model"] == "demo" for target in _targets(run)]
    targets += [
        Target("`korsbert --help`, seconds", startup["help_s"], 0.5),
        Target("`import exporter`, seconds (and no torch)", startup["import_s"], 0.2),
    ]
    conditions = (
        "Each export is `korsbert-export` in a new process. Seconds are wall time from start to exit; peak memory is "
        "the kernel's high-water mark of the resident set (`ru_maxrss`); the file is compared with the bytes of the "
        "unique parameters in the precision exported, pooler left out; cosines are those of the gate, over the probes. "
        f"Start-up times are medians of {options.repeats}: the command in a new process, and the import alone."
    )
    heading = "# Exports" + ("" if full else " (of small twins)")
    sections = (
        heading,
        conditions,
        table(HEADER, [_row(run) for run in runs]),
        "## Seconds by stage",
        _stage_table(runs),
        "## Promises",
    )
    file = "-".join(["export", *(options.model or ())])
    publish(file, options.results, {"size": options.size, "startup": startup, "runs": runs}, sections, targets)


def _export(name: str, precision: str, recipe: Path, folder: Path, parameters: int) -> dict[str, Any]:
    """Run one export and return what it took."""
    source = ["--model", "demo"] if name == "demo" else ["--recipe", str(recipe), "--checkpoint", str(folder)]
    flags = [] if precision == "fp32" else [f"--{precision}"]
    out = Path(tempfile.mkdtemp(prefix="bundles-", dir=recipe.parent))
    try:
        command = [str(SCRIPTS / "korsbert-export"), *source, *flags, "--out", str(out), "--json"]
        done = run_to_success(command)
    finally:
        shutil.rmtree(out)
    told = json.loads(done.output)
    manifest, parity = told["manifest"], told["parity"]
    weights, file_bytes = parameters * BYTES[precision], manifest["files"][manifest["engine"]["files"][0]]["size"]
    return {
        "model": name,
        "precision": precision,
        "wall_s": round(done.wall_s, 2),
        "stages": told["stages"],
        "peak_bytes": done.peak_bytes,
        "fp32_weight_bytes": parameters * 4,
        "file_bytes": file_bytes,
        "file_ratio": round(file_bytes / weights, 5),
        "nodes": sum(manifest["graph"]["nodes"].values()),
        "gate": parity["statistics"],
        "verdicts": parity["verdicts"],
        "decisions": manifest["decisions"],
    }


def _targets(run: dict[str, Any]) -> list[Target]:
    name, precision = run["model"], run["precision"]
    label = f"{name} {precision}"
    allowed_gib = (4 * run["fp32_weight_bytes"] + GIB) / GIB
    targets = [Target(f"{label}: peak memory, GiB (4x FP32 weights + 1)", run["peak_bytes"] / GIB, allowed_gib)]
    if name in WALL_S:
        targets.insert(0, Target(f"{label}: seconds from start to end", run["wall_s"], WALL_S[name]))
    if name in ("demo", "albert-small") and precision == "fp32":
        targets.append(Target(f"{label}: file / unique parameter bytes", run["file_ratio"], ALBERT_FILE_RATIO))
    return targets


def _startup(repeats: int) -> dict[str, float]:
    """Return the median seconds of ``korsbert --help`` and of ``import exporter``."""
    help_s, import_s = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        _output([str(SCRIPTS / "korsbert"), "--help"])
        help_s.append(time.perf_counter() - started)
        import_s.append(float(_output([sys.executable, "-c", IMPORT])))
    return {"help_s": round(statistics.median(help_s), 4), "import_s": round(statistics.median(import_s), 4)}


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


HEADER = (
    "model",
    "precision",
    "seconds",
    "peak MiB",
    "FP32 weights MB",
    "file MB",
    "file / parameters",
    "nodes",
    "1 - min cosine",
    "neighbors",
    "drift",
)


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    gate = run["gate"]
    return (
        run["model"],
        run["precision"],
        f"{run['wall_s']:.1f}",
        f"{run['peak_bytes'] / 2**20:.0f}",
        f"{run['fp32_weight_bytes'] / 1e6:.1f}",
        f"{run['file_bytes'] / 1e6:.1f}",
        f"{run['file_ratio']:.4f}",
        str(run["nodes"]),
        f"{1 - gate['min_cosine']:.1e}",
        f"{gate['neighbor_identity']:.2%}",
        f"{gate['max_similarity_drift']:.1e}",
    )


def _stage_table(runs: list[dict[str, Any]]) -> str:
    """Return seconds by stage, one row per export."""
    columns = dict.fromkeys(
        ["start and exit", *(_stage(stage["name"]) for run in runs[::-1] for stage in run["stages"])]
    )
    rows = []
    for run in runs:
        seconds = {_stage(stage["name"]): stage["seconds"] for stage in run["stages"]}
        seconds["start and exit"] = run["wall_s"] - math.fsum(seconds.values())
        cells = (f"{seconds[column]:.1f}" if column in seconds else "" for column in columns)
        rows.append((run["model"], run["precision"], *cells))
    return table(("model", "precision", *columns), rows)


def _stage(name: str) -> str:
    """Return a stage's name without the precision and the backend."""
    for beginning, short in (
        ("type as", "type"),
        ("build for", "build"),
        ("gate: the", "gate: as folded"),
        ("sweep: the", "sweep: as folded"),
        ("sweep:", "sweep"),
        ("gate:", "gate"),
    ):
        if name.startswith(beginning):
            return short
    return name


if __name__ == "__main__":
    main()
