"""Memory of a bulk embedding at several sizes of the input, each in a process of its own.

    python -m benchmarks.embed_memory

The model is the demo: it is small, so that what grows with the input would show.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.processes import run_to_success
from benchmarks.results import DEMO, Target, arguments, publish, table, work_folder

GIB = 1024**3
_EXPORT = "import sys, exporter; exporter.export(sys.argv[1], out=sys.argv[2])"
_EMBED = "import sys, exporter; exporter.embed(*sys.argv[1:4], threads=int(sys.argv[4]))"
_ROWS_AT_ONCE = 100_000


def main() -> None:
    """Measure each size, and write ``embed_memory``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, action="append", help="by default 100,000 and 1,000,000; repeatable")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    runs = []
    with work_folder(options.work) as work:
        if not (work / "demo").is_dir():
            run_to_success([sys.executable, "-c", _EXPORT, str(DEMO), str(work / "demo")])
        (bundle,) = (work / "demo").glob("*/fp32-onnxruntime")
        for rows in options.rows or (100_000, 1_000_000):
            source, out = work / f"{rows}.parquet", work / "out"
            write_short_texts(source, rows)
            shutil.rmtree(out, ignore_errors=True)
            done = run_to_success([sys.executable, "-c", _EMBED, *map(str, (bundle, source, out, options.threads))])
            counts = json.loads((out / "_SUCCESS").read_text(encoding="utf-8"))["counts"]
            runs.append({"rows": counts["rows"], "peak_bytes": done.peak_bytes, "wall_s": round(done.wall_s, 1)})
            print(runs[-1], flush=True)
    cells = [
        (f"{one['rows']:,}", f"{one['peak_bytes'] / GIB:.3f}", f"{one['rows'] / one['wall_s']:.0f}") for one in runs
    ]
    first, last = runs[0], runs[-1]
    grown = Target(
        f"memory at {last['rows']:,} rows relative to {first['rows']:,}", last["peak_bytes"] / first["peak_bytes"], 1.1
    )
    conditions = (
        f"The demo, short texts, float32, {options.threads} threads; peak memory is `ru_maxrss` of the process."
    )
    sections = ("# Memory of a bulk embedding", conditions, table(("rows", "peak GiB", "rows/s"), cells))
    publish("embed_memory", options.results, {"runs": runs}, sections, [grown])


def write_short_texts(path: Path, rows: int) -> None:
    """Write a Parquet file of short texts, all different."""
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _ROWS_AT_ONCE):
            texts = [f"{number}번 문서" for number in range(start, min(start + _ROWS_AT_ONCE, rows))]
            writer.write_table(pa.table({"text": texts}, schema))


if __name__ == "__main__":
    main()
