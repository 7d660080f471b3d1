"""Memory that calibration and search take, by how many sentences there are to calibrate with.

    python -m benchmarks.int8_memory --sts korsts-dev.tsv

The folded graph of a full-size twin is calibrated in a process of its own, which has imported everything and read the
graph's structure before its memory is taken for the first time. What is reported is its peak less that: weights,
sessions, activations, samples and all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import Target, arguments, publish, table, twin, twin_recipe, work_folder
from exporter.checkpoint import load_checkpoint
from exporter.folding import fold
from exporter.recipe import load_recipe
from exporter.validator.sts import read_sts

MODEL = "ko-sbert-sts"  # BERT-base
LIMIT_GIB = 2.0
SENTENCES = (256, 1024, 2560)
# Only calibrates: the search runs the same session over the same held-out sentences, of which there are 128 at most.
CALIBRATE = """
import json, re, sys
from pathlib import Path
import onnx_ir as ir
from tokenizers import Tokenizer
from exporter.calibration import calibration_set
from exporter.graph import Graph
from exporter.quantization.calibrate import calibrate
from exporter.quantization.emulator import Emulator
from exporter.quantization.judge import Judge, Ledger
from exporter.quantization.observer import observe
from exporter.quantization.scheme import scheme_of
from exporter.recipe import Gates

def gib(field):
    # Not getrusage: its maximum outlives exec, and would be the parent's.
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20

path, tokenizer, sentences, dimension, longest = sys.argv[1:6]
text = calibration_set(Path(sentences), (), Tokenizer.from_file(tokenizer), "")
graph = Graph(ir.load(path), int(dimension), int(longest))
before = gib("VmRSS")
scheme = scheme_of("int8", "openvino", "cpu")
emulator = Emulator(graph, scheme)
held_out = list(text.held_out)
judge = Judge(emulator, held_out, emulator.run(held_out), Ledger(None, ""))
seen = observe(emulator, text.fit)
observed = gib("VmHWM")
calibrate(emulator, scheme, seen, judge, Gates().of("int8"))
print(json.dumps({"texts": text.fit.count, "before": before, "observed": observed, "peak": gib("VmHWM")}))
"""


def main() -> None:
    """Calibrate with more and more sentences, each time in a new process, and write ``int8_memory``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--sts", type=Path, metavar="FILE", required=True, help="where sentences come from")
    options = parser.parse_args()
    pairs = read_sts(options.sts)
    different = list(dict.fromkeys(text for pair in zip(pairs.first, pairs.second, strict=True) for text in pair))
    with work_folder(options.work) as work:
        recipe = load_recipe(twin_recipe(MODEL, options.size, work))
        folder = twin(MODEL, options.size, work)
        checkpoint = load_checkpoint(recipe, folder=folder)
        graph = fold(checkpoint)
        weights_gib = graph.weight_bytes() / 2**30
        graph.save(work / "graph.onnx")
        checkpoint.tokenizer.save(str(work / "tokenizer.json"))
        facts = (str(graph.dimension), str(graph.max_sequence))
        found = []
        for count in (count for count in SENTENCES if count <= len(different)):
            (work / "sentences.txt").write_text("\n".join(different[:count]), encoding="utf-8")
            found.append(_measure(work, facts))
            print(found[-1], flush=True)
    rows = [
        (
            str(one["texts"]),
            f"{one['observed'] - one['before']:.2f}",
            f"{one['peak'] - one['before']:.2f}",
            f"{one['peak']:.2f}",
        )
        for one in found
    ]
    largest = max(one["peak"] - one["before"] for one in found)
    targets = [Target("calibration of a base-size model, GiB", largest, LIMIT_GIB)] if options.size == "full" else []
    conditions = (
        f"The float32 weights are {weights_gib:.2f} GiB of it. Sentences from {options.sts.name}, edge cases included; "
        "GiB above what the process held before the first session, and its whole resident set at the peak."
    )
    header = ("texts calibrated with", "peak while observing", "peak in all", "whole process")
    text = (f"# Memory of INT8 calibration ({MODEL}, {options.size} twin)", conditions, table(header, rows))
    publish("int8_memory", options.results, {"model": MODEL, "gib": found, "weights_gib": weights_gib}, text, targets)


def _measure(work: Path, facts: tuple[str, str]) -> dict[str, Any]:
    files = [str(work / name) for name in ("graph.onnx", "tokenizer.json", "sentences.txt")]
    done = subprocess.run(
        [sys.executable, "-c", CALIBRATE, *files, *facts], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"calibration failed: {done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
