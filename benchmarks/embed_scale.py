"""What ten billion rows ask of the process that hands out parts: its memory, the plan's size, and tasks per second.

    python -m benchmarks.embed_scale

The plan is made of input files that do not exist. Tasks go to workers on a Ray cluster of this machine that do nothing,
so that what is measured is Ray and the process that hands them out.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.corpora import bundle_of
from benchmarks.processes import run_to_success
from benchmarks.results import DEMO, Target, arguments, publish, table, work_folder

ROWS, FILES, ROWS_PER_PART = 10_000_000_000, 10_000, 65_536
WORKERS = 64
H200_ROWS_PER_S = 27_118  # a BERT-base in fp16, from strings: benchmarks/results/gpu-nvidia-h200.md
BYTES_PER_ROW = {"1024 x float32": 4096, "1024 x int8": 1024, "1024 bits": 128}
MIB, TIB = 2**20, 2**40
_PLAN = """
import json, resource, sys, time
from exporter.corpus.files import Format, InputFile
from exporter.corpus.plan import Identity, Part, Plan
from exporter.corpus.rows import Place

rows, files, rows_per_part = map(int, sys.argv[1:4])
each = rows // files
names = (f"s3://corpora/news/part-{number:06d}.parquet" for number in range(files))
inputs = tuple(InputFile(name, Format.PARQUET, 10**9, "0" * 32) for name in names)
started = time.perf_counter()
parts = []
for number in range(files):
    for start in range(0, each, rows_per_part):
        size = min(rows_per_part, each - start)
        parts.append(Part(len(parts), number, Place(start), size, number * each + start))
plan = Plan(Identity("0" * 64, {}, inputs), (each,) * files, tuple(parts))
written = plan.to_json()
between = time.perf_counter()
Plan.from_json(written, "plan")
print(json.dumps({
    "parts": len(parts), "bytes": len(written), "write_s": between - started, "read_s": time.perf_counter() - between,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""
_TASKS = """
import json, logging, resource, sys, time, ray
from exporter.corpus.results import Made

def hook():
    from exporter.corpus.ray_actor import PartMaker
    PartMaker._do = lambda self, pickled: (Made(), {})

ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env={"worker_process_setup_hook": hook})
from exporter.bundle import Bundle
from exporter.corpus import EmbedOptions
from exporter.corpus.cluster import RayWorkers
from exporter.corpus.job import Job
from exporter.corpus.places import opened_place
from exporter.corpus.plan import Identity, Part
from exporter.corpus.ray_actor import Task
from exporter.corpus.rows import Columns, Place
from pathlib import Path

bundle = Bundle.open(Path(sys.argv[1]))
gate = bundle.manifest.recipe.gates.of(bundle.manifest.engine.precision)
job = Job(Identity("0" * 64, {}, ()), Columns("text", ()), None, "", gate, EmbedOptions.of(workers=2, threads=1))
found = []
with opened_place(sys.argv[2]) as place, RayWorkers.opened(job, bundle, place, print) as workers:
    for count in map(int, sys.argv[3:]):
        tasks = [Task([Part(n, 0, Place(n), 1, n)], []) for n in range(count)]
        started = time.perf_counter()
        answered = sum(1 for _ in workers._answers(tasks))
        found.append({
            "tasks": answered, "seconds": time.perf_counter() - started,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        })
print(json.dumps(found))
"""


def main() -> None:
    """Measure, and write ``embed_scale``."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs=2, default=(1000, 10_000), help="few and many")
    options = parser.parse_args()
    with work_folder(options.work) as work:
        sizes = map(str, (ROWS, FILES, ROWS_PER_PART))
        plan = json.loads(run_to_success([sys.executable, "-c", _PLAN, *sizes]).output)
        print(plan, flush=True)
        where = (str(bundle_of(DEMO, work / "demo")), str(work / "scale"))
        done = run_to_success([sys.executable, "-c", _TASKS, *where, *map(str, options.tasks)])
    few, many = json.loads(done.output.splitlines()[-1])
    print(few, many, flush=True)
    per_second = (many["tasks"] - few["tasks"]) / (many["seconds"] - few["seconds"])
    bytes_per_task = (many["peak_bytes"] - few["peak_bytes"]) / (many["tasks"] - few["tasks"])
    _report(options, plan, {"few": few, "many": many, "per_second": per_second, "bytes_per_task": bytes_per_task})


def _report(options: Any, plan: dict[str, Any], tasks: dict[str, Any]) -> None:
    parts, per_second = plan["parts"], tasks["per_second"]
    rows = [
        ("parts", f"{parts:,} of at most {ROWS_PER_PART:,} rows"),
        ("plan", f"{plan['bytes'] / MIB:.0f} MiB, written in {plan['write_s']:.1f} s, read in {plan['read_s']:.1f} s"),
        ("memory of the process that makes the plan", f"{plan['peak_bytes'] / MIB:.0f} MiB"),
        ("tasks that it hands out", f"{per_second:.0f} a second: all of them in {parts / per_second / 60:.0f} minutes"),
        (
            "memory of a task in it",
            f"{tasks['bytes_per_task'] / 1024:.1f} KiB: {parts * tasks['bytes_per_task'] / MIB:.0f} MiB",
        ),
        ("rows a second that it can hand out", f"{per_second * ROWS_PER_PART:,.0f}"),
        (f"which is for each of {WORKERS} workers", f"{per_second * ROWS_PER_PART / WORKERS:,.0f}"),
        *(
            (f"output of {name}", f"{ROWS * size / TIB:.1f} TiB, {ROWS_PER_PART * size / MIB:.0f} MiB a part")
            for name, size in BYTES_PER_ROW.items()
        ),
    ]
    conditions = (
        f"{ROWS:,} rows in {FILES:,} files that do not exist. Tasks do nothing, and two workers on this machine take "
        f"them: the rate is that between {tasks['few']['tasks']:,} and {tasks['many']['tasks']:,} tasks. Time and "
        "memory of the tasks of all parts are extrapolated."
    )
    sections = ("# Ten billion rows", conditions, table(("", ""), rows))
    each = per_second * ROWS_PER_PART / WORKERS
    target = Target(f"rows/s for each of {WORKERS} workers; an H200 encodes", each, H200_ROWS_PER_S, at_least=True)
    publish("embed_scale", options.results, {"plan": plan, "tasks": tasks}, sections, [target])


if __name__ == "__main__":
    main()
