"""The memory of an encoder: measured in a process of its own, kept beside its version, never in the way of shipping."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.bundle import Bundle
from exporter.errors import EngineError
from exporter.runtime.token_encoder import TOKENS_PER_ROW, rows_at_once
from exporter.runtime.tokens import batches_of_little_padding
from exporter.serving.peak_memory import Load, peak_bytes
from exporter.serving.triton import Options, memory, ship
from exporter.serving.triton.facts import served
from exporter.serving.triton.lint import check
from exporter.serving.triton.memory import FILE, Peak, largest_batch, peak_of, read_peak, write_peak
from exporter.targets import Device
from tests.support.deployment_files import peak
from tests.support.process import run_program
from tests.support.served_bundles import bundle_of

SMALL, LARGE = (Load("cpu", 1, rows, 32) for rows in (1, 128))
PYTHON = Options(runtime="python")


def test_a_larger_batch_takes_more_memory(twin_bundle: Path) -> None:
    assert 2**20 < peak_bytes(twin_bundle, SMALL) < peak_bytes(twin_bundle, LARGE) < 2**31


def test_nothing_of_the_export_is_imported_for_it(
    twin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "transformers", "onnx", "tritonclient", "google"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert peak_bytes(twin_bundle, SMALL)


def test_a_package_of_our_name_where_the_user_stands_is_not_run(
    twin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exporter").mkdir()
    (tmp_path / "exporter" / "__init__.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert peak_bytes(twin_bundle, SMALL)


LIMITS = """
import resource
from pathlib import Path
from exporter.serving.peak_memory import spare_other_processes
spare_other_processes("cpu")
print(resource.getrlimit(resource.RLIMIT_DATA)[0], Path("/proc/self/oom_score_adj").read_text())
"""


def test_it_takes_no_more_memory_than_is_free_and_is_ended_first() -> None:
    done = run_program([sys.executable, "-c", LIMITS])
    limit, score = map(int, done.stdout.split())
    assert 0 < limit < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert score == 1000


def a_bundle_that_is_not_there(folder: Path, _: pytest.MonkeyPatch) -> Load:
    assert not (folder / "manifest.json").exists()
    return SMALL


def a_program(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Load:
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return SMALL


FAILURES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], Load], str]] = {
    "no bundle": (a_bundle_that_is_not_there, "there is no manifest.json"),
    "killed": (lambda folder, patch: a_program(folder, patch, "kill -9 $$"), "signal 9 ended 1 rows of 32 tokens"),
    "a crash": (
        lambda folder, patch: a_program(folder, patch, "echo Traceback >&2; echo MemoryError >&2; exit 1"),
        "^MemoryError$",
    ),
    "no word": (lambda folder, patch: a_program(folder, patch, "exit 1"), "it ended without a word"),
    "too slow": (lambda folder, patch: a_program(folder, patch, "exec sleep 600"), "took longer than 0.2 s"),
    "no python": (
        lambda folder, patch: patch.setattr(sys, "executable", str(folder / "none")) or SMALL,
        "none cannot be started: No such file or directory",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_measured_is_told_in_a_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, told = FAILURES[case]
    load = prepare(tmp_path, monkeypatch)
    with pytest.raises(EngineError, match=told):
        peak_bytes(tmp_path, load, limit_s=0.2 if case == "too slow" else 180)


def test_a_token_id_that_the_engine_refuses_is_an_error_of_the_engine(twin_bundle: Path) -> None:
    with pytest.raises(EngineError, match="onnxruntime refused a batch"):
        peak_bytes(twin_bundle, Load("cpu", 1, 1, 100_000))


@pytest.mark.parametrize(("batch_size", "tokens"), [(128, 256), (128, 128), (128, 7), (32, 512), (4, 1000), (1, 129)])
def test_the_python_runtime_runs_no_batch_with_more_rows(batch_size: int, tokens: int) -> None:
    batches = batches_of_little_padding(
        [tokens] * 200, batch_size=batch_size, token_budget=batch_size * TOKENS_PER_ROW, padding_tokens=16
    )
    assert max(map(len, batches)) == rows_at_once(batch_size, tokens)


def test_the_largest_batch_is_that_of_the_runtime() -> None:
    assert largest_batch(served(bundle_of("onnxruntime"), Options())) == (128, 256)
    assert largest_batch(served(bundle_of("onnxruntime"), PYTHON)) == (64, 256)
    assert largest_batch(served(bundle_of("tensorrt"), Options(gpus=(0,)))) == (128, 256)


def test_a_figure_of_the_same_bundle_and_batch_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Load] = []

    def measured(_: Path, load: Load) -> int:
        loads.append(load)
        return 1000 + len(loads)

    monkeypatch.setattr(memory, "peak_bytes", measured)
    monkeypatch.setattr(memory, "cores", lambda: 8)
    one = served(bundle_of("onnxruntime"), PYTHON)
    recorded = peak(7)
    others: list[dict[str, Any]] = [{"seal": "0" * 64}, {"device": Device.CUDA}, {"rows": 128}, {"tokens": 255}]
    folders = [tmp_path / str(number) for number in range(1, 6)]
    for folder, change in zip(folders, others, strict=False):
        folder.mkdir()
        write_peak(folder, recorded.model_copy(update=change))

    expected = Peak(seal=one.bundle.manifest.seal, device=Device.CPU, rows=64, tokens=256, peak_bytes=1001)
    assert peak_of(one, Options(runtime="python", instances=3), folders) == expected
    assert loads == [Load("cpu", 2, 64, 256)]

    folders[-1].mkdir()
    write_peak(folders[-1], recorded)
    assert peak_of(one, PYTHON, folders) == recorded
    assert len(loads) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 10_000, b"\xff", peak(7).model_dump_json().replace(":7", ":0").encode()]
)
def test_a_figure_that_cannot_be_read_is_none(content: bytes, tmp_path: Path) -> None:
    assert read_peak(tmp_path) is None
    (tmp_path / FILE).write_bytes(content)
    assert read_peak(tmp_path) is None


def test_ship_keeps_the_figure_and_gives_the_same_files_again(
    twin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter((1000 * 2**20,))
    monkeypatch.setattr(memory, "peak_bytes", lambda *_: next(figures))
    bundle, folder = Bundle.open(twin_bundle), tmp_path / "models"
    (shipped,) = ship([bundle], folder, PYTHON, measure=True)
    assert shipped.remarks == ()
    written = (folder / "kubernetes.yaml").read_text(encoding="utf-8")
    assert "version 1 measured, 1000 MiB for " in written
    ship([bundle], folder, PYTHON, measure=True, version=1)
    assert (folder / "kubernetes.yaml").read_text(encoding="utf-8") == written
    assert check(folder) == []


def test_what_cannot_be_measured_is_shipped_and_computed(
    twin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    folder = tmp_path / "models"
    (shipped,) = ship([Bundle.open(twin_bundle)], folder, PYTHON, measure=True)
    (remark,) = shipped.remarks
    assert remark.startswith(f"the memory limit of {shipped.name} is computed, not measured: ")
    assert remark.endswith("none cannot be started: No such file or directory")
    assert read_peak(folder / shipped.name / "1") is None
    for file in ("kubernetes.yaml", "README.md"):
        assert f"{shipped.name}: version 1 computed" in " ".join((folder / file).read_text(encoding="utf-8").split())
