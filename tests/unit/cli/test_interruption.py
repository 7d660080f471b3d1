"""Ctrl-C: how to go on is said where the command has kept results, and only there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import typer

from exporter.cli.flags import Command
from exporter.cli.interruption import resumable
from exporter.cli.main import _run
from exporter.stages import Stages


@pytest.mark.parametrize("there", [True, False])
def test_where_the_results_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, there: bool
) -> None:
    monkeypatch.setattr("sys.argv", ["korsbert"])
    monkeypatch.setattr(importlib.import_module("exporter.cli.main"), "_exit_on_signals", lambda: None)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    stages = Stages(keeps=[tmp_path / "search.json"])

    @app.command(cls=Command)
    def command() -> None:
        with resumable(stages.kept):
            if there:
                stages.keeps[0].write_text("{}", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        _run(app)
    assert stop.value.code == 130
    place = tmp_path / "search.json"
    note = f"; run the same command to resume: the results so far are in {place}" if there else ""
    assert capsys.readouterr().err == f"interrupted{note}\n"
