"""The name of a bundle: two checkpoints of one name are told apart by it, wherever it is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import exporter
from tests.support.manifests import edit_manifest
from tests.support.process import refused
from tests.support.twins import build_twin
from tests.support.warm import CLI, WarmPython

PLACE = "fp32-onnxruntime"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, twin: Path) -> Path:
    """A folder of bundles of two checkpoints, both called ``model``; the second has the name ``other``."""
    folder = tmp_path_factory.mktemp("names")
    shutil.copytree(twin, folder / "first" / "model")
    build_twin("ko-sbert-multitask", folder / "second" / "model", seed=1)
    exporter.export(str(folder / "first" / "model"), out=folder / "artifacts")
    exporter.export(str(folder / "second" / "model"), out=folder / "artifacts", name="other")
    return folder


@pytest.mark.slow
def test_two_checkpoints_called_model_do_not_collide(published: Path) -> None:
    first, second = (
        exporter.Bundle.open(published / "artifacts" / name / PLACE).manifest for name in ("model", "other")
    )
    assert first.source.checkpoint == second.source.checkpoint == "model"
    assert first.source.weights_sha256 != second.source.weights_sha256


def test_without_a_name_the_second_is_refused(python: WarmPython, published: Path) -> None:
    place = published / "artifacts" / "model" / PLACE
    before = exporter.Bundle.open(place).manifest.seal
    command = ("export", "--model", published / "second" / "model", "--out", published / "artifacts")
    refused(python.run(CLI, *command), 2, f"{place}: already exists", "--force", "--name gives this one another folder")
    assert exporter.Bundle.open(place).manifest.seal == before


def test_force_does_not_replace_a_bundle_of_another_checkpoint(
    python: WarmPython, published: Path, tmp_path: Path
) -> None:
    place = tmp_path / "model" / PLACE
    shutil.copytree(published / "artifacts" / "model" / PLACE, place)
    edit_manifest(place, lambda manifest: manifest["source"].update(checkpoint="someone/model", commit="c" * 40))
    before = exporter.Bundle.open(place).manifest.seal
    command = ("export", "--model", published / "second" / "model", "--out", tmp_path, "--force")
    refused(python.run(CLI, *command), 2, "is a bundle of someone/model, and --force does not replace it", "--name")
    assert exporter.Bundle.open(place).manifest.seal == before


def test_the_name_is_shown_shipped_and_on_the_card(python: WarmPython, published: Path, tmp_path: Path) -> None:
    place = published / "artifacts" / "other" / PLACE
    shown = python.run(CLI, "show", place)
    assert any(line.split() == ["name", "other"] for line in shown.stdout.splitlines())
    assert (place / "README.md").read_text(encoding="utf-8").count("other-fp32-onnxruntime") >= 4
    done = python.run(CLI, "ship", place, "--repository", tmp_path / "triton", "--no-measure", "--json")
    assert done.status == 0, done
    assert (tmp_path / "triton" / "other" / "config.pbtxt").is_file()
    assert json.loads(done.stdout)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "-a", "a b", "a\n", ".hidden", "~"])
def test_what_is_no_name_is_refused(python: WarmPython, tmp_path: Path, name: str) -> None:
    command = ("export", "--model", "demo", "--out", tmp_path / "out", f"--name={name}")
    refused(python.run(CLI, *command), 2, "--name is ", "use letters, digits, '.', '_' and '-'")
    assert not (tmp_path / "out").exists()
    with pytest.raises(exporter.InputError, match="`name` is "):
        exporter.export("demo", out=tmp_path / "out", name=name)


def test_a_name_that_no_folder_can_have_is_refused(python: WarmPython, tmp_path: Path) -> None:
    done = python.run(CLI, "export", "--model", "demo", "--out", tmp_path / "out", "--name", "a" * 101)
    refused(done, 2, "at most 100 characters")
