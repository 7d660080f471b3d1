"""Messages of the library name options; the command line prints the flags of the command that runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import exporter
from exporter.cli.flags import Command, with_flags
from exporter.errors import EngineError, HubError

FLAGS = {
    **{"out": "--out", "device": "--device", "int8_dynamic": "--int8-dynamic", "version": "--force-version"},
    **{"resume": "--resume", "resume=False": "--no-resume"},
}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("choose another `out`", "choose another --out"),
        ("use `device=cpu`, or another `out`", "use --device cpu, or another --out"),
        ("`version=2` replaces it", "--force-version 2 replaces it"),
        ("use `out=my models`", "use --out 'my models'"),
        # The values of `precision` are flags of their own.
        ("use `precision=int8_dynamic`", "use --int8-dynamic"),
        # An option for yes or no.
        ("use `resume=False` to begin again", "use --no-resume to begin again"),
        ("`resume` is off", "--resume is off"),
        # No option of this command.
        ("leave out `pooling`", "leave out pooling"),
        ("export it with `backend=openvino`", "export it with backend=openvino"),
        # Neither a name nor name=value.
        ("accept its terms, then `hf auth login`", "accept its terms, then `hf auth login`"),
        ("no device, out of memory", "no device, out of memory"),
        ("`", "`"),
    ],
)
def test_options_become_flags(message: str, shown: str) -> None:
    assert with_flags(message, FLAGS) == shown


def test_the_flag_for_no_of_the_running_command() -> None:
    app = typer.Typer()

    @app.command(cls=Command)
    def one(go_on: Annotated[bool, typer.Option("--go-on/--no-go-on")] = True) -> None:
        raise EngineError(f"{go_on}: full", next_step="use `go_on=False`")

    assert CliRunner().invoke(app, []).stderr == "error: True: full\n  next: use --no-go-on\n"


def test_an_error_is_printed_with_the_flags_of_the_running_command() -> None:
    app = typer.Typer()

    @app.command("one", cls=Command)
    def one(place: Annotated[str, typer.Option("--folder")] = "here") -> None:
        raise EngineError(f"{place}: full", next_step="choose another `place`, or use `number=2`")

    @app.command("two", cls=Command)
    def two(number: Annotated[int, typer.Option("--number")] = 1) -> None:
        raise HubError(f"no answer {number}", next_step="choose another `place`, or use `number=2`")

    done = CliRunner().invoke(app, ["one"])
    assert done.exit_code == 2
    assert done.stderr == "error: here: full\n  next: choose another --folder, or use number=2\n"
    done = CliRunner().invoke(app, ["two"])
    assert done.exit_code == 3
    assert done.stderr == "error: no answer 1\n  next: choose another place, or use --number 2\n"


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
PACKAGE = Path(exporter.__file__).parent
OTHER_PROGRAMS = {
    "adapters/chroma.py": {"--upgrade"},
    "engines/onnxruntime.py": {"--force-reinstall"},
    "bundle/snippets.py": {"--local-dir"},
    "serving/triton/deployment.py": {"--model-repository", "--model-control-mode", "--disable-auto-complete-config"}
    | {"--repository-poll-secs", "--cache-config", "--http-restricted-api", "--grpc-restricted-protocol"}
    | {"--no-cache-dir", "--no-deps", "--target", "--wheel-dir"}
    | {"--interval", "--timeout", "--start-period", "--retries"},
    "report/svg.py": {"--{...}"},  # variables of CSS
    "serving/triton/lint/engine.py": {"--query-gpu", "--format"},
    "serving/triton/readme.py": {"--build", "--build-arg", "--target", "--no-deps", "--wheel-dir"}
    | {"--concurrency-range", "--shape", "--string-data", "--from-literal", "--install", "--values"}
    | {"--image-version"},  # of korsbert: a README's readers run its commands in a shell
}
"""Flags of hf, tritonserver, docker, kubectl, helm, perf_analyzer, pip and nvidia-smi, by file."""


def named_flags(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from FLAG.findall(node.value)
        elif isinstance(node, ast.JoinedStr):
            literals = (part.value for part in node.values if isinstance(part, ast.Constant))
            yield from ("--{...}" for literal in literals if str(literal).endswith("--"))


def test_only_the_command_line_names_its_flags() -> None:
    folders = {PACKAGE / "cli", PACKAGE / "recipes"}  # recipes: in a wheel, data
    paths = [path for path in PACKAGE.rglob("*.py") if not folders & set(path.parents)]
    found = {path.relative_to(PACKAGE).as_posix(): set(named_flags(path)) for path in paths}
    assert {name: flags for name, flags in found.items() if flags} == OTHER_PROGRAMS
