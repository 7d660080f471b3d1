"""Help pages: groups, examples that are accepted, and lines that fit without a broken word."""

from __future__ import annotations

import os
import re
import shlex
from typing import Any
from unittest import mock

import pytest
import typer.main
from typer.testing import CliRunner

from exporter.cli import embed, export
from exporter.cli.commands import COMMANDS, load
from exporter.cli.main import app
from exporter.corpus.options import EmbedOptions
from exporter.options import ExportOptions

GROUP: Any = typer.main.get_command(app)


def page(*name: str, columns: int = 80) -> str:
    context = GROUP.make_context("korsbert", ["--"], resilient_parsing=True)
    if name:
        context = GROUP.commands[name[0]].make_context(name[0], [], parent=context, resilient_parsing=True)
    with mock.patch.dict(os.environ, COLUMNS=str(columns)):
        return str(context.get_help())


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_page_fits_and_breaks_no_word(name: str, columns: int) -> None:
    shown = page(*name.split(), columns=columns)
    assert max(len(line) for line in shown.splitlines()) <= columns
    command = GROUP.commands[name] if name else GROUP
    context = typer.Context(command, info_name=f"korsbert {name}".strip())
    wanted = {
        word for record in (param.get_help_record(context) for param in command.params) for word in record[1].split()
    }
    assert wanted | set(command.help.split()) <= set(shown.split())


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_both_options_for_help(name: str) -> None:
    for flag in ("--help", "-h"):
        done = CliRunner().invoke(app, [*name.split(), flag])
        assert (done.exit_code, done.stderr) == (0, "")
        assert "  -h, --help  " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_accepted(name: str) -> None:
    text = page(name, columns=60).partition("\nExamples:\n")[2]
    lines = [line.strip() for line in re.sub(r"\\\n +", "", text).splitlines() if line.strip()]
    assert len(lines) in (2, 3)
    for line in lines:
        program, command, *arguments = shlex.split(line.partition(" < ")[0])
        assert (program, command) == ("korsbert", name)
        GROUP.commands[name].make_context(name, arguments)  # an error if there is no such option


def test_the_list_of_commands_does_not_cut_what_they_do() -> None:
    shown = page(columns=60)
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.short)}$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("groups", "options"), [(export._GROUPS, ExportOptions), (embed._GROUPS, EmbedOptions)], ids=["export", "embed"]
)
def test_every_field_is_in_one_group(groups: dict[str, tuple[str, ...]], options: Any) -> None:
    grouped = [name for names in groups.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(options.model_fields) - {"precision"}


def test_groups_of_an_export() -> None:
    titles = re.findall(r"^(\w.*):$", page("export"), re.MULTILINE)
    assert titles == [
        *("Options", "Precision", "Engine", "Bundle", "Checkpoint", "Text", "TensorRT", "Output", "Examples"),
    ]
    assert re.search(r"\n  --fp32 +float32, the default\.\n  --fp16 ", page("export"))


def test_korsbert_export_is_the_same_command() -> None:
    assert [param.name for param in load("export").params] == [param.name for param in GROUP.commands["export"].params]


def test_a_command_that_is_not_there_gets_the_nearest() -> None:
    done = CliRunner().invoke(app, ["exprot"])
    assert done.exit_code == 2
    assert "No such command 'exprot'. Did you mean 'export'?" in done.stderr
