"""Every older bundle format is opened, or the error says which version opens it and how to get a bundle of this one.

``tests/data/bundles`` has one bundle of every past format. That of format 1 is a manifest without files: no released
version opens format 1.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from exporter.bundle import MANIFEST, Bundle
from exporter.bundle.manifest import FORMAT, read_manifest
from exporter.errors import BundleError

BUNDLES = Path(__file__).parents[1] / "data" / "bundles"


def write(folder: Path, **manifest: Any) -> Path:
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def test_there_is_a_bundle_of_every_past_format() -> None:
    assert {path.name for path in BUNDLES.iterdir()} == {f"format-{number}" for number in range(1, FORMAT)}


@pytest.mark.parametrize("read", [Bundle.open, Bundle.open_manifest, read_manifest])
def test_format_1_is_refused_with_the_checkpoint_to_export_again(read: Any) -> None:
    folder = BUNDLES / "format-1"
    with pytest.raises(BundleError) as failure:
        read(folder)
    assert failure.value.message == (
        f"{folder / MANIFEST}: bundle format 1 is opened by development versions of korsbert before 0.1.0; "
        "this version opens format 2"
    )
    assert failure.value.next_step == (
        "export the checkpoint 'jhgan/ko-sbert-sts' again, revision '0123456789abcdef0123456789abcdef01234567'"
    )
    assert failure.value.exit_code == 2


def test_a_newer_format_asks_for_a_newer_korsbert(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bundle format 3 is newer than format 2, which this version") as failure:
        Bundle.open(write(tmp_path, format=3, source={"checkpoint": "./my-model", "commit": None}))
    assert failure.value.next_step == "upgrade korsbert, or export the checkpoint './my-model' again"


@pytest.mark.parametrize(
    "source", [None, "text", [], {}, {"checkpoint": 1, "commit": 2}], ids=["null", "text", "list", "empty", "numbers"]
)
def test_a_source_that_is_not_readable_is_not_named(tmp_path: Path, source: object) -> None:
    with pytest.raises(BundleError, match="bundle format 1 is opened by") as failure:
        Bundle.open(write(tmp_path, format=1, source=source))
    assert failure.value.next_step == "export the checkpoint again"


def test_control_characters_of_an_unverified_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as failure:
        Bundle.open(write(tmp_path, format=1, source={"checkpoint": "a\x1b[2Jb", "commit": "c\n"}))
    assert failure.value.next_step == r"export the checkpoint 'a\x1b[2Jb' again, revision 'c\n'"


@pytest.mark.parametrize("number", [0, -1, 1.5, "3", "two", None, [1]])
def test_a_number_that_no_version_wrote(tmp_path: Path, number: object) -> None:
    with pytest.raises(BundleError, match=re.escape(f"bundle format {number!r} is opened by no version of korsbert")):
        Bundle.open(write(tmp_path, format=number))
