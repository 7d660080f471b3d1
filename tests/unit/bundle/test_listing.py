"""``korsbert bundles``: what lies in a folder, by manifests alone, whatever is damaged there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from exporter.bundle import MANIFEST
from exporter.bundle.listing import list_bundles
from exporter.cli.listing import bundles_command
from exporter.errors import InputError


@pytest.fixture
def folder(twin_bundle: Path, tmp_path: Path) -> Path:
    """Bundles: a sound one, one with a file that was altered, one of a newer format; and what exports left."""
    for name in ("altered", "newer", "sound"):
        shutil.copytree(twin_bundle, tmp_path / "model" / name)
    (tmp_path / "model" / "altered" / "tokenizer.json").write_bytes(b"{}")
    manifest = tmp_path / "model" / "newer" / MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text(encoding="utf-8")), "format": 99}))
    for name in (".sound.staging-abc", ".sound.previous", "notes"):
        shutil.copytree(twin_bundle, tmp_path / "model" / name) if name != "notes" else (tmp_path / name).mkdir()
    for name in (".sound.search.json", ".sound.lock", "readme.txt"):
        (tmp_path / "model" / name).write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("check", [False, True])
def test_a_damaged_bundle_gets_the_reason_and_hides_no_other(folder: Path, check: bool) -> None:
    found = list_bundles(folder, check=check)
    assert [entry.folder.name for entry in found.entries] == ["altered", "newer", "sound"]
    altered, newer, sound = found.entries
    assert sound.bundle is not None
    assert sound.reason is None
    assert newer.bundle is None
    assert "bundle format 99 is newer" in str(newer.reason)
    assert ("tokenizer.json" in str(altered.reason)) is check  # manifests alone say nothing of it
    assert {path.name: kind.partition(" ")[0] for path, kind in found.left.items()} == {
        ".sound.staging-abc": "staging",
        ".sound.previous": "bundle",
        ".sound.search.json": "results",
        ".sound.lock": "lock",
    }


def test_a_bundle_is_a_folder_too(folder: Path) -> None:
    (entry,) = list_bundles(folder / "model" / "sound").entries
    assert entry.bundle is not None


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_bundles(tmp_path / "nowhere")


def test_the_command_tells_all_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundles_command(folder, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["hashes_checked"] is False
    sound = found["bundles"][2]
    assert (sound["precision"], sound["backend"], sound["validated"]) == ("fp32", "onnxruntime", True)
    assert sound["size_bytes"] > 0
    assert 0.99 < sound["min_cosine"] <= 1
    assert "format 99" in found["bundles"][1]["reason"]
    assert len(found["left"]) == 4
    bundles_command(folder)
    table = " ".join(capsys.readouterr().out.split())
    assert "use --check" in table
    assert "UNREADABLE" in table
