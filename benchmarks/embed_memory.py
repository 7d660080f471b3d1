"""Memory of a bulk embedding at several sizes of the input, each in a process of its own.

    python -m benchmarks.embed_memory

The model is the demo: it is small, so that what grows with the input would show. Ten million rows are written without
its tokenizer and engine, by a stand-in that costs nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.corpora import WITHOUT_ENGINE, bundle_of, short_texts
from benchmarks.processes import run_to_success
from benchmarks.results import DEMO, Target, arguments, publish, table, work_folder

GIB = 1024**3
_EMBED = "import sys, exporter; exporter.embed(*sys.argv[1:4], threads=int(sys.argv[4]), truncate_dim=64)"
ENGINES = {"the demo": _EMBED, "a stand-in": f"{WITHOUT_ENGINE}\nwithout_engine()\n{_EMBED}"}
SIZES = (("the demo", 100_000), ("the demo", 1_000_000), ("a stand-in", 100_000), ("a stand-in", 10_000_000))


def main() -> None:
    """Measure each size, and write ``embed_memory``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1, help="of the numbers of rows; below 1 for a dry run")
    options = parser.parse_args()
    runs = []
    with work_folder(options.work) as work:
        bundle = bundle_of(DEMO, work / "demo")
        for engine, rows in SIZES:
            source, out = short_texts(work, int(rows * options.scale)), work / "out"
            runs.append(_measure(engine, bundle, source, out, options.threads))
            print(runs[-1], flush=True)
    _report(options.threads, options.results, runs)


def _measure(engine: str, bundle: Path, source: Path, out: Path, threads: int) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    done = run_to_success([sys.executable, "-c", ENGINES[engine], *map(str, (bundle, source, out, threads))])
    counts = json.loads((out / "_SUCCESS").read_text(encoding="utf-8"))["counts"]
    shutil.rmtree(out)
    return {"engine": engine, "rows": counts["rows"], "peak_bytes": done.peak_bytes, "wall_s": round(done.wall_s, 1)}


def _report(threads: int, results: Path, runs: list[dict[str, Any]]) -> None:
    cells = [
        (
            one["engine"],
            f"{one['rows']:,}",
            f"{one['peak_bytes'] / GIB:.3f}",
            f"{one['rows'] / one['wall_s']:.0f}",
        )
        for one in runs
    ]
    targets = []
    for engine in ENGINES:
        small, large = (one for one in runs if one["engine"] == engine)
        name = f"memory with {engine} at {large['rows']:,} rows relative to {small['rows']:,}"
        targets.append(Target(name, large["peak_bytes"] / small["peak_bytes"], 1.1))
    conditions = (
        f"Short texts, float32, 64 of 256 dimensions stored, {threads} threads; peak memory is `ru_maxrss` of the "
        "process. The stand-in takes the place of the demo's tokenizer and engine: token ids are fixed and vectors are "
        "zeros."
    )
    header = ("engine", "rows", "peak GiB", "rows/s")
    sections = ("# Memory of a bulk embedding", conditions, table(header, cells))
    publish("embed_memory", results, {"runs": runs}, sections, targets)


if __name__ == "__main__":
    main()
