"""Every architecture in a published size: gate, time, memory and file size by precision and engine.

    python -m benchmarks.architectures

Each model has a process of its own (``architecture_exports``), which exports it to all targets over all probes and
checks. What a gate refuses is a row too, with the first reason. Weights are seeded, and then a row says nothing about a
published model's accuracy in a precision; two models have their real weights. A run with ``--model`` or ``--target``
replaces those rows of the table and keeps the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import (
    Target,
    arguments,
    full_checkpoint,
    publish,
    real_checkpoint,
    revision,
    table,
    twin,
    work_folder,
)
from exporter.machine import machine

# By name: what `tests.support.full_checkpoints` and `tests.support.real_weights` build. Those modules import torch,
# whose memory would hide an export's.
SEEDED = (
    "xlm-roberta-large",
    "modernbert",
    "qwen3",
    "gemma3",
    "deberta-v3",
    "nomic-bert",
    "gte",
    "jina-v3",
    "eurobert",
    "camembert",
    "roformer",
    "t5",
    "xlm-roberta-large-long",
)
REAL = ("multilingual-e5-small", "all-mpnet-base-v2")
TWINS = ("albert-small", "ko-sbert-sts", "klue-sroberta", "moco-distilbert")
NAMES = (*REAL, *TWINS, *SEEDED)
LONG = "xlm-roberta-large-long"  # 8,192 tokens
EXPORTS = (
    ("fp32", "onnxruntime"),
    ("fp16", "onnxruntime"),
    ("int8", "onnxruntime"),
    ("int8_dynamic", "onnxruntime"),
    ("fp32", "openvino"),
    ("bf16", "openvino"),
    ("int8", "openvino"),
)
TARGETS = tuple(f"{precision}-{backend}" for precision, backend in EXPORTS)
GIB = 1024**3
HEADER = (
    "architecture",
    "weights",
    "parameters",
    "target",
    "verdict",
    "minutes",
    "load",
    "peak GiB",
    "file MB",
    "worst cosine, or reason",
    "revision",
)


def main() -> None:
    """Export everything, print each row as it comes, and write ``architectures`` after each."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--model", action="append", choices=NAMES, help="by default all; repeatable")
    parser.add_argument("--target", action="append", choices=TARGETS, help="by default all; repeatable")
    options = parser.parse_args()
    file = options.results / "architectures.json"
    before = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else []
    runs: list[dict[str, Any]] = [one for one in before if one["model"] in NAMES]
    targets = [target for target in TARGETS if options.target is None or target in options.target]
    for name in options.model or NAMES:
        with work_folder(options.work) as work:
            for done in _exports(name, _checkpoint(name, options.size, work), targets):
                print(_row(done), flush=True)
                runs = sorted([*(one for one in runs if _key(one) != _key(done)), done], key=_key)
                _publish(runs, options.results)


def _checkpoint(name: str, size: str, work: Path) -> Path:
    if name in TWINS:
        return twin(name, size, work)
    return real_checkpoint(name, work) if name in REAL else full_checkpoint(name, work, small=size == "small")


def _exports(name: str, checkpoint: Path, targets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Export a checkpoint to some targets in one process, and yield what each took, and why if it was refused."""
    model = {
        "model": name,
        "weights": "real" if name in REAL else "seeded",
        "parameters": _parameters(checkpoint),
        "revision": revision(),
        "processor": machine()["processor"],
        "process": "shared",
    }
    with tempfile.TemporaryDirectory(prefix="bundles-", dir=checkpoint.parent) as out, tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "benchmarks.architecture_exports", str(checkpoint), out, *targets]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                told = json.loads(line)
                precision, backend = told.pop("target").split("-", 1)
                if "reason" in told:
                    told["reason"] = told["reason"].replace(str(checkpoint), name)
                stages = told["stages"]
                yield {
                    **model,
                    **told,
                    "precision": precision,
                    "backend": backend,
                    "wall_s": round(sum(stage["seconds"] for stage in stages), 1),
                    "peak_bytes": max((stage["peak_bytes"] for stage in stages), default=0),
                }
        if process.returncode:
            log.seek(0)
            sys.exit(f"{name}: {log.read().decode()[-2000:]}\nexit code {process.returncode}")


def _parameters(checkpoint: Path) -> int:
    """Return how many numbers the weight files hold, by their size: all are float32."""
    files = [*checkpoint.rglob("*.safetensors"), *checkpoint.rglob("pytorch_model.bin")]
    return sum(path.stat().st_size for path in files) // 4


def _key(found: dict[str, Any]) -> tuple[int, int]:
    return NAMES.index(found["model"]), TARGETS.index(f"{found['precision']}-{found['backend']}")


def _publish(runs: Sequence[dict[str, Any]], folder: Path) -> None:
    measured = dict.fromkeys(one["processor"] for one in runs)
    conditions = (
        "Published sizes (`tests/support/full_checkpoints.py`), with the demo's tokenizer and 512 tokens at most, "
        f"`{LONG}` 8,192; the models with the name of a recipe are its twins. "
        "Real weights are those of `tests/support/real_weights`; "
        "multilingual-e5-small's are rounded to 4 bits. One process exports a model to all targets; the minutes and "
        "the peak resident memory of a row are those of the stages that an export to its target alone has, so shared "
        "ones count in each row. Rows with a `*` are of a process for each target: the whole command's wall time and "
        "`ru_maxrss`. The load is the machine's average of the minutes before the first stage of the target's own and "
        "before its end, the file is the largest of the bundle. Memory of XLM-R is compared with what is promised: 2.5 "
        "times the float32 weights and 1.5 GiB. Refused exports are not compared. "
        f"Processor: {', '.join(measured)}."
    )
    if missing := list(_missing(runs)):
        conditions += f" Not measured: {'; '.join(missing)}."
    sections = ("# Architectures in published sizes", conditions, table(HEADER, [_row(one) for one in runs]))
    publish("architectures", folder, {"runs": runs}, sections, [target for one in runs for target in _targets(one)])


def _missing(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield each model that lacks a row, and of which targets unless it is of all."""
    found = {_key(one) for one in runs}
    for number, name in enumerate(NAMES):
        lacking = [target for place, target in enumerate(TARGETS) if (number, place) not in found]
        if lacking:
            yield name if len(lacking) == len(TARGETS) else f"{name} as {', '.join(lacking)}"


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    passed = found["exit_code"] == 0
    return (
        found["model"],
        found["weights"],
        f"{found['parameters'] / 1e6:.0f} M",
        f"{found['precision']} {found['backend']}",
        "passed" if passed else f"refused ({found['exit_code']})",
        f"{found['wall_s'] / 60:.1f}" + ("" if found.get("process") == "shared" else "*"),
        " and ".join(map(str, found["load"])),
        f"{found['peak_bytes'] / GIB:.2f}",
        f"{found['file_bytes'] / 1e6:.0f}" if passed else "",
        f"1 - {1 - found['min_cosine']:.1e}" if passed else found["reason"][:160],
        found["revision"],
    )


def _targets(found: dict[str, Any]) -> list[Target]:
    if found["exit_code"]:
        return []
    name = f"{found['model']} {found['precision']} on {found['backend']}"
    if found["model"] == LONG:
        return [Target(f"{name}: minutes", found["wall_s"] / 60, 30)]
    if found["model"] != "xlm-roberta-large":
        return []
    allowed = 2.5 * 4 * found["parameters"] / GIB + 1.5
    return [Target(f"{name}: peak memory, GiB", found["peak_bytes"] / GIB, allowed)]


if __name__ == "__main__":
    main()
