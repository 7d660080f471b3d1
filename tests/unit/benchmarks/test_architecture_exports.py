"""What an export of several targets tells of each: the stages that an export to it alone would have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import architecture_exports
from exporter.errors import ExportError, GateError, InputError
from exporter.pipeline.job import Job
from exporter.recipe import recipes_folder

DEMO = recipes_folder() / "demo" / "checkpoint"
TARGETS = ("fp32-onnxruntime", "fp16-onnxruntime", "bf16-openvino", "int8-openvino")


def refuse_each(jobs: Sequence[Job]) -> Iterator[ExportError]:
    """Run stages like those of an export, without any work, and refuse each target."""
    stages = jobs[0].stages
    for name in ("load checkpoint", "fold into one graph"):
        with stages(name):
            pass
    judged = set()
    for job in jobs:
        if job.target.backend not in judged and not job.is_as_folded:
            with stages("gate: the fp32 graph"):
                pass
        judged.add(job.target.backend)
        with stages(f"gate: {job.target.precision} on {job.target.backend}"):
            pass
        yield GateError(f"{job.target} is too far", report={})


def names(told: dict[str, Any]) -> list[str]:
    return [stage["name"] for stage in told["stages"]]


def test_each_target_has_the_stages_of_an_export_to_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture_exports, "export_jobs", refuse_each)
    monkeypatch.setattr(architecture_exports, "target_passes", lambda target: target.backend)
    fp32, fp16, bf16, int8 = architecture_exports.exports(DEMO, tmp_path, TARGETS)
    shared = ["import", "load checkpoint", "fold into one graph"]
    assert names(fp32) == [*shared, "gate: fp32 on onnxruntime"]
    assert names(fp16) == [*shared, "gate: fp32 on onnxruntime", "gate: fp16 on onnxruntime"]
    assert names(bf16) == [*shared, "gate: the fp32 graph", "gate: bf16 on openvino"]
    assert names(int8) == [*shared, "gate: the fp32 graph", "gate: int8 on openvino"]
    assert fp16["exit_code"] == 1
    assert fp16["reason"] == "fp16 on onnxruntime is too far"
    assert all(stage["peak_bytes"] > 0 for stage in fp16["stages"])


def test_what_stops_all_is_the_reason_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Sequence[Job]) -> Iterator[ExportError]:
        raise InputError("cannot be folded")
        yield

    monkeypatch.setattr(architecture_exports, "export_jobs", stop)
    told = list(architecture_exports.exports(DEMO, tmp_path, TARGETS))
    assert [(one["target"], one["reason"]) for one in told] == [(target, "cannot be folded") for target in TARGETS]
    assert {one["exit_code"] for one in told} == {2}
