"""Tables hold text of strangers' manifests, and a terminal would obey its control characters."""

from __future__ import annotations

import pytest

from exporter.cli.output import print_table


def test_a_table_escapes_control_characters_and_keeps_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("", "bun\x1bdle"), [("decision", "fine\x1b[3A\x1b[2K\nsecond line")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "bun\\x1bdle" in out
    lines = [line.rstrip() for line in out.splitlines()]
    assert any(line.endswith("fine\\x1b[3A\\x1b[2K") for line in lines)
    assert any(line.endswith("second line") for line in lines)
