"""The public names are exactly the intended ones, and importing them costs next to nothing."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import exporter
import exporter.errors
from exporter.dependencies import EXTRAS, require

PUBLIC = {
    "export",
    "validate",
    "load",
    "Bundle",
    "Encoder",
    "Recipe",
    "ExportError",
    "RecipeError",
    "CheckpointError",
    "HubError",
    "UnsupportedModelError",
    "MissingDependencyError",
    "BuildError",
    "EngineError",
    "GateError",
    "BundleError",
    "InputError",
    "ServerError",
}


def test_they_are_the_intended_ones() -> None:
    assert set(exporter.__all__) == set(dir(exporter)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_is_the_one_of_its_home(name: str) -> None:
    found = getattr(exporter, name)
    assert found.__name__ == name
    assert getattr(importlib.import_module(found.__module__), name) is found


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'exporter' has no attribute 'fold_all'"):
        _ = exporter.fold_all  # type: ignore[attr-defined]


def test_importing_brings_in_no_package_but_itself() -> None:
    code = "import json, sys; before = set(sys.modules); import exporter; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)} - {"exporter"}
    heavy = {
        *EXTRAS,
        "numpy",
        "scipy",
        "tokenizers",
        "pydantic",
        "yaml",
        "typer",
        "rich",
        "huggingface_hub",
        "filelock",
    }
    assert loaded & heavy == set()


class TestErrors:
    def test_all_are_public_and_have_one_root(self) -> None:
        errors = {
            name: error
            for name, error in vars(exporter.errors).items()
            if isinstance(error, type) and issubclass(error, Exception)
        }
        assert errors.keys() == {name for name in PUBLIC if name.endswith("Error")}
        assert all(issubclass(error, exporter.ExportError) for error in errors.values())

    def test_exit_codes_are_those_drawn_in_the_docstring(self) -> None:
        drawn = {}
        for line in (exporter.errors.__doc__ or "").splitlines():
            words = line.replace("├──", " ").replace("└──", " ").split()
            if len(words) > 1 and words[0].endswith("Error") and words[1].isdigit():
                drawn[words[0]] = int(words[1])
        assert drawn.keys() == {name for name in PUBLIC if name.endswith("Error")} - {"ExportError"}
        assert drawn == {name: getattr(exporter, name).exit_code for name in drawn}
        assert set(drawn.values()) == {1, 2, 3}

    def test_a_message_says_what_to_do_next(self) -> None:
        error = exporter.InputError("a.txt: empty", next_step="write something in it")
        assert str(error) == "a.txt: empty\n  next: write something in it"
        assert str(exporter.InputError("a.txt: empty")) == "a.txt: empty"


class TestRequire:
    def test_a_package_that_is_there(self) -> None:
        assert require("onnxruntime").__name__ == "onnxruntime"

    @pytest.mark.parametrize("package", sorted(EXTRAS))
    def test_a_package_that_is_not(self, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(exporter.MissingDependencyError, match=f"{package} is not installed") as failure:
            require(package)
        assert failure.value.next_step == f"pip install 'korsbert[{EXTRAS[package]}]'"
        assert failure.value.exit_code == 3


class TestExportArguments:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ({"precision": "int4"}, "`precision` is 'int4'"),
            ({"backend": "caffe"}, "`backend` is 'caffe'"),
            ({"device": "tpu"}, "`device` is 'tpu'"),
        ],
    )
    def test_what_the_annotations_forbid_is_refused_before_any_work(self, arguments: dict[str, str], told: str) -> None:
        with pytest.raises(exporter.InputError, match=told) as failure:
            exporter.export("demo", **arguments)  # type: ignore[arg-type]
        assert str(failure.value.next_step).startswith("use one of ")
        if "device" in arguments:
            with pytest.raises(exporter.InputError, match=told):
                exporter.load("anywhere", device="tpu")  # type: ignore[arg-type]
