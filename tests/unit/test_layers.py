"""Imports run one way: which room may import which, in one table, compared with the source.

    cli -> api -> pipeline -> {acceptance, publication, serving, benchmark} -> precisions -> validator -> engines
        -> graph -> checkpoint -> runtime -> {recipe, dependencies, machine} -> errors

An import inside a function or under ``TYPE_CHECKING`` counts like any other.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter
from exporter.cli.export import _PRECISIONS as HELP_TEXTS
from exporter.engines import BACKENDS, backend_of
from exporter.engines.openvino import HINTS
from exporter.errors import BuildError
from exporter.graph.passes import FOLDING, TARGETS, passes_for
from exporter.graph.passes.lowering import LOWERING
from exporter.precisions import PRECISIONS, Conversion, precision_of
from exporter.recipe import Gates, Precisions
from exporter.targets import Backend, Device, Precision, Target
from exporter.validator.provenance.weights import FLOAT_TYPES
from exporter.validator.reference import FORMATS

PACKAGE = Path(exporter.__file__).parent

# Room (a folder or a file of exporter/) -> the rooms it may import. There is no circle.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "cli": {
        "acceptance",
        "api",
        "benchmark",
        "bundle",
        "comparison",
        "corpus",
        "dependencies",
        "doctor",
        "errors",
        "files",
        "golden",
        "machine",
        "options",
        "publication",
        "recipe",
        "report",
        "runtime",
        "serving",
        "stages",
        "targets",
        "tuning",
        "validation",
        "validator",
    },
    "api": {
        "acceptance",
        "bundle",
        "comparison",
        "corpus",
        "dependencies",
        "errors",
        "golden",
        "options",
        "pipeline",
        "publication",
        "recipe",
        "runtime",
        "serving",
        "stages",
        "targets",
        "tuning",
        "validation",
        "validator",
    },
    "tuning": {
        "acceptance",
        "benchmark",
        "bundle",
        "calibration",
        "checkpoint",
        "engines",
        "errors",
        "machine",
        "options",
        "pipeline",
        "publication",
        "recipe",
        "serving",
        "stages",
        "targets",
    },
    "adapters": {"api", "bundle", "dependencies", "errors", "runtime"},
    "comparison": {
        "benchmark",
        "bundle",
        "calibration",
        "corpus",
        "errors",
        "files",
        "hub",
        "machine",
        "recipe",
        "runtime",
        "serving",
        "targets",
        "validator",
    },
    "corpus": {
        "bundle",
        "dependencies",
        "engines",
        "errors",
        "files",
        "machine",
        "options",
        "recipe",
        "runtime",
        "targets",
        "version",
    },
    "pipeline": {
        "acceptance",
        "bundle",
        "calibration",
        "checkpoint",
        "engines",
        "errors",
        "graph",
        "options",
        "precisions",
        "publication",
        "recipe",
        "runtime",
        "stages",
        "targets",
        "validator",
    },
    "acceptance": {
        "bundle",
        "calibration",
        "checkpoint",
        "engines",
        "errors",
        "options",
        "precisions",
        "recipe",
        "targets",
        "validator",
    },
    "doctor": {"dependencies", "engines", "errors", "machine", "precisions", "targets"},
    "validation": {
        "bundle",
        "checkpoint",
        "engines",
        "errors",
        "graph",
        "stages",
        "targets",
        "validator",
    },
    "golden": {
        "bundle",
        "checkpoint",
        "errors",
        "files",
        "machine",
        "recipe",
        "runtime",
        "stages",
        "targets",
        "validator",
    },
    "pytest_plugin": {"api", "validator"},
    "publication": {
        "bundle",
        "checkpoint",
        "engines",
        "errors",
        "graph",
        "machine",
        "precisions",
        "recipe",
        "report",
        "runtime",
        "targets",
        "validator",
    },
    "serving": {
        "bundle",
        "checkpoint",
        "dependencies",
        "errors",
        "files",
        "golden",
        "machine",
        "recipe",
        "runtime",
        "targets",
        "validator",
    },
    "benchmark": {
        "bundle",
        "calibration",
        "checkpoint",
        "dependencies",
        "errors",
        "machine",
        "runtime",
        "stages",
    },
    "precisions": {
        "bundle",
        "calibration",
        "dependencies",
        "errors",
        "graph",
        "machine",
        "recipe",
        "report",
        "runtime",
        "stages",
        "targets",
        "validator",
    },
    "report": {"dependencies", "errors"},
    "bundle": {"dependencies", "engines", "errors", "files", "hub", "recipe", "runtime", "targets", "validator"},
    "validator": {
        "checkpoint",
        "dependencies",
        "engines",
        "errors",
        "files",
        "graph",
        "machine",
        "recipe",
        "runtime",
        "targets",
    },
    "engines": {"dependencies", "errors", "graph", "recipe", "runtime", "targets"},
    "graph": {"checkpoint", "errors", "runtime", "targets"},
    "checkpoint": {"dependencies", "errors", "files", "hub", "recipe", "runtime"},
    "calibration": {"errors", "files", "runtime"},
    "options": {"errors", "recipe", "targets"},
    "runtime": {"dependencies", "errors"},
    "recipe": {"errors", "files", "hub"},
    "hub": {"errors"},
    "dependencies": {"errors"},
    "files": set(),
    "machine": set(),
    "stages": {"memory"},
    "memory": set(),
    "targets": set(),
    "version": set(),
    "errors": set(),
}

# What a bundle is served with: none of these may import torch, transformers, onnx or scipy, wherever in the file.
RUNTIME = (
    "__init__",
    "adapters",
    "api",
    "benchmark",
    "bundle",
    "calibration",
    "cli",
    "comparison",
    "dependencies",
    "engines",
    "errors",
    "files",
    "hub",
    "machine",
    "options",
    "recipe",
    "runtime",
    "serving",
    "stages",
    "targets",
    "version",
)
EXPORT_ONLY = {"torch", "transformers", "sentence_transformers", "onnx", "onnx_ir", "onnxscript", "optimum", "scipy"}

TENSORS = PACKAGE / "runtime" / "tensors.py"  # what returns tensors to whoever asks for them, and imports torch then


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


def test_the_table_has_no_arrow_that_nothing_needs() -> None:
    needed: dict[str, set[str]] = {room: set() for room in ALLOWED}
    for path in modules():
        needed[room_of(path)] |= {name.split(".")[1] for name, _ in imported(path) if name.startswith("exporter.")}
    idle = {room: sorted(below - needed[room]) for room, below in ALLOWED.items() if below - needed[room]}
    assert not idle


@pytest.mark.parametrize("room", RUNTIME)
def test_what_serves_a_bundle_imports_nothing_of_the_export(room: str) -> None:
    for path in modules():
        if room_of(path) != room:
            continue
        names = {name.partition(".")[0] for name, _ in imported(path)}
        allowed = {"torch"} if path == TENSORS else set()
        assert names & EXPORT_ONLY == allowed, path


# Files beside the modules of a table that are no backend, precision or pass themselves.
HELPERS = {
    "engines": {"building", "cuda", "cuda_graphs", "external_data", "facts", "padding"},
    "precisions": {"casting", "range_audit", "retype"},
    "graph/passes": {"lowering", "name_nodes"},
}


@pytest.mark.parametrize(
    ("folder", "table", "registered"),
    [
        ("engines", "BACKENDS", {module.split(".")[2].partition(":")[0] for module in BACKENDS.values()}),
        ("precisions", "PRECISIONS", {module.split(".")[2] for module in PRECISIONS.values()}),
        (
            "graph/passes",
            "FOLDING, TARGETS or LOWERING",
            {
                rewrite.__name__
                for passes in (FOLDING, *TARGETS.values(), [of for _, of in LOWERING])
                for rewrite in passes
            }
            - {"remove_unused", "store_once"},
        ),
    ],
    ids=["engines", "precisions", "passes"],
)
def test_every_file_of_a_table_is_in_it(folder: str, table: str, registered: set[str]) -> None:
    files = {path.stem for path in (PACKAGE / folder).iterdir() if not path.name.startswith("__")}
    unknown = files - registered - HELPERS[folder]
    assert not unknown, f"{folder}: {sorted(unknown)} is neither in {table} nor in HELPERS of this test"
    assert registered <= files, f"{table} names {sorted(registered - files)}, which {folder} does not have"


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_exists(name: str) -> None:
    found = backend_of(name)
    assert list(inspect.signature(found.check_build).parameters) == ["precision", "device"]
    assert list(inspect.signature(found.check).parameters) == ["precision", "device"]
    assert list(inspect.signature(found.missing_operators).parameters) == []
    assert list(inspect.signature(found.build).parameters) == ["graph", "shapes", "folder", "options"]
    assert list(inspect.signature(found.open).parameters) == ["engine", "files", "device", "threads", "spinning"]


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_exists(name: Precision) -> None:
    found = precision_of(name)
    assert list(inspect.signature(found.check).parameters) == ["target"]
    assert list(inspect.signature(found.prepare).parameters) == ["request"]
    assert inspect.signature(found.prepare).return_annotation in {"Conversion", Conversion}


@pytest.mark.parametrize("name", Precision)
def test_every_precision_is_in_every_table(name: Precision) -> None:
    tables = {
        "PRECISIONS in precisions/__init__.py": name in PRECISIONS,
        "Gates in recipe/gates.py": name in Gates.model_fields,
        "Precisions in recipe/schema.py": name is Precision.FP32 or name in Precisions.model_fields,
        "_PRECISIONS in cli/export.py": name in HELP_TEXTS,
        "FLOAT_TYPES in validator/provenance/weights.py": name in FLOAT_TYPES,
        "FORMATS in validator/reference.py": name in {*FORMATS, Precision.FP32}
        or Gates().of(name).max_format_ratio is None
        if name in Gates.model_fields
        else True,
        "HINTS in engines/openvino.py": name in HINTS
        or (name in PRECISIONS and not _can_be_built(name, Backend.OPENVINO)),
    }
    missing = [table for table, has in tables.items() if not has]
    assert not missing, f"{name} is missing in {'; '.join(missing)}"


def _can_be_built(name: Precision, backend: Backend) -> bool:
    try:
        precision_of(name).check(Target(name, backend, Device.CPU))
    except BuildError:
        return False
    return True


@pytest.mark.parametrize("rewrite", [*FOLDING, *(rewrite for passes in TARGETS.values() for rewrite in passes)])
def test_every_pass_has_a_file_and_returns_a_count(rewrite: object) -> None:
    assert inspect.isfunction(rewrite)
    assert list(inspect.signature(rewrite).parameters) == ["model"]
    assert inspect.signature(rewrite).return_annotation in {"int", int}
    assert (rewrite.__doc__ or "").strip()
    assert rewrite.__module__ in {f"exporter.graph.passes.{rewrite.__name__}", "exporter.graph.passes"}


def test_the_tables_of_targets_and_backends_agree() -> None:
    for backend in BACKENDS:
        for precision in PRECISIONS:
            assert isinstance(passes_for(backend, backend.device(Device.CPU), precision), tuple)
            if backend != "openvino":
                assert isinstance(passes_for(backend, "cuda", precision), tuple)
    assert set(BACKENDS) == set(Backend)
