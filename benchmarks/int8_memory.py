"""Memory that calibration and search take, by how many sentences there are to calibrate with.

    python -m benchmarks.int8_memory --sts korsts-dev.tsv

The folded graph of a full-size twin is planned (``make_plan``, as an export does) in a process of its own, which has
imported everything and read the graph before its memory is taken for the first time. What is reported is its peak less
that: sessions, activations, samples, integers and all. The run stops after the first MatMuls of the search, which does
the same over and over. Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import Target, arguments, publish, table, twin, twin_recipe, work_folder
from exporter.checkpoint import load_checkpoint
from exporter.graph.folding import fold
from exporter.recipe import load_recipe
from exporter.validator.sts import read_sts

MODELS = {"ko-sbert-sts": (256, 2560), "moco-distilbert": (1024,)}  # BERT-base; half of it and 152,537 words
LIMIT_GIB = 2.0
CALIBRATE = """
import json, re, sys
from pathlib import Path
import onnx_ir as ir
from tokenizers import Tokenizer
from exporter.calibration import calibration_set
from exporter.graph import Graph
from exporter.precisions.int8.plan import Request, make_plan
from exporter.precisions.int8.scheme import scheme_of
from exporter.recipe import Gates

class Enough(Exception):
    pass

def gib(field):
    # Not getrusage: its maximum outlives exec, and would be the parent's.
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20

def progress(step):
    if "(4 of" in step:
        raise Enough

path, tokenizer, sentences, dimension, longest = sys.argv[1:6]
text = calibration_set(Path(sentences), (), Tokenizer.from_file(tokenizer), "")
graph = Graph(ir.load(path), int(dimension), int(longest))
before = gib("VmRSS")
try:
    make_plan(graph, Request(scheme_of("int8", "openvino", "cpu"), text, Gates().int8), progress)
except Enough:
    print(json.dumps({"texts": text.fit.count, "before": before, "peak": gib("VmHWM")}))
"""


def main() -> None:
    """Calibrate with more and more sentences, each time in a new process, and write ``int8_memory``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--sts", type=Path, metavar="FILE", required=True, help="where sentences come from")
    options = parser.parse_args()
    pairs = read_sts(options.sts)
    different = list(dict.fromkeys(text for pair in zip(pairs.first, pairs.second, strict=True) for text in pair))
    found: list[dict[str, Any]] = []
    with work_folder(options.work) as work:
        for name, counts in MODELS.items():
            checkpoint = load_checkpoint(
                load_recipe(twin_recipe(name, options.size, work)), folder=twin(name, options.size, work)
            )
            graph = fold(checkpoint)
            graph.save(work / "graph.onnx")
            checkpoint.tokenizer.save(str(work / "tokenizer.json"))
            for count in counts:
                (work / "sentences.txt").write_text("\n".join(different[:count]), encoding="utf-8")
                one = _measure(work, (str(graph.dimension), str(graph.max_sequence)))
                found.append({"model": name, "weights": graph.weight_bytes() / 2**30, **one})
                print(found[-1], flush=True)
    rows = [
        (
            one["model"],
            f"{one['weights']:.2f}",
            str(one["texts"]),
            f"{one['peak'] - one['before']:.2f}",
            f"{one['peak']:.2f}",
        )
        for one in found
    ]
    largest = max(one["peak"] - one["before"] for one in found)
    targets = [Target("calibration of a base-size model, GiB", largest, LIMIT_GIB)] if options.size == "full" else []
    conditions = (
        f"Sentences from {options.sts.name}, edge cases included. GiB: of the float32 weights, which the process holds "
        "already; what calibration and search add at their peak; and the whole resident set then."
    )
    header = ("", "weights", "texts calibrated with", "added at the peak", "whole process")
    text = (f"# Memory of INT8 calibration ({options.size} twins)", conditions, table(header, rows))
    publish("int8_memory", options.results, {"gib": found}, text, targets)


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
