"""Whatever happens to an export, the place of a bundle holds the old one, the new one or nothing, never half of one.

A process is killed as each stage begins and at every line of staging and publishing, two exports meet, the disk is
full, a gate fails. Afterwards the next export finds its way.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter
from exporter.bundle import Bundle
from exporter.bundle.atomic import staging
from exporter.serving.triton import Options, ship
from tests.support.manifests import edit_manifest
from tests.support.process import failed_after, refused, run_program, split_stages, succeeded, wait_until
from tests.support.warm import CLI, WarmPython

STAGES = (
    "load checkpoint",
    "encode the probes with PyTorch",
    "measure the ranges of vectors with PyTorch",
    "fold into one graph",
    "gate: the fp32 graph",
    "sweep: the fp32 graph",
    "type as fp16",
    "build for onnxruntime",
    "check the files",
    "gate: fp16 on onnxruntime",
    "sweep: fp16 on onnxruntime",
    "publish",
)

FP32_STAGES = (
    *STAGES[:4],
    "build for onnxruntime",
    "check the files",
    "gate: fp32 on onnxruntime",
    "sweep: fp32 on onnxruntime",
    "publish",
)

# An export that ends itself as a stage begins: as SIGKILL from elsewhere would, but at a known moment.
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from exporter import pipeline
from exporter.recipe import find_recipe

model, out, stage, force = sys.argv[1:]

def started(name):
    print(name, flush=True)
    if name == stage:
        os.kill(os.getpid(), signal.SIGKILL)

options = pipeline.ExportOptions(precision="fp16", out=Path(out), force=force == "True")
pipeline.export(find_recipe(model), options, pipeline.Stages(started))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the bundles of these tests go. In fp16, because that goes through all stages."""
    return tmp_path / "out" / "twin" / "fp16-onnxruntime"


@pytest.fixture
def old(twin_bundle: Path, place: Path) -> Path:
    """A bundle at the place, told from any new one by its date."""
    shutil.copytree(twin_bundle, place)
    edit_manifest(place, lambda manifest: manifest.update(created="old"))
    return place


def held(place: Path) -> str | None:
    """What the place holds: ``"old"``, ``"new"`` or nothing. Whatever it holds opens, and every hash agrees."""
    if not os.path.lexists(place):
        return None
    return "old" if Bundle.open(place).manifest.created == "old" else "new"


def leftovers(place: Path) -> list[str]:
    """What is beside the bundle."""
    return sorted(path.name for path in place.parent.iterdir() if path != place) if place.parent.exists() else []


def left_by_a_killed_process(place: Path) -> bool:
    """Whether a lock file and one staging folder stand beside the bundle, and nothing else."""
    lock, *others = leftovers(place)
    return lock == f".{place.name}.lock" and len(others) == 1 and others[0].startswith(f".{place.name}.staging-")


def tidied(place: Path) -> bool:
    """Whether the next export's first step removes what a killed one left. A bundle at the place is not touched."""
    before = held(place)
    with staging(place, force=True):
        pass
    assert held(place) == before or (before is None and held(place) == "old")
    return leftovers(place) == []


class TestKilled:
    @pytest.mark.parametrize("stage", STAGES)
    def test_as_a_stage_begins_with_a_bundle_there(
        self, python: WarmPython, twin: Path, old: Path, tmp_path: Path, stage: str
    ) -> None:
        done = python.run(KILLED_AT, twin, tmp_path / "out", stage, "True")
        assert done.status == -signal.SIGKILL, done
        assert done.stdout.splitlines() == list(STAGES[: STAGES.index(stage) + 1])
        assert held(old) == "old"
        assert left_by_a_killed_process(old)
        assert tidied(old)

    def test_in_the_last_stage_and_the_next_export_succeeds(
        self, python: WarmPython, twin: Path, place: Path, tmp_path: Path
    ) -> None:
        done = python.run(KILLED_AT, twin, tmp_path / "out", "publish", "False")
        assert done.status == -signal.SIGKILL, done
        assert held(place) is None
        assert left_by_a_killed_process(place)
        done = python.run(CLI, "export", "--model", twin, "--fp16", "--out", tmp_path / "out")
        succeeded(done)
        assert held(place) == "new"
        assert leftovers(place) == []

    @pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
    @pytest.mark.parametrize("there", [True, False], ids=["old there", "nothing there"])
    def test_at_every_line_of_staging_and_publishing(
        self, twin_bundle: Path, tmp_path: Path, exchange: bool, there: bool
    ) -> None:
        done = run_program([sys.executable, "-c", EVERY_LINE, twin_bundle, tmp_path, exchange, there])
        assert done.status == 0, done
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(results) > 60
        *killed, (last, whole) = results
        assert last == 0
        assert {status for status, _ in killed} == {-signal.SIGKILL}
        assert whole == "new"
        seen = [found for _, found in killed]
        before = "old" if there else None
        # Between two renames, and only there, nothing is at the place; the next export brings the old one back.
        gap = {None} if there and not exchange else set()
        assert set(seen) == {before, "new"} | gap
        assert seen[0] == before
        assert seen[-1] == "new"
        assert seen == sorted(seen, key=[before, None, "new"].index)


# For n = 1, 2, ...: fork, and in the child stage and publish a bundle and die at the n-th line that the files of
# TRACED run. The parent then looks at the place, before and after the next export's first step.
EVERY_LINE = """
import json, os, shutil, signal, sys
from pathlib import Path
from exporter.bundle import Bundle, atomic, bundle as opened, manifest as schema, publish as publishing

made, root = Path(sys.argv[1]), Path(sys.argv[2])
exchange, there = sys.argv[3] == "True", sys.argv[4] == "True"
if not exchange:
    atomic._exchange = lambda first, second: False
TRACED = {module.__file__ for module in (atomic, opened, schema, publishing, shutil)}
bundle = Bundle.open(made)
old = bundle.manifest.model_copy(update={"created": "old"})
new = bundle.manifest.model_copy(update={"created": "new"})

def export(place, manifest):
    with atomic.staging(place, force=True) as folder:
        for name in bundle.manifest.files:
            (folder / name).write_text(manifest.created + name)  # small: what is in them does not matter here
        publishing.publish(manifest, folder, place)

def dying_at(line):
    count = 0
    def trace(frame, event, argument):
        nonlocal count
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            count += 1
            if count == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return trace

def held(place):
    return Bundle.open(place).manifest.created if os.path.lexists(place) else None

line = status = 0
while status == 0 and line == 0 or status != 0:
    line += 1
    place = root / str(line) / "bundle"
    place.parent.mkdir()
    if there:
        export(place, old)
    child = os.fork()
    if child == 0:
        sys.settrace(dying_at(line))
        export(place, new)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = held(place)
    with atomic.staging(place, force=True):
        pass
    assert held(place) == (found or ("old" if there else None)), (line, found, held(place))
    beside = {path.name for path in place.parent.iterdir()} - {"bundle"}
    assert not beside, (line, beside)
    shutil.rmtree(place.parent)
    print(json.dumps([status, found]), flush=True)
"""


# An export that stands still, with the place in its hands, as long as a file is there.
HELD = """
import os, time
from pathlib import Path
from exporter.pipeline import job

load, held = job.load_checkpoint, Path(os.environ["HELD"])

def waiting(*args, **options):
    held.touch()
    while held.exists():
        time.sleep(0.02)
    return load(*args, **options)

job.load_checkpoint = waiting
"""


class TestTwoAtOnce:
    def test_one_wins_and_the_other_says_so(self, python: WarmPython, twin: Path, place: Path, tmp_path: Path) -> None:
        arguments = ("export", "--model", twin, "--fp16", "--out", tmp_path / "out")
        first = python.start(HELD + CLI, *arguments, environment={"HELD": str(tmp_path / "held")})
        wait_until((tmp_path / "held").exists)
        refused(python.run(CLI, *arguments), 2, f"{place}: another export is writing there", "--out")
        (tmp_path / "held").unlink()
        won = first.wait()
        succeeded(won)
        assert held(place) == "new"
        assert leftovers(place) == []

    def test_the_loser_harms_neither_the_old_bundle_nor_the_winner(self, old: Path) -> None:
        with staging(old, force=True) as folder:
            (folder / "half").touch()
            with pytest.raises(exporter.BundleError, match="another export is writing there"), staging(old, force=True):
                pass
            assert (folder / "half").exists()
        assert held(old) == "old"
        assert leftovers(old) == []


class TestFailures:
    def test_a_failed_gate_leaves_the_old_bundle(
        self, python: WarmPython, twin: Path, old: Path, tmp_path: Path
    ) -> None:
        recipe = tmp_path / "twin.yaml"
        recipe.write_text(f"name: twin\nsource: {twin}\ngates:\n  fp16: {{min_cosine: 1.0}}\n", encoding="utf-8")
        before = tree(old)
        arguments = ("export", "--recipe", recipe, "--fp16", "--out", tmp_path / "out", "--force")
        done = python.run(CLI, *arguments)
        assert done.status == 1
        assert done.stdout == ""
        told, message = split_stages(done.stderr)
        assert told[:2] == ["load checkpoint", "encode the probes with PyTorch"]
        assert told[-2:] == ["gate: fp16 on onnxruntime", "sweep: fp16 on onnxruntime"]
        assert ", FAILED, min cosine" in done.stderr
        first, worst, *others = message.splitlines()
        assert first.startswith("error: twin fp16 on onnxruntime: min cosine 0.99999")
        assert "< 1 over" in first
        assert worst.startswith("  worst: “")
        assert "” (" in worst
        assert " tokens, " in worst
        assert any(line.startswith("  likely cause: ") for line in others)
        assert any("the fp32 graph passed at" in line for line in others)
        assert others[-1].startswith("  next: ")
        assert "Traceback" not in done.stderr
        assert tree(old) == before
        assert leftovers(old) == []

    def test_a_failed_gate_leaves_no_trace_of_a_new_place(
        self, python: WarmPython, twin: Path, place: Path, tmp_path: Path
    ) -> None:
        # The fp32 gate, poisoned: a graph whose vectors are all alike.
        code = f"""
from exporter.graph import folding
fold = folding.fold
def worse(checkpoint):
    graph = fold(checkpoint)
    weight = next(v for n, v in graph.model.graph.initializers.items() if n.endswith("word_embeddings.weight"))
    import onnx_ir
    weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * 0, name=weight.name)
    return graph
folding.fold = worse
{CLI}
"""
        done = python.run(code, "export", "--model", twin, "--fp16", "--out", tmp_path / "out", "--json")
        assert done.status == 1
        told = json.loads(done.stdout)
        assert told["error"].startswith("twin fp32 (gate 1): min cosine")
        assert told["parity"]["passed"] is False
        assert len(told["parity"]["rows"]) >= 640
        assert [(stage["name"], stage["failed"]) for stage in told["stages"]][-2:] == [
            ("gate: the fp32 graph", True),
            ("sweep: the fp32 graph", True),
        ]
        told_on_stderr, message = split_stages(done.stderr)
        assert told_on_stderr == [stage["name"] for stage in told["stages"]]
        assert message.startswith("error: twin fp32 (gate 1): min cosine")
        assert "no other precision will help" in done.stderr
        assert held(place) is None
        assert leftovers(place) == []

    @pytest.mark.parametrize("stage", ["build for onnxruntime", "publish"])
    def test_files_that_cannot_grow(
        self, python: WarmPython, twin: Path, old: Path, tmp_path: Path, stage: str
    ) -> None:
        done = python.run(LIMITED_FROM, twin, tmp_path / "out", stage)
        begun = STAGES[: STAGES.index(stage) + 1]
        told = (f"{old}: the disk is full", "free some space, or choose another --out on another disk")
        failed_after(done, 2, begun, *told)
        assert held(old) == "old"
        assert leftovers(old) == []

    def test_a_file_that_tokenizers_cannot_write(self, twin_bundle: Path, place: Path) -> None:
        done = run_program([sys.executable, "-c", LIMITED_TOKENIZER, twin_bundle / "tokenizer.json", place])
        refused(done, 2, f"{place}: the disk is full")
        assert leftovers(place) == []

    @pytest.mark.parametrize(
        ("too_much", "stage"),
        [("model.onnx", "build for onnxruntime"), ("tokenizer.json", "check the files"), ("parity.json", "publish")],
    )
    def test_full_disk(
        self, python: WarmPython, twin: Path, twin_bundle: Path, small_disk: Path, too_much: str, stage: str
    ) -> None:
        order = ("model.onnx", "tokenizer.json", "tokenizer_config.json", "config.json", "ranges.json", "parity.json")
        sizes = {name: (twin_bundle / name).stat().st_size for name in order}
        before = [sizes[name] + 4096 for name in order[: order.index(too_much)]]
        mount(small_disk, sum(before) + sizes[too_much] // 2)
        done = python.run(CLI, "export", "--model", twin, "--out", small_disk / "out")
        begun = FP32_STAGES[: FP32_STAGES.index(stage) + 1]
        failed_after(done, 2, begun, "out/twin/fp32-onnxruntime: the disk is full", "free some space")
        assert leftovers(small_disk / "out" / "twin" / "fp32-onnxruntime") == []
        assert shutil.disk_usage(small_disk).used < 20_000


# An export whose files can no longer grow once a stage has begun: the error is that of a full disk.
LIMITED_FROM = """
import resource, sys
from exporter.cli.main import main
from exporter.stages import Stages

model, out, stage = sys.argv[1:]
begin = Stages.__call__

def limited(stages, name):
    if name == stage:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    return begin(stages, name)

Stages.__call__ = limited
sys.argv = ["korsbert", "export", "--model", model, "--fp16", "--out", out, "--force"]
main()
"""

# The same without torch, for a library that raises no OSError.
LIMITED_TOKENIZER = """
import resource, sys
from pathlib import Path
import typer
from tokenizers import Tokenizer
from exporter.bundle.atomic import staging, writing
from exporter.cli.flags import Command

source, place = Path(sys.argv[1]), Path(sys.argv[2])
app = typer.Typer(pretty_exceptions_enable=False)

@app.command(cls=Command)
def write():
    with staging(place, force=False) as folder, writing(place):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        Tokenizer.from_file(str(source)).save(str(folder / "tokenizer.json"))

sys.argv = ["write"]
app()
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount a file system on, which is taken down again."""
    folder = tmp_path / "disk"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", folder], capture_output=True, check=False)


def mount(folder: Path, size_bytes: int) -> None:
    command: list[str | Path] = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class TestSameInputs:
    @pytest.mark.slow
    def test_give_the_same_graph(self, twin: Path, tmp_path: Path) -> None:
        # Two processes at once whose sets and dicts of strings are ordered differently; in fp16, the longest way.
        code = "import sys, exporter; exporter.export(sys.argv[1], precision='fp16', out=sys.argv[2])"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code, twin, tmp_path / seed], env=environment | {"PYTHONHASHSEED": seed}
            )
            for seed in ("1", "2")
        ]
        assert [process.wait(timeout=600) for process in running] == [0, 0]
        one, two = (tmp_path / seed / "twin" / "fp16-onnxruntime" for seed in ("1", "2"))
        first, second = tree(one), tree(two)
        assert first["model.onnx"] == second["model.onnx"]
        # Nor does anything else differ but the date, which the page shows too.
        assert {name for name in first if first[name] != second[name]} <= {"manifest.json", "report.html"}
        manifests = [json.loads((folder / "manifest.json").read_text(encoding="utf-8")) for folder in (one, two)]
        pages = [(folder / "report.html").read_text(encoding="utf-8") for folder in (one, two)]
        pages = [page.replace(told["created"], "") for page, told in zip(pages, manifests, strict=True)]
        assert pages[0] == pages[1]
        for told in manifests:
            del told["created"], told["seal"], told["files"]["report.html"]
        assert manifests[0] == manifests[1]


def test_an_export_that_cannot_have_the_place_does_not_wait_for_it(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(f"it waits {seconds} s")

    with staging(old, force=True):
        monkeypatch.setattr(time, "sleep", sleep)
        with pytest.raises(exporter.BundleError, match="another export is writing there"), staging(old, force=True):
            pass


def test_force_does_not_replace_what_is_no_bundle(python: WarmPython, twin: Path, tmp_path: Path) -> None:
    place = tmp_path / "out" / "twin" / "fp32-onnxruntime"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine", encoding="utf-8")
    done = python.run(CLI, "export", "--model", twin, "--force", "--out", tmp_path / "out")
    refused(done, 2, str(place), "--force only replaces bundles")
    assert (place / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_no_file_says_where_things_stand_on_this_machine(twin: Path, twin_bundle: Path, tmp_path: Path) -> None:
    """A bundle and a repository are given to others, and Triton serves what ``config.pbtxt`` says."""
    bundle = Bundle.open(twin_bundle)
    assert (bundle.manifest.recipe.source, bundle.manifest.source.checkpoint) == ("twin", "twin")
    for runtime in ("engine", "python"):
        ship([bundle], tmp_path / runtime, Options(runtime=runtime))
    written = [path for folder in (twin_bundle, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert {"manifest.json", "model.onnx", "config.pbtxt", "kubernetes.yaml"} <= {path.name for path in written}
    for place in (twin.parent, twin_bundle.parent, tmp_path, Path(exporter.__file__).parent):
        assert [path for path in written if str(place).encode() in path.read_bytes()] == []
