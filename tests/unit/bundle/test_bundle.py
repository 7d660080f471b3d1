"""Opening a bundle verifies it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import exporter.bundle.bundle as module
from exporter.bundle import MANIFEST, Bundle
from exporter.engines import Engine, onnxruntime
from exporter.errors import BundleError
from exporter.runtime.encoder import Encoder
from tests.support.manifests import reseal

FILES = (
    "README.md",
    "config.json",
    "model.onnx",
    "parity.json",
    "ranges.json",
    "report.html",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture
def bundle(twin_bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))


class TestOpening:
    def test_every_file_but_the_manifest_is_listed(self, bundle: Path) -> None:
        opened = Bundle.open(bundle)
        assert tuple(opened.manifest.files) == FILES
        assert {path.name for path in bundle.iterdir()} == {*FILES, MANIFEST}
        assert opened.size_bytes == sum((bundle / name).stat().st_size for name in FILES)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("where", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
    def test_a_flipped_byte_names_the_file(self, bundle: Path, name: str, where: float) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[int(where * (len(content) - 1))] ^= 1
        (bundle / name).write_bytes(content)
        with pytest.raises(BundleError, match="altered since it was published") as failure:
            Bundle.open(bundle)
        assert failure.value.message.startswith(f"{bundle / name}: ")

    @pytest.mark.parametrize("name", FILES)
    def test_a_missing_file_is_named(self, bundle: Path, name: str) -> None:
        (bundle / name).unlink()
        with pytest.raises(BundleError, match="missing, though the manifest lists it") as failure:
            Bundle.open(bundle)
        assert failure.value.message.startswith(f"{bundle / name}: ")

    @pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b"\n"])
    def test_a_file_of_another_length(self, bundle: Path, damage: Callable[[bytes], bytes]) -> None:
        (bundle / "model.onnx").write_bytes(damage((bundle / "model.onnx").read_bytes()))
        with pytest.raises(BundleError, match=r"model\.onnx: altered"):
            Bundle.open(bundle)

    def test_a_folder_in_place_of_a_file(self, bundle: Path) -> None:
        (bundle / "model.onnx").unlink()
        (bundle / "model.onnx").mkdir()
        with pytest.raises(BundleError, match=r"model\.onnx: missing"):
            Bundle.open(bundle)

    @pytest.mark.parametrize("name", ["notes.txt", "model.onnx.data", ".hidden", "Manifest.json", "model.onnx~"])
    @pytest.mark.parametrize("kind", ["file", "folder", "link"])
    def test_a_file_that_is_not_listed_is_refused(self, bundle: Path, tmp_path: Path, name: str, kind: str) -> None:
        if kind == "file":
            (bundle / name).write_text("확인함")
        elif kind == "folder":
            (bundle / name).mkdir()
        else:
            (bundle / name).symlink_to(tmp_path / "nowhere")
        with pytest.raises(BundleError, match=r"not listed in manifest\.json") as failure:
            Bundle.open(bundle)
        assert failure.value.message.startswith(f"{bundle / name}: ")

    @pytest.mark.parametrize(
        "name", [".cache", ".git", ".gitattributes", ".gitignore", "LICENSE", ".validation.json.partial"]
    )
    def test_what_git_and_the_hub_and_a_killed_process_leave_is_not_refused(self, bundle: Path, name: str) -> None:
        (bundle / name).mkdir() if name in {".cache", ".git"} else (bundle / name).write_text("")
        assert name not in Bundle.open(bundle).names

    def test_links_as_in_the_cache_of_the_hub(self, bundle: Path, tmp_path: Path) -> None:
        snapshot = tmp_path / "snapshots" / "0123"
        snapshot.mkdir(parents=True)
        for path in bundle.iterdir():
            (snapshot / path.name).symlink_to(path)
        with Bundle.open(snapshot).encoder() as encoder:
            assert encoder.encode("가").shape == (64,)
        (bundle / "config.json").write_text("{}")
        with pytest.raises(BundleError, match=r"config\.json: altered"):
            Bundle.open(snapshot)

    @pytest.mark.parametrize("kind", ["nothing", "empty folder", "file"])
    def test_no_bundle(self, tmp_path: Path, kind: str) -> None:
        place = tmp_path / "place"
        if kind == "file":
            place.touch()
        elif kind == "empty folder":
            place.mkdir()
        with pytest.raises(BundleError, match=r"place: not a bundle: there is no manifest\.json"):
            Bundle.open(place)


class TestWhatIsVerifiedIsWhatRuns:
    """A file that changes after it was compared with its hash is never used."""

    def vector(self, encoder: Encoder) -> list[float]:
        with encoder:
            return [float(number) for number in encoder.encode("바뀌지 않은 문장")]

    @pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
    def test_a_file_replaced_after_opening_for_encoding(self, bundle: Path, name: str) -> None:
        expected = self.vector(Bundle.open(bundle).encoder())
        opened = Bundle.open(bundle, for_encoding=True)
        (bundle / name).write_bytes(b"something else")
        assert self.vector(opened.encoder()) == expected

    @pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
    def test_a_file_replaced_after_opening_is_refused_by_the_encoder(self, bundle: Path, name: str) -> None:
        opened = Bundle.open(bundle)
        (bundle / name).write_bytes(b"something else")
        with pytest.raises(BundleError, match=f"{name}: altered since it was published"):
            opened.encoder()

    def test_a_file_replaced_as_the_engine_is_opened(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = self.vector(Bundle.open(bundle).encoder())

        def replace_and_open(engine: Engine, *arguments: Any, **options: Any) -> object:
            (bundle / "model.onnx").write_bytes(b"something else")
            (bundle / "tokenizer.json").write_bytes((bundle / "tokenizer.json").read_bytes())
            return onnxruntime.open(engine, *arguments, **options)

        opened = Bundle.open(bundle)
        monkeypatch.setattr(module, "backend_of", lambda _: SimpleNamespace(open=replace_and_open))
        assert self.vector(opened.encoder()) == expected

    def test_the_engine_is_not_kept_in_memory(self, bundle: Path) -> None:
        opened = Bundle.open(bundle, for_encoding=True)
        opened.encoder().close()
        (bundle / "model.onnx").unlink()
        with pytest.raises(BundleError, match=r"model\.onnx: missing"):
            opened.encoder()

    def test_a_report_is_compared_with_its_hash_when_it_is_read(self, bundle: Path) -> None:
        opened = Bundle.open(bundle)
        assert opened.read("parity.json") == (bundle / "parity.json").read_bytes()
        (bundle / "parity.json").write_text("{}")
        with pytest.raises(BundleError, match=r"parity\.json: altered"):
            opened.read("parity.json")

    def test_the_manifest_is_the_one_that_was_opened(self, bundle: Path) -> None:
        before = (bundle / MANIFEST).read_bytes()
        opened = Bundle.open(bundle)
        (bundle / MANIFEST).write_text("{}")
        assert opened.read(MANIFEST) == before

    def test_weights_in_another_file_are_refused_though_the_manifest_lists_it(self, bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        onnx.save(model, bundle / "model.onnx", save_as_external_data=True, location="weights.data")
        reseal(bundle)
        with pytest.raises(BundleError, match=r"model\.onnx: this model reads weights from a file that is not its own"):
            Bundle.open(bundle).encoder()

    @pytest.mark.parametrize(
        ("name", "told"),
        [("tokenizer.json", "not a tokenizer: "), ("model.onnx", "this is not an ONNX model")],
    )
    def test_what_no_library_can_read_is_refused_in_one_sentence(self, bundle: Path, name: str, told: str) -> None:
        (bundle / name).write_text("{}")
        reseal(bundle)
        with pytest.raises(BundleError, match=told) as failure:
            Bundle.open(bundle).encoder()
        assert failure.value.message.startswith(f"{bundle / name}: ")
