"""Resident memory of an ONNX Runtime session for ALBERT, by how many times it uses its one layer.

    python -m benchmarks.shared_weights

Our graph, and the one that ``torch.onnx.export`` writes before our passes; with ONNX Runtime's prepacking and without.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.results import Target, arguments, publish, table, twin, twin_recipe, work_folder
from exporter.checkpoint import load_checkpoint
from exporter.graph.folding import _export, fold
from exporter.recipe import load_recipe

USES = (2, 6, 12, 24)
GRAPHS = {"korsbert": "as korsbert folds it", "torch": "as torch.onnx.export writes it"}
# Opens one session in a process of its own, which has imported everything before memory is read. Prints megabytes that
# the session added to the resident set, and the median milliseconds of one sentence of 16 tokens.
SESSION = """
import json, statistics, sys, time
import numpy as np, onnxruntime, psutil
path, prepacking, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
process = psutil.Process()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
options.log_severity_level = 4
options.add_session_config_entry("session.disable_prepacking", "0" if prepacking == "on" else "1")
before = process.memory_info().rss
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
loaded = process.memory_info().rss
feeds = {"input_ids": np.full((1, 16), 5, np.int64), "attention_mask": np.ones((1, 16), np.int64)}
times = []
for _ in range(30):
    started = time.perf_counter()
    session.run(None, feeds)
    times.append(1000 * (time.perf_counter() - started))
print(json.dumps({"loaded_mb": (loaded - before) / 1e6, "batch1_ms": statistics.median(times[10:])}))
"""


def main() -> None:
    """Write both graphs for every number of uses, open each in new processes, and write ``shared_weights``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="new processes per figure; the median counts")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with work_folder(options.work) as work:
        folder, recipe = twin("albert-small", options.size, work), twin_recipe("albert-small", options.size, work)
        rows, layer_mb = [], 0.0
        original = (folder / "config.json").read_text(encoding="utf-8")
        try:
            for uses in USES:
                config = json.loads(original) | {"num_hidden_layers": uses}
                (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
                files, layer_mb = _write_graphs(recipe, folder, work)
                rows += [
                    {"uses": uses, "graph": graph, "prepacking": prepacking, "file_mb": file.stat().st_size / 1e6}
                    | _session(file, prepacking, options.repeats, options.threads)
                    for graph, file in files.items()
                    for prepacking in ("on", "off")
                ]
        finally:
            (folder / "config.json").write_text(original, encoding="utf-8")
    _report(rows, layer_mb, options.size, options.threads, options.repeats, options.results)


def _write_graphs(recipe: Path, folder: Path, work: Path) -> tuple[dict[str, Path], float]:
    """Write both graphs; return their files, and the size of the shared layer in megabytes.

    The weights of the twin serve any number of uses: only ``config.json`` counts them.
    """
    checkpoint = load_checkpoint(load_recipe(recipe), folder=folder)
    files = {graph: work / f"{graph}.onnx" for graph in GRAPHS}
    fold(checkpoint).save(files["korsbert"])
    _export(checkpoint).save(files["torch"])
    (layer,) = checkpoint.model[0].auto_model.encoder.albert_layer_groups
    return files, sum(parameter.numel() * 4 for parameter in layer.parameters()) / 1e6


def _session(file: Path, prepacking: str, repeats: int, threads: int) -> dict[str, Any]:
    """Open the graph in ``repeats`` new processes, one after the other; return the median of each figure."""
    command = [sys.executable, "-c", SESSION, str(file), prepacking, str(threads)]
    told = [
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for _ in range(repeats)
    ]
    return {key: round(statistics.median(run[key] for run in told), 2) for key in told[0]}


def _report(rows: list[dict[str, Any]], layer_mb: float, size: str, threads: int, repeats: int, results: Path) -> None:
    growth = {
        (graph, prepacking): _loaded(rows, USES[-1], graph, prepacking) - _loaded(rows, USES[0], graph, prepacking)
        for graph in GRAPHS
        for prepacking in ("on", "off")
    }
    # One more copy of the layer for all the further uses together would already be a weight that is not shared.
    name = f"MB that {USES[-1] - USES[0]} more uses of the layer add to a session (one copy of it: {layer_mb:.1f})"
    targets = [
        Target(f"{name}, prepacking {prepacking}", round(growth["korsbert", prepacking], 2), round(layer_mb, 2))
        for prepacking in ("on", "off")
        if size == "full"  # the layer of a small twin is smaller than what a session spends on its nodes
    ]
    conditions = (
        f"A {size} twin of albert-small in float32 whose one layer ({layer_mb:.1f} MB) is used "
        f"{', '.join(map(str, USES))} times. Each session is opened in a process of its own; memory is what it adds to "
        f"the resident set, latency that of one sentence of 16 tokens on {threads} threads; medians of {repeats} "
        "processes. Prepacking is ONNX Runtime's own "
        "copy of weights in its kernels' layout; korsbert leaves it on."
    )
    header = ("graph", "prepacking", "uses", "file MB", "session MB", "batch 1 ms")
    cells = [
        (
            GRAPHS[row["graph"]],
            row["prepacking"],
            str(row["uses"]),
            f"{row['file_mb']:.1f}",
            f"{row['loaded_mb']:.1f}",
            f"{row['batch1_ms']:.2f}",
        )
        for row in sorted(rows, key=lambda row: (list(GRAPHS).index(row["graph"]), row["prepacking"] == "off"))
    ]
    data = {"size": size, "layer_mb": round(layer_mb, 2), "threads": threads, "repeats": repeats, "sessions": rows}
    sections = ("# Memory of a session that shares its layer", conditions, table(header, cells))
    publish("shared_weights", results, data, sections, targets)


def _loaded(rows: list[dict[str, Any]], uses: int, graph: str, prepacking: str) -> float:
    (found,) = [row for row in rows if (row["uses"], row["graph"], row["prepacking"]) == (uses, graph, prepacking)]
    return float(found["loaded_mb"])


if __name__ == "__main__":
    main()
