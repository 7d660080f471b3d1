"""Every architecture in a published size: gate, time, memory and file size by precision and engine.

    python -m benchmarks.architectures

Each export is ``korsbert-export`` in a process of its own, over all probes and checks. What a gate refuses is a row
too, with the first reason. Weights are seeded: a row says nothing about a published model's accuracy in a precision.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, Target, arguments, publish, table, work_folder

# By name: what `tests.support.full_checkpoints` builds. That module imports torch, whose memory would hide an export's.
NAMES = ("camembert", "roformer", "t5", "modernbert", "eurobert", "gemma3", "xlm-roberta-large", "qwen3")
EXPORTS = (
    ("fp32", "onnxruntime"),
    ("fp16", "onnxruntime"),
    ("int8", "onnxruntime"),
    ("bf16", "openvino"),
    ("int8", "openvino"),
)
GIB = 1024**3
KORSBERT = Path(sysconfig.get_path("scripts")) / "korsbert-export"
HEADER = (
    "architecture",
    "parameters",
    "target",
    "verdict",
    "minutes",
    "peak GiB",
    "file MB",
    "worst cosine, or reason",
)


def main() -> None:
    """Export everything, print each row as it comes, and write ``architectures``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--model", action="append", choices=NAMES, help="by default all; repeatable")
    parser.add_argument("--target", action="append", metavar="PRECISION-BACKEND", help="by default all; repeatable")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with work_folder(options.work) as work:
        for name in options.model or NAMES:
            folder = work / f"full-{name}"
            if not folder.is_dir():
                command = [sys.executable, "-m", "tests.support.full_checkpoints", name, str(folder)]
                subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for precision, backend in EXPORTS:
                if options.target is None or f"{precision}-{backend}" in options.target:
                    runs.append(_export(name, precision, backend, folder / "checkpoint"))
                    print(_row(runs[-1]), flush=True)
            if options.work is None:
                shutil.rmtree(folder)
    conditions = (
        "Published sizes (`tests/support/full_checkpoints.py`), seeded weights, the demo's tokenizer, 512 tokens at "
        "most. Minutes are wall time of the whole command, peak memory is `ru_maxrss` of its process, the file is the "
        "largest of the bundle. Memory of XLM-R is compared with what is promised: 2.5 times the float32 weights and "
        "1.5 GiB."
    )
    sections = ("# Architectures in published sizes", conditions, table(HEADER, [_row(run) for run in runs]))
    publish("architectures", options.results, {"runs": runs}, sections, [_target(run) for run in runs if _large(run)])


def _export(name: str, precision: str, backend: str, checkpoint: Path) -> dict[str, Any]:
    """Run one export and return what it took, and why it was refused if it was."""
    out = Path(tempfile.mkdtemp(prefix="bundles-", dir=checkpoint.parent))
    flag = {"int8": ["--int8"], "bf16": ["--bf16"], "fp16": ["--fp16"]}.get(precision, [])
    command = [str(KORSBERT), "--model", str(checkpoint), *flag, "--backend", backend, "--out", str(out), "--json"]
    try:
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            started = time.perf_counter()
            process = subprocess.Popen(command, stdout=output, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            for stream in (output, errors):
                stream.seek(0)
            told, said = output.read(), errors.read().decode()
        bundle = sorted(path.stat().st_size for path in out.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(out)
    run = {
        "model": name,
        "parameters": _parameters(checkpoint),
        "precision": precision,
        "backend": backend,
        "exit_code": process.returncode,
        "wall_s": round(wall_s, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "file_bytes": bundle[-1] if bundle else 0,
    }
    if process.returncode:
        reason = next((line for line in said.splitlines() if line.startswith("error: ")), said[-300:])
        return run | {"reason": reason.removeprefix("error: ")}
    return run | {"min_cosine": json.loads(told)["parity"]["statistics"]["min_cosine"]}


def _parameters(checkpoint: Path) -> int:
    """Return how many numbers the weight files hold, by their size: all are float32."""
    return sum(path.stat().st_size for path in checkpoint.rglob("*.safetensors")) // 4


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    passed = run["exit_code"] == 0
    return (
        run["model"],
        f"{run['parameters'] / 1e6:.0f} M",
        f"{run['precision']} {run['backend']}",
        "passed" if passed else f"refused ({run['exit_code']})",
        f"{run['wall_s'] / 60:.1f}",
        f"{run['peak_bytes'] / GIB:.2f}",
        f"{run['file_bytes'] / 1e6:.0f}" if passed else "",
        f"1 - {1 - run['min_cosine']:.1e}" if passed else run["reason"][:160],
    )


def _large(run: dict[str, Any]) -> bool:
    return bool(run["model"] == "xlm-roberta-large")


def _target(run: dict[str, Any]) -> Target:
    allowed = 2.5 * 4 * run["parameters"] / GIB + 1.5
    name = f"{run['model']} {run['precision']} on {run['backend']}: peak memory, GiB"
    return Target(name, run["peak_bytes"] / GIB, allowed)


if __name__ == "__main__":
    main()
