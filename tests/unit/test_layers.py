"""Arrows run one way: what may import what, in one table, held against the source.

    cli -> api -> pipeline -> {folding, precisions -> quantization -> validator, backends, benchmark}
        -> {graph, checkpoint, bundle, recipe} -> {tokens, hub, dependencies} -> errors

An import inside a function or under ``TYPE_CHECKING`` is an arrow like any other.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter
from exporter.backends import BACKENDS, backend_of, device_of
from exporter.graph import Graph
from exporter.passes import FOLDING, TARGETS, passes_for
from exporter.precisions import PRECISIONS, QUANTIZATIONS
from exporter.recipe import Gates, Precisions

PACKAGE = Path(exporter.__file__).parent

# Room -> the rooms it may import. Rooms further down know nothing of those further up.
ALLOWED: dict[str, set[str]] = {
    "cli": {
        "api",
        "backends",
        "benchmark",
        "bundle",
        "cli_output",
        "cli_ship",
        "cli_sign",
        "dependencies",
        "errors",
        "floor",
        "pipeline",
        "recipe",
        "signing",
    },
    "cli_ship": {"bundle", "cli_output", "cli_sign", "dependencies", "errors", "floor", "serving"},
    "cli_sign": {"bundle", "cli_output", "errors", "signing"},
    "cli_output": set(),
    "__init__": {"api", "bundle", "encoder", "errors", "recipe"},
    "api": {"backends", "bundle", "dependencies", "encoder", "errors", "floor", "pipeline", "recipe", "validator"},
    "pipeline": {
        "backends",
        "bundle",
        "calibration",
        "checkpoint",
        "dependencies",
        "encoder",
        "errors",
        "floor",
        "folding",
        "graph",
        "passes",
        "precisions",
        "proof",
        "provenance",
        "publication",
        "quantization",
        "recipe",
        "tokens",
        "validator",
    },
    "proof": {
        "backends",
        "checkpoint",
        "encoder",
        "errors",
        "graph",
        "machine",
        "passes",
        "provenance",
        "recipe",
        "validator",
    },
    "publication": {
        "backends",
        "bundle",
        "calibration",
        "checkpoint",
        "graph",
        "machine",
        "model_card",
        "quantization",
        "recipe",
        "validator",
    },
    # A bundle -> numbers.
    "benchmark": {"backends", "bundle", "calibration", "checkpoint", "dependencies", "encoder", "errors", "machine"},
    "model_card": {"bundle", "validator"},
    # A bundle -> a server's folder; a running server -> verdicts.
    "serving": {
        "bundle",
        "checkpoint",
        "dependencies",
        "errors",
        "floor",
        "graph_contract",
        "recipe",
        "signing",
        "tokens",
        "validator",
    },
    # A bundle and bounds from elsewhere -> what is wrong with the bundle's own.
    "floor": {"bundle", "errors", "recipe"},
    # Graph -> Graph, Graph -> Engine, reference and candidate -> report.
    "folding": {"checkpoint", "errors", "graph", "graph_contract", "passes"},
    "precisions": {"calibration", "dependencies", "errors", "graph", "passes", "quantization"},
    "quantization": {
        "calibration",
        "dependencies",
        "errors",
        "graph",
        "graph_contract",
        "machine",
        "passes",
        "recipe",
        "tokens",
        "validator",
    },
    "provenance": {"checkpoint", "dependencies", "errors", "graph_contract", "validator"},
    "validator": {
        "backends",
        "calibration",
        "checkpoint",
        "dependencies",
        "errors",
        "graph_contract",
        "recipe",
        "tokens",
    },
    "passes": {"errors", "graph_contract"},
    # The nouns. A bundle opens an engine and an encoder: these are what it is made of, and need no torch.
    "bundle": {"backends", "dependencies", "encoder", "errors", "recipe", "signing"},
    "encoder": {"backends", "errors", "tokens"},
    "backends": {"dependencies", "errors", "graph", "graph_contract", "private_file", "recipe"},
    "checkpoint": {
        "declared_sizes",
        "errors",
        "hub",
        "layout",
        "recipe",
        "snapshot",
        "tokenizer_anchor",
        "tokens",
        "weights",
    },
    "snapshot": {"configuration", "errors", "layout"},
    "layout": {"configuration", "errors"},
    "configuration": {"errors"},
    "tokenizer_anchor": {"errors"},
    "declared_sizes": {"errors", "weights"},
    "weights": {"errors"},
    "calibration": {"errors", "tokens"},
    "graph": {"errors", "recipe"},
    "recipe": {"errors"},
    # The ground.
    "signing": {"dependencies", "errors", "private_file"},
    "hub": {"errors"},
    "dependencies": {"errors"},
    "tokens": set(),
    "machine": set(),
    "private_file": set(),
    "graph_contract": set(),
    "errors": set(),
}

# What a bundle is served with: none of these may import torch, transformers, onnx or scipy, wherever in the file.
RUNTIME = (
    "__init__",
    "cli",
    "api",
    "benchmark",
    "cli_output",
    "cli_ship",
    "cli_sign",
    "serving",
    "bundle",
    "floor",
    "private_file",
    "signing",
    "calibration",
    "machine",
    "encoder",
    "backends",
    "recipe",
    "hub",
    "dependencies",
    "tokens",
    "errors",
)
EXPORT_ONLY = {"torch", "transformers", "sentence_transformers", "onnx", "onnx_ir", "onnxscript", "optimum", "scipy"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    outside = {PACKAGE / "recipes", PACKAGE / "_alias"}  # data in a wheel; the package `korsbert`, above all rooms
    return sorted(path for path in PACKAGE.rglob("*.py") if outside.isdisjoint(path.parents))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of everything a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            # "from exporter import pipeline" imports a module, "from exporter.recipe import Recipe" a name of one.
            for alias in node.names:
                yield (f"exporter.{alias.name}" if node.module == "exporter" else str(node.module)), node.lineno


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_run_one_way(path: Path) -> None:
    room = room_of(path)
    assert room in ALLOWED, f"{room} is a new room: say in ALLOWED what it may import"
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] == "exporter" and len(parts) > 1 and parts[1] != room:
            assert parts[1] in ALLOWED[room], f"{path}:{line}: {room} may not import {parts[1]}"


def test_the_table_has_no_circle() -> None:
    left = dict(ALLOWED)
    while left:
        ground = [room for room, below in left.items() if not below & left.keys()]
        assert ground, f"a circle among {sorted(left)}"
        for room in ground:
            del left[room]


def test_the_table_names_rooms_only() -> None:
    assert {below for allowed in ALLOWED.values() for below in allowed} <= ALLOWED.keys()
    assert {room_of(path) for path in modules()} <= ALLOWED.keys()


@pytest.mark.parametrize("room", RUNTIME)
def test_what_serves_a_bundle_imports_nothing_of_the_export(room: str) -> None:
    for path in modules():
        if room_of(path) != room:
            continue
        names = {name.partition(".")[0] for name, _ in imported(path)}
        assert names & EXPORT_ONLY == set(), path


def test_every_file_of_a_table_is_in_it() -> None:
    # "One file and one line in its table": helpers beside them are not called like a backend or a precision.
    helpers = {"__init__", "retype", "range_audit"}
    helpers |= {"cuda", "engine_summary", "external_data", "padding", "profiles", "tensorrt_runner"}
    for table, folder in ((BACKENDS, "backends"), (PRECISIONS | QUANTIZATIONS, "precisions")):
        files = {path.stem for path in (PACKAGE / folder).glob("*.py")} - helpers
        assert files == {module.rpartition(".")[2].partition(":")[0] for module in table.values()}


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_exists(name: str) -> None:
    found = backend_of(name)
    assert list(inspect.signature(found.check_build).parameters) == ["precision", "device"]
    assert list(inspect.signature(found.check).parameters) == ["precision", "device"]
    assert list(inspect.signature(found.missing_operators).parameters) == []
    assert list(inspect.signature(found.build).parameters) == ["graph", "shapes", "folder", "options"]
    assert list(inspect.signature(found.open).parameters) == ["engine", "files", "device", "threads"]


@pytest.mark.parametrize(("name", "module"), PRECISIONS.items())
def test_every_precision_exists(name: str, module: str) -> None:
    found = importlib.import_module(module)
    assert list(inspect.signature(found.convert).parameters) == ["graph", "batches", "keep_fp32"]
    assert inspect.signature(found.convert).return_annotation in {"Graph", Graph}
    assert name in Gates.model_fields
    assert name == "fp32" or name in Precisions.model_fields


@pytest.mark.parametrize(("name", "module"), QUANTIZATIONS.items())
def test_every_quantization_exists(name: str, module: str) -> None:
    found = importlib.import_module(module)
    assert list(inspect.signature(found.convert).parameters) == ["plan", "assignment", "batches"]
    assert inspect.signature(found.convert).return_annotation in {"Graph", Graph}
    assert name in Gates.model_fields
    assert name in Precisions.model_fields


@pytest.mark.parametrize("rewrite", [*FOLDING, *(rewrite for passes in TARGETS.values() for rewrite in passes)])
def test_every_pass_has_a_file_and_returns_a_count(rewrite: object) -> None:
    assert inspect.isfunction(rewrite)
    assert list(inspect.signature(rewrite).parameters) == ["model"]
    assert inspect.signature(rewrite).return_annotation in {"int", int}
    assert (rewrite.__doc__ or "").strip()
    assert rewrite.__module__ in {f"exporter.passes.{rewrite.__name__}", "exporter.passes"}


def test_the_tables_of_targets_and_backends_agree() -> None:
    for backend in BACKENDS:
        for precision in PRECISIONS | QUANTIZATIONS:
            assert isinstance(passes_for(backend, device_of(backend, "cpu"), precision), tuple)
            if backend != "openvino":
                assert isinstance(passes_for(backend, "cuda", precision), tuple)
    assert PRECISIONS.keys() | QUANTIZATIONS.keys() == Gates.model_fields.keys()
