"""``korsbert doctor``: it asks the checks that an export asks, and says what is missing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import typer

from exporter import doctor
from exporter.cli.doctor import doctor_command
from exporter.errors import MissingDependencyError
from exporter.machine import memory_bytes
from exporter.targets import Backend, Device, Precision, Target
from tests.support.process import run_program

CLI = """
import sys
from exporter.cli.main import main
try:
    main()
finally:
    assert not {"torch", "transformers", "sentence_transformers"} & sys.modules.keys()
"""


def test_it_tells_what_runs_here_without_torch(tmp_path: Path) -> None:
    done = run_program([sys.executable, "-c", CLI, "doctor", "--json"], cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    states = {(one["precision"], one["backend"], one["device"]): one for one in found["targets"]}
    assert len(states) == len(found["targets"]) == 25
    assert states["fp32", "onnxruntime", "cpu"] == {
        **{"precision": "fp32", "backend": "onnxruntime", "device": "cpu"},
        **{"builds": True, "runs": True, "reason": None, "next_step": None},
    }
    bf16 = states["bf16", "onnxruntime", "cpu"]
    assert (bf16["builds"], bf16["runs"]) == (False, False)
    assert "cannot run bfloat16" in bf16["reason"]
    assert states["int8_dynamic", "openvino", "cpu"]["runs"] is False
    assert found["extras"]["cpu"] is True
    assert found["packages"]["torch"]
    assert "CPUExecutionProvider" in found["onnxruntime_providers"]
    assert found["machine"]["memory_bytes"] > 2**28
    assert all(place["free_bytes"] > 0 for place in found["folders"].values())


def test_what_is_not_installed_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: object) -> None:
        raise MissingDependencyError("torch is not installed", next_step="pip install 'korsbert[export]'")

    monkeypatch.setattr(doctor, "refuse_missing", missing)
    state = doctor.judge(Target(Precision.FP32, Backend.ONNXRUNTIME, Device.CPU))
    assert (state.builds, state.runs) == (False, True)
    assert (state.reason, state.next_step) == ("torch is not installed", "pip install 'korsbert[export]'")
    with pytest.raises(typer.Exit) as stop:
        doctor_command()
    assert stop.value.exit_code == 3
    assert "torch is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_limit_of_a_control_group_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], limit: float | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.setattr(doctor, "_CGROUP", tmp_path)
    assert doctor.cpu_limit() == limit


@pytest.mark.parametrize(("content", "expected"), [("4096\n", 4096), ("max\n", None)])
def test_the_memory_of_a_control_group_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, expected: int | None
) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr("exporter.machine._CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(content, encoding="utf-8")
    assert memory_bytes() == (whole if expected is None else expected)
