"""Manifests: what is refused before any file of the bundle is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from exporter.bundle import MANIFEST, Bundle, FileFacts
from exporter.bundle.manifest import read_manifest
from exporter.errors import BundleError
from tests.support.manifests import edit_manifest


@pytest.fixture
def bundle(twin_bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))


def put(*path: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


class TestManifest:
    @pytest.mark.parametrize("value", ["query: ", "", "문장: "])
    def test_one_that_was_edited_by_hand_is_refused(self, bundle: Path, value: str) -> None:
        content = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        content["encoder"]["prompt"] = value + "x"
        (bundle / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(BundleError, match=r"manifest\.json: altered since it was published"):
            Bundle.open(bundle)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'"text"', b"{}"])
    def test_that_is_none(self, bundle: Path, content: bytes) -> None:
        (bundle / MANIFEST).write_bytes(content)
        with pytest.raises(BundleError, match=r"manifest\.json: not readable: "):
            Bundle.open(bundle)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (put("format", value=1), "bundle format 1 is opened by development versions"),
            (lambda manifest: manifest.update(format=9, new_key=1), "format 9 is newer than format 2"),
            (put("extra", value=1), "not readable: extra: "),
            (lambda manifest: manifest.pop("engine"), "not readable: engine: "),
            (put("encoder", "dimension", value="wide"), r"not readable: encoder\.dimension: "),
            (put("recipe", "gates", "fp32", "min_cosine", value=2), r"not readable: recipe\.gates\.fp32\.min_cosine"),
            (put("validation", "device", value="tpu"), r"not readable: validation\.device"),
            (put("files", "model.onnx", "sha256", value="0" * 64), r"model\.onnx: altered"),
            (put("files", "model.onnx", "size", value=1), r"model\.onnx: altered"),
            (put("engine", "backend", value="warp"), r"not readable: engine\.backend"),
            (lambda manifest: manifest["files"].pop("model.onnx"), r"does not list model\.onnx"),
            (lambda manifest: manifest["files"].pop("tokenizer.json"), r"does not list tokenizer\.json"),
            (lambda manifest: manifest["files"].pop("ranges.json"), r"does not list ranges\.json"),
            (lambda manifest: manifest["files"].clear(), r"does not list model\.onnx, parity\.json, ranges\.json, tok"),
            (put("engine", "files", value=["other.onnx"]), r"does not list other\.onnx"),
            (put("engine", "files", value=["../model.onnx"]), r"does not list \.\./model\.onnx"),
            (put("engine", "files", value=[]), "does not list an engine"),
            (put("files", "validation.json", value={"size": 0, "sha256": ""}), r"lists validation\.json"),
            (put("files", "model.sig", value={"size": 0, "sha256": ""}), r"lists model\.sig"),
        ],
    )
    def test_that_was_edited(self, bundle: Path, change: Callable[[dict[str, Any]], object], told: str) -> None:
        edit_manifest(bundle, change)
        with pytest.raises(BundleError, match=told):
            Bundle.open(bundle)

    @pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", "sub/../../secret", "sub/file", "."])
    def test_that_points_elsewhere(self, bundle: Path, tmp_path: Path, name: str) -> None:
        (tmp_path / "secret").write_text("not ours")
        facts = FileFacts.of_file(tmp_path / "secret").model_dump()
        edit_manifest(bundle, put("files", name, value=facts))
        with pytest.raises(BundleError, match=r"names a file outside the bundle|missing, though"):
            Bundle.open(bundle)


def test_a_manifest_is_read_without_a_look_at_the_files(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    assert read_manifest(bundle) == Bundle.open_manifest(bundle).manifest
    with pytest.raises(BundleError, match=r"there is no manifest\.json") as failure:
        read_manifest(bundle / "nothing")
    assert failure.value.next_step == "give the folder of a bundle, or export one first"


def test_what_is_known_of_a_bundle_cannot_be_changed(bundle: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Bundle.open(bundle).manifest.seal = "other"
