"""``korsbert export --dry-run``: what an export would do, and the refusal that it would end with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from exporter.cli.dry_run import stages_of
from exporter.targets import Backend, Device, Precision, Target
from tests.support.process import Done, run_program
from tests.support.warm import CLI, WarmPython


def test_it_names_the_stages_of_the_export_and_does_nothing(
    python: WarmPython, demo_export: tuple[Path, Done], tmp_path: Path
) -> None:
    done = python.run(CLI, "export", "--model", "demo", "--fp16", "--dry-run", "--json", cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["stages"] == [stage["name"] for stage in json.loads(demo_export[1].stdout)["stages"]]
    assert (told["bundle"], told["exists"]) == ("artifacts/demo/fp16-onnxruntime", False)
    assert (told["precision"], told["backend"], told["device"]) == ("fp16", "onnxruntime", "cpu")
    assert (told["missing"], told["refusal"]) == ([], None)
    assert told["checkpoint"]["revision"] is None
    assert Path(told["checkpoint"]["folder"]).name == "checkpoint"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("as_json", [True, False])
def test_a_place_that_is_taken_is_told_and_refused(python: WarmPython, tmp_path: Path, *, as_json: bool) -> None:
    place = tmp_path / "artifacts" / "demo" / "fp32-onnxruntime"
    place.mkdir(parents=True)
    flags = ("--json",) if as_json else ()
    done = python.run(CLI, "export", "--model", "demo", "--dry-run", *flags, cwd=tmp_path)
    real = python.run(CLI, "export", "--model", "demo", cwd=tmp_path)
    assert (done.status, done.stderr) == (real.status, real.stderr)
    assert done.status == 2
    if as_json:
        assert json.loads(done.stdout)["exists"]
        assert json.loads(done.stdout)["refusal"] in done.stderr
    else:
        assert "fp32-onnxruntime, there already" in done.stdout


def test_it_imports_no_torch_and_names_all_that_is_missing(tmp_path: Path) -> None:
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("torch", "optimum") else find(name, *rest)
sys.argv = ["korsbert", "export", "--model", "demo", "--dry-run", "--json"]
from exporter.cli.main import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    done = run_program([sys.executable, "-c", code], cwd=tmp_path)
    assert done.status == 3
    assert json.loads(done.stdout)["missing"] == ["torch", "optimum"]
    assert done.stderr.startswith("error: torch is not installed")


def test_a_checkpoint_on_the_hub_is_named_by_its_revision(python: WarmPython, tmp_path: Path) -> None:
    done = python.run(CLI, "export", "--model", "a/b", "--revision", "v2", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["checkpoint"] == {"source": "a/b", "folder": None, "revision": "v2"}
    folder = tmp_path / "copy"
    done = python.run(CLI, "export", "--model", "a/b", "--checkpoint", folder, "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["checkpoint"] == {"source": "a/b", "folder": str(folder), "revision": None}


def test_the_stages_of_an_engine_that_this_machine_cannot_run() -> None:
    int8 = stages_of(Target(Precision.INT8, Backend.TENSORRT, Device.CUDA), runs_here=False)
    uncompiled = [name.partition(": ")[0] for name in int8 if name.endswith(": int8 on the CPU, uncompiled")]
    assert uncompiled == ["held-out text", "gate", "sweep"]
    bf16 = stages_of(Target(Precision.BF16, Backend.TENSORRT, Device.CUDA), runs_here=False)
    assert bf16[-3:] == ["build for tensorrt", "check the files", "publish"]


def test_the_stages_of_other_targets() -> None:
    plain = stages_of(Target(Precision.FP32, Backend.ONNXRUNTIME, Device.CPU))
    assert not [name for name in plain if "fp32 graph" in name or name.startswith("type as")]
    int8 = stages_of(Target(Precision.INT8, Backend.OPENVINO, Device.CPU))
    assert int8.index("calibrate and search") < int8.index("type as int8") < int8.index("build for openvino")
