"""Standard streams that are closed, or of an encoding that lacks the characters; and `python -m korsbert`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS
from tests.support.process import run_program

KORSBERT = SCRIPTS / "korsbert"


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_error(redirection: str) -> None:
    done = run_program(["sh", "-c", f'"$0" list {redirection}', KORSBERT])
    assert (done.status, done.stderr) == (0, "")
    assert bool(done.stdout) is (">&-" not in redirection.replace("2>&-", ""))


def test_a_refusal_keeps_its_exit_code_where_nobody_can_read_it() -> None:
    assert run_program(["sh", "-c", '"$0" show /no/such/bundle 2>&-', KORSBERT]).status == 2


def test_json_is_escaped_where_the_encoding_lacks_its_characters(demo_fp16: Path, tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "HOME": str(tmp_path)}
    done = run_program([KORSBERT, "show", demo_fp16, "--json"], environment=environment)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.isascii()
    plain = run_program([KORSBERT, "show", demo_fp16, "--json"])
    assert not plain.stdout.isascii()
    assert json.loads(done.stdout) == json.loads(plain.stdout)


def test_the_package_runs_as_the_command_does() -> None:
    command, module = (run_program([*start, "--version"]) for start in ([KORSBERT], [sys.executable, "-m", "korsbert"]))
    assert module == command
    assert command.status == 0
    assert command.stdout.startswith("korsbert ")
