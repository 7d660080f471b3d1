"""Engines that this machine cannot run: refused, or published as what they are until the gate is passed elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

import exporter
from exporter.bundle import MANIFEST, RECORD, Bundle, Record
from exporter.bundle.manifest import seal_of
from exporter.engines import EngineFiles, backend_of
from exporter.engines.cuda import find_gpu
from exporter.options import ExportOptions
from exporter.pipeline import export
from exporter.publication import record_validation
from exporter.recipe import find_recipe
from exporter.stages import Stages
from exporter.targets import Backend, Precision
from exporter.validation import validate_bundle
from tests.conftest import Shared
from tests.support.process import refused
from tests.support.warm import CLI, WarmPython

pytest.importorskip(
    "tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed (make .venv/ready installs it where there is a wheel)"
)
pytestmark = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here: nothing would be left to judge")


@pytest.fixture(scope="module")
def pending(shared: Shared, twin: Path) -> Path:
    """The twin in fp16 for TensorRT-RTX, by ``exporter.export``."""

    def fill(folder: Path) -> None:
        exporter.export(str(twin), precision="fp16", backend="tensorrt-rtx", unvalidated=True, out=folder)

    return shared("twin-tensorrt-rtx", fill) / "twin" / "fp16-tensorrt-rtx"


@pytest.fixture
def bundle(pending: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(pending, tmp_path / "bundle"))


class OnTheCpu:
    """Stands for a GPU: runs the graph that the engine was built from, off by ``error``."""

    execution = "an imagined GPU"

    def __init__(self, twin: Path, folder: Path, error: float = 0.0) -> None:
        if not folder.is_dir():
            exporter.export(str(twin), precision="fp16", out=folder)
        opened = Bundle.open(folder / twin.name / "fp16-onnxruntime")
        engine = opened.manifest.engine
        files = EngineFiles.read(engine, opened.folder)
        self._runner = backend_of("onnxruntime").open(engine, files, "cpu", None)
        self._error = error

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        vectors = self._runner.run(input_ids, attention_mask)
        return (vectors + self._error * np.random.default_rng(0).standard_normal(vectors.shape)).astype(np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@pytest.fixture
def on_the_target(
    monkeypatch: pytest.MonkeyPatch, twin: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[float], None]:
    """A function that makes engines of TensorRT-RTX run here from now on, off by so much."""
    folder = tmp_path_factory.getbasetemp() / "on-the-target"

    def run_here(error: float) -> None:
        runner = OnTheCpu(twin, folder, error)
        monkeypatch.setattr("exporter.engines.tensorrt.build.TensorRt.open", lambda *_, **__: runner)

    return run_here


def test_without_a_gpu_it_stops_before_any_work_with_exit_3(python: WarmPython, tmp_path: Path) -> None:
    done = python.run(CLI, "export", "--model", "demo", "--backend", "tensorrt-rtx", cwd=tmp_path)
    refused(done, 3, "none here, so the gate cannot be judged", "--unvalidated")
    assert not any(path.is_dir() for path in tmp_path.rglob("*tensorrt*"))


def test_no_stage_begins_where_the_gate_cannot_be_judged(twin: Path, tmp_path: Path) -> None:
    begun: list[str] = []
    with pytest.raises(exporter.MissingDependencyError):
        export(
            find_recipe(str(twin)),
            ExportOptions(precision=Precision.FP16, backend=Backend.TENSORRT_RTX, out=tmp_path),
            Stages(begun.append),
        )
    assert begun == []


def test_options_that_would_not_be_heeded(python: WarmPython, tmp_path: Path) -> None:
    done = python.run(CLI, "export", "--model", "demo", "--workspace-mib", "64", cwd=tmp_path)
    refused(done, 2, "the onnxruntime backend does not support --workspace-mib", "leave it out")


class TestPending:
    def test_its_page_and_its_card_do_not_say_that_it_has_passed(self, pending: Path) -> None:
        text = (pending / "report.html").read_text(encoding="utf-8")
        assert "<title>not validated: twin fp16, the graph the engine was built from" in text
        assert text.index("UNVALIDATED: no machine has run this engine yet.") < text.index("<main")
        card = (pending / "README.md").read_text(encoding="utf-8")
        assert "It was published before any machine had run it" in card

    def test_it_says_so_wherever_it_says_anything(self, pending: Path) -> None:
        opened = Bundle.open(pending)
        assert not opened.validated
        proven = opened.manifest.validation
        assert (proven.state, proven.device) == ("pending", "cuda")
        assert proven.note.startswith("UNVALIDATED: no machine has run this engine yet")
        assert "UNVALIDATED" in (pending / "README.md").read_text(encoding="utf-8")
        assert opened.manifest.engine.files == ("model.engine", "builder.log")

    def test_what_was_judged_is_the_graph_that_went_into_the_engine(self, pending: Path) -> None:
        parity = json.loads((pending / "parity.json").read_text(encoding="utf-8"))
        assert parity["subject"] == "twin fp16, the graph the engine was built from"
        assert parity["execution"] == "CPUExecutionProvider"
        assert parity["passed"]
        decisions = Bundle.open(pending).manifest.decisions
        assert any("attention_lengths" in text for text in decisions)
        assert any("optimization profiles" in text for text in decisions)

    def test_bfloat16_has_the_fp32_graph_alone_to_show(self, twin: Path, tmp_path: Path) -> None:
        bundle = exporter.export(str(twin), precision="bf16", backend="tensorrt-rtx", unvalidated=True, out=tmp_path)
        parity = json.loads((bundle.folder / "parity.json").read_text(encoding="utf-8"))
        assert parity["subject"] == "twin fp32 (gate 1)"

    def test_onnxruntime_on_a_gpu_too_with_the_reference_on_the_cpu(
        self, twin: Path, python: WarmPython, tmp_path: Path
    ) -> None:
        options = ("--fp16", "--device", "cuda", "--unvalidated", "--out", tmp_path)
        done = python.run(CLI, "export", "--model", twin, *options, cwd=tmp_path)
        assert done.status == 0, done
        bundle = Bundle.open(tmp_path / "twin" / "fp16-onnxruntime")
        assert (bundle.validated, bundle.manifest.validation.device) == (False, "cuda")
        assert bundle.manifest.engine.facts.padding == "right"
        # It runs on the CPU too, and passes there, but it was made for a GPU.
        report = validate_bundle(bundle, checkpoint=twin, device="cpu")
        assert report.passed
        with pytest.raises(exporter.BundleError, match="made for cuda, so a validation on cpu is not recorded"):
            record_validation(bundle, report)
        assert not Bundle.open(bundle.folder).validated

    def test_validating_it_here_is_exit_3(self, pending: Path, python: WarmPython, tmp_path: Path) -> None:
        refused(python.run(CLI, "validate", pending, cwd=tmp_path), 3, "no NVIDIA driver")
        assert not (pending / RECORD).exists()


class TestRecord:
    def test_passing_on_the_target_is_recorded_and_hashes_stay(
        self, twin: Path, bundle: Path, on_the_target: Callable[[float], None]
    ) -> None:
        before = (bundle / MANIFEST).read_bytes()
        on_the_target(0.0)
        report = validate_bundle(Bundle.open(bundle), checkpoint=twin)
        assert report.passed
        assert not (bundle / RECORD).exists()
        record_validation(Bundle.open(bundle), report)
        opened = Bundle.open(bundle)
        assert opened.validated
        assert (bundle / MANIFEST).read_bytes() == before
        assert opened.record is not None
        assert opened.record.manifest_seal == opened.manifest.seal
        assert opened.record.report["execution"] == "an imagined GPU"
        assert opened.record.machine["cores"] >= 1
        assert "korsbert" in opened.record.tools

    def test_failing_is_not_recorded_and_a_record_can_be_withdrawn(
        self, twin: Path, bundle: Path, on_the_target: Callable[[float], None]
    ) -> None:
        on_the_target(0.0)
        opened = record_validation(Bundle.open(bundle), validate_bundle(Bundle.open(bundle), checkpoint=twin))
        before = (bundle / RECORD).read_bytes()
        on_the_target(0.5)
        report = validate_bundle(Bundle.open(bundle), checkpoint=twin)
        assert not report.passed
        with pytest.raises(exporter.GateError):
            record_validation(opened, report)
        assert (bundle / RECORD).read_bytes() == before
        opened.withdraw_record()
        assert not (bundle / RECORD).exists()
        assert not Bundle.open(bundle).validated

    def test_a_bundle_that_was_judged_when_it_was_published_gets_none(self, twin: Path, twin_bundle: Path) -> None:
        assert Bundle.open(twin_bundle).validated
        report = validate_bundle(Bundle.open(twin_bundle), checkpoint=twin)
        assert report.passed
        with pytest.raises(exporter.BundleError, match="there is nothing to record"):
            record_validation(Bundle.open(twin_bundle), report)
        assert not (twin_bundle / RECORD).exists()

    @pytest.fixture
    def recorded(self, bundle: Path) -> Path:
        """A bundle with a record that agrees."""
        seal = Bundle.open(bundle).manifest.seal
        report = {"execution": "a GPU", "statistics": {"min_cosine": 1.0}, "passed": True}
        record = Record(manifest_seal=seal, report=report, machine={}, tools={}, created="2026-01-01T00:00:00+00:00")
        self.write(bundle, record.model_copy(update={"seal": seal_of(record)}))
        assert Bundle.open(bundle).validated
        return bundle

    @staticmethod
    def write(bundle: Path, record: Record) -> None:
        (bundle / RECORD).write_text(record.model_dump_json(), encoding="utf-8")

    @pytest.mark.parametrize("change", ["report", "machine", "manifest_seal", "seal"])
    def test_one_that_was_altered(self, recorded: Path, change: str) -> None:
        content: dict[str, Any] = json.loads((recorded / RECORD).read_text(encoding="utf-8"))
        content[change] = "0" * 64 if "seal" in change else {"passed": True}
        (recorded / RECORD).write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(exporter.BundleError, match=r"validation\.json: altered, or of another bundle"):
            Bundle.open(recorded)

    def test_one_of_another_bundle(self, recorded: Path) -> None:
        record = Bundle.open(recorded).record
        assert record is not None
        other = record.model_copy(update={"manifest_seal": "1" * 64})
        self.write(recorded, other.model_copy(update={"seal": seal_of(other)}))
        with pytest.raises(exporter.BundleError, match="of another bundle"):
            Bundle.open(recorded)

    def test_one_of_a_gate_that_failed(self, recorded: Path) -> None:
        record = Bundle.open(recorded).record
        assert record is not None
        failed = record.model_copy(update={"report": {**record.report, "passed": False}})
        self.write(recorded, failed.model_copy(update={"seal": seal_of(failed)}))
        with pytest.raises(exporter.BundleError, match="records a gate that failed"):
            Bundle.open(recorded)

    @pytest.mark.parametrize("content", ["", "{}", "[1]", '{"report": {}}'])
    def test_one_that_is_none(self, recorded: Path, content: str) -> None:
        (recorded / RECORD).write_text(content, encoding="utf-8")
        with pytest.raises(exporter.BundleError, match="not readable as a record"):
            Bundle.open(recorded)

    def test_show_tells_of_it(self, recorded: Path, python: WarmPython, tmp_path: Path) -> None:
        done = python.run(CLI, "show", recorded, cwd=tmp_path)
        assert done.status == 0, done
        assert "UNVALIDATED" in done.stdout
        assert "passed on a GPU" in done.stdout

    def test_a_folder_that_cannot_be_written_to(
        self, twin: Path, bundle: Path, on_the_target: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        on_the_target(0.0)
        report = validate_bundle(Bundle.open(bundle), checkpoint=twin)

        def full(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(exporter.BundleError, match="cannot be written: Permission denied"):
            record_validation(Bundle.open(bundle), report)
