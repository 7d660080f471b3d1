"""A gate with a golden file: its time and memory in an environment without torch, and those of the gate with torch.

    python -m benchmarks.golden

``korsbert validate --golden`` runs in an environment that has korsbert with the extra ``cpu`` and nothing else. Beside
it, ``korsbert validate`` with the checkpoint runs here.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import sysconfig
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.corpora import DEMO_NAME, MINILM, bundle_of, checkpoint_of
from benchmarks.processes import Run, run_to_success
from benchmarks.results import ROOT, Target, arguments, publish, table, work_folder

MIB = 2**20
WITHOUT_TORCH, WITH_TORCH = "golden file, without torch", "checkpoint, with torch"
SCRIPTS = Path(sysconfig.get_path("scripts"))


def main() -> None:
    """Measure both models, and write ``golden``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with work_folder(options.work) as work:
        scripts = _environment_without_torch(work / "venv")
        runs = [_measure(model, scripts, work, options.rounds) for model in (DEMO_NAME, MINILM)]
    _report(options, runs)


def _environment_without_torch(folder: Path) -> Path:
    """Return the scripts of an environment with the base and ``[cpu]`` of korsbert, made unless it is there."""
    if not (folder / "bin" / "korsbert").is_file():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install: list[str | Path] = [
            folder / "bin" / "pip",
            "install",
            "-q",
            "-c",
            ROOT / "constraints.txt",
            f"{ROOT}[cpu]",
        ]
        subprocess.run(install, check=True, env=_clean_environment())
    return folder / "bin"


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def _measure(model: str, scripts: Path, work: Path, rounds: int) -> dict[str, Any]:
    checkpoint, golden = checkpoint_of(model, work), work / f"{model}.golden"
    bundle = bundle_of(checkpoint, work / model)
    run_to_success([str(SCRIPTS / "korsbert"), "golden", str(checkpoint), "--out", str(golden)])
    subjects = {
        WITHOUT_TORCH: [str(scripts / "korsbert"), "validate", str(bundle), "--golden", str(golden)],
        WITH_TORCH: [str(SCRIPTS / "korsbert"), "validate", str(bundle), "--checkpoint", str(checkpoint)],
    }
    taken: dict[str, list[Run]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, command in subjects.items():
            environment = _clean_environment() if name == WITHOUT_TORCH else None
            taken[name].append(run_to_success(command, env=environment))
            print(f"{model}, {name}: {taken[name][-1].wall_s:.1f} s", flush=True)
    return {
        "model": model,
        "golden_bytes": golden.stat().st_size,
        "seconds": {name: [round(one.wall_s, 2) for one in each] for name, each in taken.items()},
        "peak_bytes": {name: max(one.peak_bytes for one in each) for name, each in taken.items()},
    }


def _report(options: Namespace, runs: list[dict[str, Any]]) -> None:
    rows = [
        (
            one["model"],
            name,
            f"{statistics.median(seconds):.1f}",
            f"{one['peak_bytes'][name] / MIB:.0f}",
            f"{one['golden_bytes'] / 1e6:.1f}" if name == WITHOUT_TORCH else "",
        )
        for one in runs
        for name, seconds in one["seconds"].items()
    ]
    targets = []
    for one in runs:
        seconds, peak = statistics.median(one["seconds"][WITHOUT_TORCH]), one["peak_bytes"][WITHOUT_TORCH] / MIB
        targets.append(Target(f"{one['model']} with a golden file: seconds", seconds, 10))
        targets.append(Target(f"{one['model']} with a golden file: MiB", peak, 500))
    conditions = (
        f"`korsbert validate` of a float32 bundle on ONNX Runtime; medians of {options.rounds} rounds in which both "
        "take turns, largest peak memory (`ru_maxrss`). With the checkpoint, weights, graph and sweeps are compared "
        "too."
    )
    header = ("model", "compared with", "seconds", "peak MiB", "golden file, MB")
    publish("golden", options.results, {"runs": runs}, ("# Golden files", conditions, table(header, rows)), targets)


if __name__ == "__main__":
    main()
