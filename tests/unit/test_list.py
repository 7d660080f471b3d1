"""The table of ``korsbert list`` at the widths of terminals and in a pipe."""

from __future__ import annotations

import pytest

from exporter.cli import bundles, output
from exporter.recipe import list_recipes


def table_at(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    for module in (bundles, output):
        monkeypatch.setattr(module, "table_width", lambda **_: width)
    bundles.list_command()
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [60, 72, 80, 140, 160])
def test_no_name_is_broken_and_no_line_is_too_long(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table_at(width, monkeypatch, capsys)
    assert max(map(len, lines)) <= width
    first = {line.split()[0] for line in lines if line[1:2].strip()}
    assert first >= {recipe.name for recipe in list_recipes()}
    assert not [line for line in lines if line.rstrip().endswith("…")]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_it_shows_size_license_languages_and_what_was_exported(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table_at(width, monkeypatch, capsys)
    (row,) = [number for number, line in enumerate(lines) if "embeddinggemma-300m " in line]
    assert {"308M", "gemma", "twin"} < set(lines[row].split())
    assert "many" in " ".join(lines[row : row + 2])  # it wraps where there is little room
    (demo,) = [line.split() for line in lines if line.split()[:1] == ["demo"]]
    assert {"3M", "Apache-2.0", "weights"} < set(demo)


def test_a_pipe_gets_the_published_scores(capsys: pytest.CaptureFixture[str]) -> None:
    bundles.list_command()
    table = capsys.readouterr().out
    assert "KorSTS test 85.60" in table
    assert "none confirmed" in table
