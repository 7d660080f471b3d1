"""``korsbert tune``: what it publishes, what it keeps when it is interrupted, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exporter
from exporter.bundle import Bundle
from exporter.options import ExportOptions
from exporter.recipe import find_recipe, load_recipe
from exporter.stages import Stages
from exporter.tuning.work import Work, _identity, work_folder
from tests.support.process import Done, refused
from tests.support.warm import CLI, WarmPython

QUICK = (
    "--precisions",
    "fp32,fp16",
    "--backends",
    "onnxruntime",
    "--sentences",
    "8",
    "--rounds",
    "1",
    "--threads",
    "1",
)
QUICKLY: dict[str, Any] = {
    "precisions": ("fp32", "fp16"), "backends": ("onnxruntime",), "sentences": 8, "rounds": 1, "threads": 1
}  # fmt: skip


def tune(python: WarmPython, model: Path, out: Path, *options: str | Path) -> Done:
    return python.run(CLI, "tune", "--model", model, "--out", out, *QUICK, *options)


def left(out: Path) -> list[str]:
    """What stands in the folder of bundles, hidden or not."""
    return sorted(path.relative_to(out).as_posix() for path in [*out.glob("*"), *out.glob("twin/*")])


class StoppedError(Exception):
    """Stands for Ctrl-C."""


def interrupted_at(name: str) -> Stages:
    def stop(stage: str) -> None:
        if stage == name:
            raise StoppedError

    return Stages(on_start=stop)


def test_the_winner_is_published_and_nothing_else(python: WarmPython, twin: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tune(python, twin, out, "--json", "--report", tmp_path / "tune.html")
    assert done.status == 0, done
    told = json.loads(done.stdout)
    winner = Path(told["bundle"])
    assert left(out) == ["twin", f"twin/{winner.name}"]
    assert f"{Bundle.open(winner).manifest.engine.precision} on onnxruntime" == told["winner"]
    assert np.isfinite(exporter.load(winner).encode("서울")).all()
    verdicts = {one["precision"]: one["verdict"] for one in told["candidates"]}
    assert verdicts == {"fp32": "passed", "fp16": "passed"}
    for one in told["candidates"]:
        found = one["measured"]
        assert found["peak_bytes"] > found["size_bytes"] > 0
        assert found["speed"]["sentences_per_s"] > 0
        assert 0.99 < found["min_cosine"] <= 1
    assert {goal for one in told["candidates"] for goal in one["best_at"]} == {"throughput", "latency", "size"}
    assert "8 sentences" in told["conditions"]
    page = (tmp_path / "tune.html").read_text(encoding="utf-8")
    assert told["sentence"] in page
    assert "fp16 on onnxruntime" in page


def test_the_table(python: WarmPython, twin: Path, tmp_path: Path) -> None:
    done = tune(python, twin, tmp_path / "out", "--precisions", "fp32,bf16", "--for", "latency")
    assert done.status == 0, done
    assert "* fp32 on onnxruntime" in done.stdout
    assert "- bf16 on onnxruntime: not available: onnxruntime's CPU provider cannot run bfloat16" in done.stdout
    assert "fp32 on onnxruntime is the best here; no int8 was measured beside it" in done.stdout


@pytest.mark.slow
def test_all_that_pass_are_kept_if_asked(twin: Path, tmp_path: Path) -> None:
    tuned = exporter.tune(str(twin), out=tmp_path, keep=True, **QUICKLY)
    assert left(tmp_path) == ["twin", "twin/fp16-onnxruntime", "twin/fp32-onnxruntime"]
    assert tuned.bundle.folder.parent == tmp_path / "twin"
    assert [Bundle.open(folder).validated for folder in (tmp_path / "twin").iterdir()] == [True, True]


def test_it_goes_on_where_it_was_interrupted(twin: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        exporter.tune(str(twin), out=out, stages=interrupted_at("type as fp16"), **QUICKLY)
    assert left(out) == [".twin.tune"]
    stopped = interrupted_at("measure speed")
    with pytest.raises(StoppedError):
        exporter.tune(str(twin), out=out, stages=stopped, **QUICKLY)
    assert stopped.kept() == str(out / ".twin.tune")
    stopped = interrupted_at("measure memory")
    with pytest.raises(StoppedError):
        exporter.tune(str(twin), out=out, stages=stopped, **QUICKLY)
    assert stopped.kept() == str(out / ".twin.tune")
    stages = Stages()
    tuned = exporter.tune(str(twin), out=out, stages=stages, **QUICKLY)
    assert [stage.name for stage in stages.done] == ["measure memory", "measure speed", "publish"]
    assert [one.verdict for one in tuned.candidates] == ["passed", "passed"]
    assert left(out) == ["twin", f"twin/{tuned.bundle.folder.name}"]


def interrupted_before_the_candidates_are_removed(twin: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Work) -> None:
        raise StoppedError

    with monkeypatch.context() as stopped:
        stopped.setattr(Work, "remove", stop)
        with pytest.raises(StoppedError):
            exporter.tune(str(twin), out=out, goal="size", **QUICKLY)
    assert left(out) == [".twin.tune", "twin", "twin/fp16-onnxruntime"]


def test_a_winner_that_is_published_already_needs_no_force(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_before_the_candidates_are_removed(twin, tmp_path, monkeypatch)
    place = tmp_path / "twin" / "fp16-onnxruntime"
    seal = Bundle.open(place).manifest.seal
    (place / "LICENSE").write_text("mine", encoding="utf-8")
    stages = Stages()
    tuned = exporter.tune(str(twin), out=tmp_path, stages=stages, goal="size", **QUICKLY)
    assert [stage.name for stage in stages.done] == ["measure memory", "measure speed", "publish"]
    assert left(tmp_path) == ["twin", "twin/fp16-onnxruntime"]
    assert tuned.bundle.manifest.seal == seal
    assert (place / "LICENSE").read_text(encoding="utf-8") == "mine"


def test_a_published_bundle_that_does_not_win_now_is_named_and_stays(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_before_the_candidates_are_removed(twin, tmp_path, monkeypatch)
    place = tmp_path / "twin" / "fp16-onnxruntime"
    other: dict[str, Any] = {"goal": "size", "min_cosine": 0.9999999, **QUICKLY}  # fp32 wins
    with pytest.raises(exporter.BundleError, match=f"{place}: published by .* this run chooses fp32-onnxruntime"):
        exporter.tune(str(twin), out=tmp_path, **other)
    assert left(tmp_path) == [".twin.tune", "twin", "twin/fp16-onnxruntime"]
    shutil.move(place, tmp_path / "moved")
    stages = Stages()
    tuned = exporter.tune(str(twin), out=tmp_path, stages=stages, **other)
    assert [stage.name for stage in stages.done] == ["measure memory", "measure speed", "publish"]
    assert left(tmp_path) == ["moved", "twin", "twin/fp32-onnxruntime"]
    assert tuned.winner == "fp32 on onnxruntime"


@pytest.mark.slow
def test_a_published_bundle_that_does_not_win_now_stays_with_force(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_before_the_candidates_are_removed(twin, tmp_path, monkeypatch)
    exporter.tune(str(twin), out=tmp_path, goal="size", min_cosine=0.9999999, force=True, **QUICKLY)
    assert left(tmp_path) == ["twin", "twin/fp16-onnxruntime", "twin/fp32-onnxruntime"]


@pytest.mark.slow
def test_a_published_bundle_that_was_damaged_is_replaced_with_force(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_before_the_candidates_are_removed(twin, tmp_path, monkeypatch)
    place = tmp_path / "twin" / "fp16-onnxruntime"
    (place / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(exporter.BundleError, match=r"notes\.txt: not listed .* interrupted has published") as refusal:
        exporter.tune(str(twin), out=tmp_path, goal="size", **QUICKLY)
    assert "`force` replaces the bundle" in str(refusal.value)
    stages = Stages()
    tuned = exporter.tune(str(twin), out=tmp_path, stages=stages, goal="size", force=True, **QUICKLY)
    assert [stage.name for stage in stages.done] == ["measure memory", "measure speed", "publish"]
    assert not (place / "notes.txt").exists()
    assert tuned.bundle.folder == place


@pytest.mark.slow
def test_what_a_run_with_other_options_has_published_is_not_replaced(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_before_the_candidates_are_removed(twin, tmp_path, monkeypatch)
    place = tmp_path / "twin" / "fp16-onnxruntime"
    before = Bundle.open(place).manifest.seal
    with pytest.raises(exporter.BundleError, match="already exists, and the winner may go there"):
        exporter.tune(str(twin), out=tmp_path, max_seq_length=64, **QUICKLY)
    assert Bundle.open(place).manifest.seal == before
    stages = Stages()
    exporter.tune(str(twin), out=tmp_path, stages=stages, goal="size", **QUICKLY)  # the candidates are still there
    assert [stage.name for stage in stages.done] == ["measure memory", "measure speed", "publish"]


def test_what_was_interrupted_is_used_only_where_nothing_has_changed(twin: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "out", tmp_path / "twin"
    shutil.copytree(twin, model)
    with pytest.raises(StoppedError):
        exporter.tune(str(model), out=out, stages=interrupted_at("measure memory"), **QUICKLY)
    kept = out / ".twin.tune" / "twin" / "fp32-onnxruntime"
    (kept / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(StoppedError):
        exporter.tune(str(model), out=out, stages=interrupted_at("load checkpoint"), **QUICKLY)
    assert sorted(path.name for path in kept.parent.iterdir()) == ["fp16-onnxruntime"]
    settings = json.loads((model / "modules.json").read_text(encoding="utf-8"))
    (model / "modules.json").write_text(json.dumps(settings, indent=3), encoding="utf-8")
    with pytest.raises(StoppedError):
        exporter.tune(str(model), out=out, stages=interrupted_at("load checkpoint"), **QUICKLY)
    assert not kept.parent.exists()


@pytest.mark.slow
def test_engines_that_do_not_fit_into_memory_together(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.tuning.measuring.available_bytes", lambda: 10**8)
    with pytest.raises(exporter.EngineError, match=r"2 engines that are measured in turns need .* 0\.1 GB are free"):
        exporter.tune(str(twin), out=tmp_path / "out", **QUICKLY)
    assert left(tmp_path / "out") == [".twin.tune"]


def test_no_engine_is_near_enough_and_then_one_is(python: WarmPython, twin: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tune(python, twin, out, "--min-cosine", "1.0", "--precisions", "fp16")
    assert done.status == 1, done
    assert "no engine has a min cosine of 1.0 or more: the nearest is fp16 on onnxruntime with 0.99" in done.stderr
    assert "give a lower --min-cosine" in done.stderr
    assert left(out) == [".twin.tune"]
    stages = Stages()
    tuned = exporter.tune(str(twin), out=out, stages=stages, min_cosine=0.99, **{**QUICKLY, "precisions": ("fp16",)})
    assert "load checkpoint" not in [stage.name for stage in stages.done]
    assert left(out) == ["twin", f"twin/{tuned.bundle.folder.name}"]


def test_a_refused_engine_is_a_row(twin: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "twin.yaml"
    recipe.write_text(f"name: twin\nsource: {twin}\ngates:\n  fp16: {{min_cosine: 1.0}}\n", encoding="utf-8")
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        exporter.tune(load_recipe(recipe), out=out, stages=interrupted_at("measure memory"), **QUICKLY)
    tuned = exporter.tune(load_recipe(recipe), out=out, **QUICKLY)
    assert [one.verdict for one in tuned.candidates] == ["passed", "refused"]
    assert "min cosine" in tuned.candidates[1].refusal
    assert tuned.winner == "fp32 on onnxruntime"
    with pytest.raises(exporter.GateError, match="none of the engines passes its gate"):
        exporter.tune(load_recipe(recipe), out=tmp_path / "none", **{**QUICKLY, "precisions": ("fp16",)})
    assert not (tmp_path / "none" / "twin").exists()


def test_a_place_that_is_taken_is_told_before_any_work(
    python: WarmPython, twin: Path, twin_bundle: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out" / "twin" / "fp32-onnxruntime"
    shutil.copytree(twin_bundle, place)
    refused(tune(python, twin, tmp_path / "out"), 2, f"{place}: already exists, and the winner may go there", "--force")
    assert left(tmp_path / "out") == ["twin", "twin/fp32-onnxruntime"]
    before = Bundle.open(place).manifest.seal
    done = tune(python, twin, tmp_path / "out", "--force", "--precisions", "fp32")
    assert done.status == 0, done
    assert Bundle.open(place).manifest.seal != before
    assert left(tmp_path / "out") == ["twin", "twin/fp32-onnxruntime"]


def test_a_folder_that_is_not_ours_is_left_alone(python: WarmPython, twin: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / ".twin.tune"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    refused(tune(python, twin, tmp_path / "out"), 2, f"{folder}: not a folder of korsbert tune")
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        (("--backends", "tensorrt"), 3, "this machine can build and run none of 2 engines"),
        (("--precisions", "fp17"), 2, "--precisions is 'fp17'"),
        (("--for", "beauty"), 2, "beauty"),
        (("--min-cosine", "2"), 2, "--min-cosine"),
        (("--text", "none.txt"), 2, "none.txt: cannot be read"),
    ],
)
def test_what_cannot_be_asked_for(
    python: WarmPython, twin: Path, tmp_path: Path, given: tuple[str, ...], status: int, told: str
) -> None:
    done = tune(python, twin, tmp_path / "out", *given)
    assert done.status == status, done
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_options_that_tune_decides_itself() -> None:
    with pytest.raises(exporter.InputError, match="chooses the precision"):
        exporter.tune("demo", precision="fp16")
    with pytest.raises(exporter.InputError, match="there is no option"):
        exporter.tune("demo", goals="latency")


@pytest.mark.slow
def test_a_bundle_that_is_replaced_does_not_come_back_as_a_candidate(
    twin: Path, twin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "out" / "twin" / "fp32-onnxruntime"
    shutil.copytree(twin_bundle, place)
    old = Bundle.open(place).manifest.seal

    def stop(_: Work) -> None:
        raise StoppedError

    monkeypatch.setattr(Work, "remove", stop)
    with pytest.raises(StoppedError):
        exporter.tune(str(twin), out=tmp_path / "out", force=True, **{**QUICKLY, "precisions": ("fp32",)})
    new = Bundle.open(place).manifest.seal
    assert new != old
    kept = [*(tmp_path / "out" / ".twin.tune" / "twin").iterdir()]
    assert [Bundle.open(folder).manifest.seal for folder in kept] == [new]


def test_a_candidate_of_another_checkpoint_is_not_used(twin: Path, twin_bundle: Path, tmp_path: Path) -> None:
    options = ExportOptions(out=tmp_path)
    target = options.target
    with work_folder(find_recipe(str(twin)), [target], options) as work:
        place = work.folder / "twin" / "fp32-onnxruntime"
        shutil.copytree(twin_bundle, place)
        assert work.bundle(target) is not None
        other = replace(work, files={**work.files, "modules.json": "0" * 64})
        assert other.bundle(target) is None
        assert not place.exists()


def test_what_the_candidates_depend_on(twin: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("한 문장\n", encoding="utf-8")
    recipe = find_recipe(str(twin))
    found = [
        _identity(recipe, ExportOptions(**options), {})
        for options in (
            {},
            {"calibration": text},
            {"sts": (text,)},
            {"max_seq_length": 64},
            {"pooling": ("cls",)},
            {"opset": 20},
        )
    ]
    assert len(set(found)) == len(found)
    assert _identity(recipe, ExportOptions(out=tmp_path, force=True), {}) == found[0]


def test_a_failure_by_accident_is_tried_again(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise exporter.BuildError("no memory is left")

    with monkeypatch.context() as broken:
        broken.setattr("exporter.pipeline.building.build_engine", fail)
        with pytest.raises(exporter.GateError, match="none of the engines passes its gate") as refusal:
            exporter.tune(str(twin), out=tmp_path, **QUICKLY)
    assert [one["reason"] for one in refusal.value.report["candidates"]] == ["no memory is left"] * 2
    tuned = exporter.tune(str(twin), out=tmp_path, **QUICKLY)
    assert [one.verdict for one in tuned.candidates] == ["passed", "passed"]
