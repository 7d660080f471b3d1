"""The documents agree with the code: links, commands, Python names, tables."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import exporter
import exporter.errors
from exporter.bundle.manifest import FORMAT, Manifest
from exporter.cli.commands import COMMANDS
from exporter.cli.main import app
from exporter.errors import ExportError
from exporter.recipe import Gate, Gates, list_recipes, load_recipe
from tests.unit.test_layers import ALLOWED

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "benchmarks" / "README.md"])
GENERATED = DOCS / "reference" / "cli.md"  # `make docs` writes it
ADAPTERS = {path.stem for path in (ROOT / "exporter" / "_alias" / "korsbert").glob("[!_]*.py")}
GUIDES = [page for page in PAGES if page.name != "CHANGELOG.md" and page != GENERATED]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def table_rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table whose first line is ``heading``."""
    lines = iter(text.splitlines())
    assert heading in lines, f"no table begins with {heading}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if path and not re.match(r"https?:", path) and (linked := (page.parent / path).resolve()) != GENERATED:
            assert linked.exists(), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_every_link_into_the_repository_leads_to_a_file(page: Path) -> None:
    for path in re.findall(r"github\.com/korsbert/korsbert/(?:blob|tree)/main/([^)#\s]+)", text_of(page)):
        assert (ROOT / path).exists(), f"{name_of(page)}: {path}"


# --- commands and code -----------------------------------------------------------------------------------------------


def command_lines(page: Path) -> Iterator[str]:
    """Yield every line of a code block that calls korsbert, without comments."""
    for line in text_of(page).splitlines():
        found = re.match(r"(?:    |\s*- run: )?(korsbert(?:-export)? [^#]*)", line)
        if found and (line.startswith("    ") or "- run:" in line):
            yield found[1].strip()


LINES = sorted({(name_of(page), line) for page in GUIDES for line in command_lines(page)})


@pytest.mark.parametrize("line", [pytest.param(line, id=f"{page}: {line}") for page, line in LINES])
def test_every_command_is_accepted(line: str) -> None:
    program, *arguments = shlex.split(line)
    name = "export" if program == "korsbert-export" else arguments.pop(0)
    group: Any = typer.main.get_command(app)
    group.commands[name].make_context(name, arguments)  # an error if there is no such option


def test_the_documents_have_commands() -> None:
    shown = {shlex.split(line)[1] for _, line in LINES if line.startswith("korsbert ")}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_python_blocks_use_public_names(page: Path) -> None:
    for block in fenced(text_of(page), "python"):
        compile(block, name_of(page), "exec")
        for name in re.findall(r"\b(?:korsbert|exporter)\.(\w+)", block):
            assert name in {*exporter.__all__, "adapters", *ADAPTERS}, f"{name_of(page)}: {name}"


def test_the_recipe_that_is_shown_is_a_recipe(tmp_path: Path) -> None:
    (recipe,) = fenced(text_of(DOCS / "recipes.md"), "yaml")
    (tmp_path / "mine.yaml").write_text(recipe, encoding="utf-8")
    assert load_recipe(tmp_path / "mine.yaml").name == "my-model"


# --- tables ----------------------------------------------------------------------------------------------------------


def test_every_public_name_is_in_the_reference() -> None:
    shown = set(re.findall(r"^::: exporter\.[\w.]*?(\w+)$", text_of(DOCS / "reference" / "api.md"), re.MULTILINE))
    assert shown == set(exporter.__all__) - {"__version__"}


def test_the_exit_codes_are_those_of_the_errors() -> None:
    rows = table_rows(text_of(DOCS / "reference" / "api.md"), "| error | exit code of the command line |")
    shown = {name: int(code) for names, code in rows for name in re.findall(r"`(\w+)`", names)}
    assert shown == {error.__name__: error.exit_code for error in ExportError.__subclasses__()}


@pytest.mark.parametrize("page", ["getting-started.md", "ko/getting-started.md"])
def test_every_extra_is_in_the_table(page: str) -> None:
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    table = "".join(line for line in text_of(DOCS / page).splitlines(keepends=True) if line.startswith("|"))
    for extra in extras:
        assert f"`{extra}`" in table, extra


NO_SCORE = {"README.ko.md": "확인하지 못함"}


@pytest.mark.parametrize("page", ["README.md", "README.ko.md", "docs/recipes.md"])
def test_every_recipe_is_in_the_table(page: str) -> None:
    text = text_of(ROOT / page)
    for recipe in list_recipes():
        if recipe.name != "demo":
            expect = recipe.expect
            limit = "" if expect.max_seq_length is None else f", {expect.max_seq_length} tokens"
            row = f"{expect.dimension}-d{limit} | "
            score = f"{recipe.published[0].value:.2f}" if recipe.published else NO_SCORE.get(page, "none confirmed")
            lines = [line for line in text.splitlines() if line.startswith(f"| `{recipe.name}` |")]
            assert len(lines) == 1, f"{page}: the table of models needs one row for `{recipe.name}`, has {len(lines)}"
            (line,) = lines
            assert recipe.source in line
            assert row in line
            assert score in line


def test_the_gates_are_the_default_ones() -> None:
    names = [name for name in Gates.model_fields if name != "int8_dynamic"]  # it is in the column of int8
    heading = f"| default bound | {' | '.join(names)} |"
    columns = list(zip(*table_rows(text_of(DOCS / "gates-and-checks.md"), heading), strict=True))
    for name, cells in zip(names, columns[1:], strict=True):
        shown = {float(number) for cell in cells for number in re.findall(r"\d[\d.]*(?:e-\d+)?", _plain(cell))}
        gate: Gate = Gates().of(name)
        bounds = {bound for bound in gate.model_dump().values() if bound is not None}
        if name == "int8":
            bounds |= {bound for bound in Gates().int8_dynamic.model_dump().values() if bound is not None}
        assert shown | {0.0, 1.0} == bounds | {0.0}, name  # 0 and 1: widenings that are none


def _plain(cell: str) -> str:
    return cell.replace("100%", "1")


def test_the_number_of_the_bundle_format_is_in_the_table() -> None:
    rows = table_rows(text_of(DOCS / "reference" / "bundle-format.md"), "| format | written by | opened by |")
    assert [int(number) for number, *_ in rows] == list(range(1, FORMAT + 1))


def test_every_key_of_the_manifest_is_in_the_table() -> None:
    rows = table_rows(text_of(DOCS / "reference" / "bundle-format.md"), "| key | content |")
    assert [key for keys, _ in rows for key in re.findall(r"`(\w+)`", keys)] == list(Manifest.model_fields)


def test_the_layers_are_in_the_order_of_their_imports() -> None:
    rows = table_rows(text_of(ROOT / "CONTRIBUTING.md"), "| layer | purpose |")
    rooms = [room for names, *_ in rows for room in re.findall(r"`(\w+)(?:/|\.py)`", names)]
    assert sorted(rooms) == sorted(ALLOWED.keys() - {"__init__"})
    for position, room in enumerate(rooms):
        assert ALLOWED[room] <= set(rooms[position + 1 :]), room


def test_files_that_contributing_names_are_there() -> None:
    package = ROOT / "exporter"
    for path in re.findall(r"`((?:\w+/)*\w+\.(?:py|yaml|toml|txt|md))`", text_of(ROOT / "CONTRIBUTING.md")):
        places = (ROOT, package, package / "precisions", package / "graph", DOCS)
        examples = {"<name>.py"}
        assert path in examples or any((place / path).exists() for place in places), path
