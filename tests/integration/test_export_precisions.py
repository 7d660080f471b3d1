"""Several precisions in one run: the work that they share is done once, and each bundle is that of a run of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import exporter
from exporter import pipeline
from exporter.bundle import Bundle
from exporter.checkpoint import Checkpoint
from exporter.graph import Graph, folding
from exporter.pipeline.job import Subject
from exporter.pipeline.judgement import judge_float32
from exporter.stages import Stages
from exporter.targets import Precision
from exporter.validator import ParityReport
from tests.conftest import Shared
from tests.support import surgery
from tests.support.process import refused
from tests.support.warm import CLI, WarmPython

THREE = ("fp32", "fp16", "int8_dynamic")


@pytest.fixture(scope="module")
def together(shared: Shared, twin: Path) -> tuple[Path, list[str]]:
    """The twin in three precisions by one call, and the names of the stages."""

    def fill(folder: Path) -> None:
        stages = Stages()
        done = exporter.export_precisions(str(twin), THREE, out=folder, stages=stages)
        assert [*done] == [Precision(name) for name in THREE]
        assert all(isinstance(bundle, Bundle) for bundle in done.values())
        (folder / "stages.json").write_text(json.dumps([stage.name for stage in stages.done]), encoding="utf-8")

    folder = shared("twin-three-precisions", fill)
    return folder, json.loads((folder / "stages.json").read_text(encoding="utf-8"))


def test_what_they_share_is_done_once(together: tuple[Path, list[str]]) -> None:
    stages = together[1]
    for name in ("load checkpoint", "encode the probes with PyTorch", "fold into one graph"):
        assert stages.count(name) == 1
    # The fp32 bundle is the float32 graph itself: its gate is the first gate of the others.
    assert "gate: the fp32 graph" not in stages
    assert [name for name in stages if name.startswith("gate: ")] == [f"gate: {name} on onnxruntime" for name in THREE]


def test_each_is_the_bundle_of_a_run_of_its_own(
    together: tuple[Path, list[str]], twin: Path, twin_bundle: Path, tmp_path: Path
) -> None:
    alone = {"fp32": twin_bundle}
    for name in THREE[1:]:
        alone[name] = exporter.export(str(twin), precision=name, out=tmp_path).folder
    for name, other in alone.items():
        made = together[0] / "twin" / f"{name}-onnxruntime"
        assert (made / "model.onnx").read_bytes() == (other / "model.onnx").read_bytes()
        reports = [json.loads((folder / "parity.json").read_text(encoding="utf-8")) for folder in (made, other)]
        first = [report.pop("fp32_graph") for report in reports]
        assert reports[0] == reports[1]
        if name != "fp32":
            assert first[0]["statistics"] == first[1]["statistics"]


def test_one_that_is_refused_does_not_stop_the_others(python: WarmPython, twin: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "twin.yaml"
    recipe.write_text(f"name: twin\nsource: {twin}\ngates:\n  fp16: {{min_cosine: 1.0}}\n", encoding="utf-8")
    arguments = ("export", "--recipe", recipe, "--precisions", "fp16,fp32", "--out", tmp_path / "out")
    done = python.run(CLI, *arguments)
    assert done.status == 1, done
    assert "fp16 on onnxruntime: min cosine" in done.stderr
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "out" / "twin" / "fp32-onnxruntime") in done.stdout
    assert [path.name for path in (tmp_path / "out" / "twin").iterdir()] == ["fp32-onnxruntime"]
    done = python.run(CLI, *arguments, "--force", "--json")
    assert done.status == 1, done
    refusal, bundle = json.loads(done.stdout)["exports"]
    assert (refusal["precision"], refusal["parity"]["passed"]) == ("fp16", False)
    assert "min cosine" in refusal["error"]
    assert bundle["manifest"]["engine"]["precision"] == "fp32"


def test_a_wrong_graph_is_judged_once_and_refuses_them_all(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = folding.fold

    def fold(checkpoint: Checkpoint) -> Graph:
        graph = sound(checkpoint)
        model = graph.editable()
        surgery.epsilon_enlarged(model)
        return graph.with_model(model)

    judged, calls = judge_float32, []

    def counted(graph: Graph, subject: Subject) -> ParityReport:
        calls.append(1)
        return judged(graph, subject)

    monkeypatch.setattr(folding, "fold", fold)
    monkeypatch.setattr(pipeline, "judge_float32", counted)
    done = exporter.export_precisions(str(twin), ("fp16", "int8_dynamic"), out=tmp_path / "out")
    for refusal in done.values():
        assert isinstance(refusal, exporter.GateError)
        assert "twin fp32 (gate 1)" in refusal.message
    assert calls == [1]
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_taken_is_told_before_any_work(
    python: WarmPython, twin: Path, twin_bundle: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out" / "twin" / "fp32-onnxruntime"
    shutil.copytree(twin_bundle, place)
    arguments = ("export", "--model", twin, "--precisions", "fp16,fp32", "--out", tmp_path / "out")
    refused(python.run(CLI, *arguments), 2, f"{place}: already exists")
    assert [path.name for path in place.parent.iterdir()] == ["fp32-onnxruntime"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--precisions", "fp16,fp17"), "`precisions` is 'fp17'"),
        (("--precisions", ""), "`precisions` is empty or names one twice"),
        (("--precisions", "fp16,fp16"), "`precisions` is empty or names one twice"),
        (("--precisions", "fp16", "--int8"), "--precisions is given with --int8"),
        (("--precisions", "fp16,bf16"), "bfloat16"),
    ],
)
def test_what_cannot_be_asked_for(python: WarmPython, tmp_path: Path, given: tuple[str, ...], told: str) -> None:
    refused(
        python.run(CLI, "export", "--model", "demo", *given, "--out", tmp_path),
        2,
        told.replace("`precisions`", "--precisions"),
    )
