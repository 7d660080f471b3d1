"""Graphs whose weights one ONNX file cannot hold: here a file ends at 100 kB instead of 2 GiB, all else is real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import exporter
from exporter.bundle import Bundle
from exporter.bundle.manifest import FileFacts, read_manifest
from exporter.errors import BundleError
from exporter.graph import storage
from exporter.serving.triton import Options, ship
from exporter.serving.triton.lint import check
from exporter.serving.triton.remote import RemoteEncoder
from exporter.validation import validate_bundle
from tests.conftest import Shared
from tests.support.triton import running
from tests.support.twins import build_twin

pytestmark = pytest.mark.usefixtures("files_end_early")


@pytest.fixture(scope="module")
def files_end_early() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "LARGEST_FILE", 100_000)
        yield


@pytest.fixture(scope="module")
def checkpoint(shared: Shared) -> Path:
    return shared("large-twin", lambda folder: build_twin("ko-sbert-multitask", folder / "twin")) / "twin"


@pytest.fixture(scope="module")
def fp16(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exporter.export(str(checkpoint), precision="fp16", out=tmp_path_factory.mktemp("fp16"))


@pytest.fixture
def copy(fp16: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fp16.folder, tmp_path / "copy"))


def reseal(folder: Path) -> None:
    """List the files of a bundle as they are now, as somebody who alters a bundle would."""
    manifest = read_manifest(folder)
    files = {name: FileFacts.of_file(folder / name) for name in manifest.files}
    (folder / "manifest.json").write_bytes(manifest.model_copy(update={"files": files}).sealed().to_json())


def test_weights_are_a_second_file_of_the_bundle(fp16: Bundle) -> None:
    assert fp16.manifest.engine.files == ("model.onnx", "model.onnx.data")
    assert fp16.manifest.files["model.onnx"].size < 100_000 < fp16.manifest.files["model.onnx.data"].size
    parity = json.loads((fp16.folder / "parity.json").read_text(encoding="utf-8"))
    assert {one["name"]: one["passed"] for one in parity["checks"]}["weights"] is True


@pytest.mark.parametrize(
    ("precision", "backend"), [("fp32", "onnxruntime"), pytest.param("bf16", "openvino", marks=pytest.mark.slow)]
)
def test_every_engine_is_exported(precision: str, backend: str, checkpoint: Path, tmp_path: Path) -> None:
    bundle = exporter.export(str(checkpoint), precision=precision, backend=backend, out=tmp_path)
    assert validate_bundle(Bundle.open(bundle.folder, for_encoding=True), checkpoint=checkpoint).passed


def test_it_answers_as_it_does_from_one_file(
    fp16: Bundle, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LARGEST_FILE", 2**30)
    one_file = exporter.export(str(checkpoint), precision="fp16", out=tmp_path)
    assert one_file.manifest.engine.files == ("model.onnx",)
    texts = ["안녕하세요", "오늘은 비가 온다", "a"]
    two, one = (exporter.load(bundle.folder).encode(texts) for bundle in (fp16, one_file))
    np.testing.assert_array_equal(two, one)


def test_weights_that_were_altered_are_refused(copy: Path) -> None:
    content = bytearray((copy / "model.onnx.data").read_bytes())
    content[-1] ^= 1
    (copy / "model.onnx.data").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx\.data: altered since it was published"):
        exporter.load(copy)


def test_weights_that_were_altered_and_sealed_again_fail_the_check(copy: Path, checkpoint: Path) -> None:
    content = bytearray((copy / "model.onnx.data").read_bytes())
    content[4097] ^= 0x80
    (copy / "model.onnx.data").write_bytes(content)
    reseal(copy)
    report = validate_bundle(Bundle.open(copy, for_encoding=True), checkpoint=checkpoint)
    assert "weights" in {check.name for check in report.checks if not check.passed}


@pytest.mark.parametrize("location", ["/etc/passwd", "../other.data", "config.json"])
def test_weights_of_another_file_are_not_read(copy: Path, location: str) -> None:
    model = onnx.load(copy / "model.onnx", load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    (entry,) = (entry for entry in tensor.external_data if entry.key == "location")
    entry.value = location
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    reseal(copy)
    with pytest.raises(BundleError, match=r"model\.onnx: this model reads weights from a file that is not its own"):
        exporter.load(copy)


@pytest.mark.parametrize("options", [Options(), Options(runtime="python")], ids=["engine", "python"])
def test_it_is_shipped_whole(fp16: Bundle, options: Options, tmp_path: Path) -> None:
    ship([Bundle.open(fp16.folder)], tmp_path / "models", options)
    assert check(tmp_path / "models") == []
    assert len([*(tmp_path / "models").rglob("model.onnx.data")]) == 1


def test_triton_serves_it(fp16: Bundle, tmp_path: Path) -> None:
    texts = ["안녕하세요", "오늘은 비가 온다"]
    ship([Bundle.open(fp16.folder)], tmp_path / "models", Options(runtime="python"))
    with running(tmp_path / "models", tmp_path) as server, RemoteEncoder("http", server.http, "twin_text") as remote:
        served = remote.encode(texts)
    np.testing.assert_allclose(served, exporter.load(fp16.folder).encode(texts), rtol=0, atol=1e-5)


def test_tensorrt_rtx_builds_it(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    bundle = exporter.export(
        str(checkpoint), precision="fp16", backend="tensorrt-rtx", unvalidated=True, out=tmp_path / "bundles"
    )
    assert bundle.manifest.engine.files[0] == "model.engine"
    assert bundle.manifest.files["model.engine"].size > 100_000
