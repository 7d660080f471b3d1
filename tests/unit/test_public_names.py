"""The public names are exactly the intended ones, and importing them costs next to nothing."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import korsbert
import pytest

import exporter
import exporter.errors
from exporter.dependencies import EXTRAS, require

PUBLIC = {
    "assert_embeddings_match",
    "compare",
    "embed",
    "export",
    "export_precisions",
    "tune",
    "validate",
    "write_golden",
    "load",
    "push",
    "record_validation",
    "quantize_embeddings",
    "Bundle",
    "Comparison",
    "Encoder",
    "EmbedOptions",
    "EmbedReport",
    "ExportOptions",
    "GoldenFacts",
    "Pushed",
    "Recipe",
    "Stages",
    "Tuned",
    "TuneOptions",
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
    assert set(exporter.__all__) == set(dir(exporter)) == PUBLIC | {"__version__"}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_is_the_one_of_its_home(name: str) -> None:
    found = getattr(exporter, name)
    assert found.__name__ == name
    assert getattr(importlib.import_module(found.__module__), name) is found


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="fold_all"):
        _ = exporter.fold_all  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", ["exporter", "korsbert"])
def test_importing_brings_in_no_package_but_itself(package: str) -> None:
    code = f"import json, sys; import {package}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert package in loaded
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


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert exporter.__version__ == importlib.metadata.version("korsbert")


def test_the_stub_that_type_checkers_read_is_shipped() -> None:
    stub = ast.parse(Path(exporter.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname for node in imports for alias in node.names} == {*exporter.__all__}


class TestKorsbert:
    """``import korsbert`` is another way to write ``import exporter``."""

    def test_it_has_the_names_and_the_version_of_exporter(self) -> None:
        assert korsbert.__all__ == exporter.__all__
        assert dir(korsbert) == dir(exporter)
        assert korsbert.__version__ == exporter.__version__

    @pytest.mark.parametrize("name", sorted(PUBLIC))
    def test_each_name_is_the_same_object(self, name: str) -> None:
        assert getattr(korsbert, name) is getattr(exporter, name)

    @pytest.mark.parametrize("name", ["errors", "lazy_loader", "fold_all"])
    def test_it_has_no_other_names(self, name: str) -> None:
        with pytest.raises(AttributeError, match=f"'korsbert' has no attribute '{name}'"):
            getattr(korsbert, name)


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
            ({"pooling": "attention"}, "`pooling` is 'attention'"),
        ],
    )
    def test_what_the_annotations_forbid_is_refused_before_any_work(self, arguments: dict[str, Any], told: str) -> None:
        with pytest.raises(exporter.InputError, match=told) as failure:
            exporter.export("demo", **arguments)
        assert str(failure.value.next_step).startswith("use one of ")
        if "device" in arguments:
            with pytest.raises(exporter.InputError, match=told):
                exporter.load("anywhere", device="tpu")

    def test_an_unknown_option_is_refused_with_the_nearest_name(self) -> None:
        with pytest.raises(exporter.InputError, match="there is no option 'precison'") as failure:
            exporter.export("demo", precison="fp16")
        assert failure.value.next_step == "did you mean 'precision'?"

    def test_options_are_given_once(self) -> None:
        with pytest.raises(exporter.InputError, match="options are given twice"):
            exporter.export("demo", exporter.ExportOptions(), precision="fp16")
