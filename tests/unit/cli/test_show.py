"""``korsbert show``: what it tells of a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from exporter.cli.bundles import show_command
from exporter.validator import Check
from tests.support.manifests import reseal


def test_a_check_that_compared_nothing_is_not_called_checked(
    twin_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))
    report = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    report["checks"] = [Check("graph", "all operators").to_dict(), Check.skipped("lookup", "no table").to_dict()]
    (bundle / "parity.json").write_text(json.dumps(report), encoding="utf-8")
    reseal(bundle)
    show_command(bundle)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "checked graph: all operators" in lines
    assert "skipped lookup: not compared: no table" in lines
