"""Adapters without their frameworks: importing one says in a sentence what to install."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

import exporter
from exporter.dependencies import EXTRAS, importing

PACKAGES = {
    "chroma": "chromadb",
    "haystack": "haystack",
    "langchain": "langchain_core",
    "llama_index": "llama_index",
    "sklearn": "sklearn",
}
ADAPTERS = Path(exporter.__file__).parent / "adapters"


@pytest.fixture(params=sorted(PACKAGES))
def adapter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an adapter that has not been imported."""
    name: str = request.param
    for module in (f"exporter.adapters.{name}", f"korsbert.{name}"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return name


@pytest.mark.parametrize("place", ["exporter.adapters", "korsbert"])
def test_a_framework_that_is_not_installed(adapter: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES[adapter]
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(exporter.MissingDependencyError, match=f"^{package} is not installed") as failure:
        importlib.import_module(f"{place}.{adapter}")
    assert failure.value.next_step == f"pip install 'korsbert[{EXTRAS[package]}]'"


def test_a_package_of_the_framework_that_is_not_installed() -> None:
    told = "no_such is not installed, which chromadb needs"
    with pytest.raises(exporter.MissingDependencyError, match=told) as failure, importing("chromadb"):
        raise ModuleNotFoundError("No module named 'no_such'", name="no_such.part")
    assert failure.value.next_step == "pip install 'korsbert[chroma]'"


def test_a_framework_that_is_installed_and_cannot_be_imported() -> None:
    told = "langchain_core is installed and cannot be imported: cannot import name 'Embeddings'"
    with pytest.raises(exporter.MissingDependencyError, match=told) as failure, importing("langchain_core"):
        raise ImportError("cannot import name 'Embeddings'")
    assert failure.value.next_step == "install langchain_core again"


def test_a_chroma_that_embeds_queries_as_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {name: ModuleType(name) for name in ("chromadb", "chromadb.api", "chromadb.api.types", "chromadb.utils")}
    modules["chromadb.utils.embedding_functions"] = ModuleType("chromadb.utils.embedding_functions")
    for name in ("Documents", "EmbeddingFunction", "Embeddings", "Space"):
        setattr(modules["chromadb.api.types"], name, type(name, (), {}))
    modules["chromadb.utils.embedding_functions"].register_embedding_function = None  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "exporter.adapters.chroma", raising=False)
    with pytest.raises(exporter.MissingDependencyError, match="chromadb is too old") as failure:
        importlib.import_module("exporter.adapters.chroma")
    assert failure.value.next_step == "pip install --upgrade 'korsbert[chroma]'"


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_the_other_name_has_every_public_class(name: str) -> None:
    def body(path: Path) -> list[ast.stmt]:
        return ast.parse(path.read_text(encoding="utf-8")).body

    classes = {
        node.name
        for node in body(ADAPTERS / f"{name}.py")
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }
    alias = body(ADAPTERS.parent / "_alias" / "korsbert" / f"{name}.py")
    (imported,) = (node for node in alias if isinstance(node, ast.ImportFrom))
    assert imported.module == f"exporter.adapters.{name}"
    assert {part.name for part in imported.names} == classes
