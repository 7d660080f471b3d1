"""Opening a bundle verifies it; staging and publishing put it in place whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import exporter.bundle.bundle as module
from exporter.bundle import MANIFEST, Bundle, publish, staging, writing
from exporter.engines import Engine, onnxruntime
from exporter.errors import BundleError
from exporter.runtime.encoder import Encoder
from tests.support.manifests import edit_manifest, reseal

FILES = ("README.md", "config.json", "model.onnx", "parity.json", "tokenizer.json", "tokenizer_config.json")


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

    @pytest.mark.parametrize("name", [".cache", ".git", ".gitattributes", ".gitignore", ".validation.json.partial"])
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

        def replace_and_open(engine: Engine, *arguments: object) -> object:
            (bundle / "model.onnx").write_bytes(b"something else")
            (bundle / "tokenizer.json").write_bytes((bundle / "tokenizer.json").read_bytes())
            return onnxruntime.open(engine, *arguments)  # type: ignore[arg-type]

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
        with pytest.raises(BundleError, match=r"model\.onnx: this model reads weights from another file"):
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
            (lambda manifest: manifest.update(format=9, new_key=1), "format 9 is newer than format 2"),
            (put("extra", value=1), "not readable: extra: "),
            (lambda manifest: manifest.pop("engine"), "not readable: engine: "),
            (put("encoder", "dimension", value="wide"), r"not readable: encoder\.dimension: "),
            (put("recipe", "gates", "fp32", "min_cosine", value=2), r"not readable: recipe\.gates\.fp32\.min_cosine"),
            (put("validation", "device", value="tpu"), r"not readable: validation\.device"),
            (put("files", "model.onnx", "sha256", value="0" * 64), r"model\.onnx: altered"),
            (put("files", "model.onnx", "size", value=1), r"model\.onnx: altered"),
            (put("engine", "backend", value="warp"), "made for the backend 'warp', which is not known here"),
            (lambda manifest: manifest["files"].pop("model.onnx"), r"does not list model\.onnx"),
            (lambda manifest: manifest["files"].pop("tokenizer.json"), r"does not list tokenizer\.json"),
            (lambda manifest: manifest["files"].clear(), r"does not list model\.onnx, parity\.json, tokenizer\.json"),
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
        facts = {"size": 8, "sha256": module.sha256_of(tmp_path / "secret")}
        edit_manifest(bundle, put("files", name, value=facts))
        with pytest.raises(BundleError, match=r"names a file outside the bundle|missing, though"):
            Bundle.open(bundle)


class TestStaging:
    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path / "out" / "model" / "fp32-onnxruntime"

    def beside(self, place: Path) -> list[str]:
        return sorted(path.name for path in place.parent.iterdir())

    def fill(self, folder: Path, made: Path) -> None:
        for name in FILES:
            shutil.copyfile(made / name, folder / name)

    def test_the_folder_is_empty_beside_the_place_and_gone_afterwards(self, place: Path) -> None:
        with staging(place, force=False) as folder:
            assert folder.parent == place.parent
            assert list(folder.iterdir()) == []
            (folder / "half").touch()
        assert self.beside(place) == [".fp32-onnxruntime.lock"]

    def test_it_is_gone_after_an_error_too(self, place: Path) -> None:
        with pytest.raises(ZeroDivisionError), staging(place, force=False) as folder:
            _ = (folder / "half").write_text("half") / 0
        assert self.beside(place) == [".fp32-onnxruntime.lock"]

    @pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
    def test_a_bundle_is_replaced(
        self, place: Path, twin_bundle: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
    ) -> None:
        if not exchange:
            monkeypatch.setattr(module, "_exchange", lambda *_: False)
        manifest = Bundle.open(twin_bundle).manifest
        for date in ("first", "second"):
            with staging(place, force=True) as folder:
                self.fill(folder, twin_bundle)
                published = publish(manifest.model_copy(update={"created": date}), folder, place)
            assert published.folder == place
            assert Bundle.open(place).manifest.created == date
        assert self.beside(place) == [".fp32-onnxruntime.lock", place.name]
        assert place.stat().st_mode & 0o777 == 0o755

    @pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder"])
    def test_whatever_stands_there_is_replaced_with_force_only(
        self, place: Path, twin_bundle: Path, tmp_path: Path, kind: str
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "kept").touch()
        place.parent.mkdir(parents=True)
        if kind == "file":
            place.touch()
        elif kind == "folder":
            place.mkdir()
        else:
            place.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
        with pytest.raises(BundleError, match="already exists"), staging(place, force=False):
            pass
        with staging(place, force=True) as folder:
            self.fill(folder, twin_bundle)
            publish(Bundle.open(twin_bundle).manifest, folder, place)
        Bundle.open(place)
        assert not place.is_symlink()
        assert self.beside(place) == [".fp32-onnxruntime.lock", place.name]
        assert (elsewhere / "kept").exists()

    @pytest.mark.parametrize("there", ["nothing", "a bundle", "a bundle, without an exchange"])
    def test_files_are_on_the_disk_before_they_are_in_place(
        self, place: Path, twin_bundle: Path, monkeypatch: pytest.MonkeyPatch, there: str
    ) -> None:
        """A machine that loses power must not come back with a renamed folder of empty files."""
        manifest = Bundle.open(twin_bundle).manifest
        if there != "nothing":
            with staging(place, force=False) as folder:
                self.fill(folder, twin_bundle)
                publish(manifest, folder, place)
        if there.endswith("without an exchange"):
            monkeypatch.setattr(module, "_exchange", lambda *_: False)
        synced: list[Path] = []
        fsync = os.fsync

        def record(descriptor: int) -> None:
            fsync(descriptor)
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

        monkeypatch.setattr(os, "fsync", record)
        with staging(place, force=True) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "weights.bin").write_bytes(b"weights")
            module.put_in_place(folder, place)
            staged = [folder, folder / "sub", folder / "sub" / "weights.bin"]
        assert sorted(synced[:-1]) == staged
        assert synced[-1] == place.parent  # after the rename: the new name itself

    def test_what_a_killed_export_left_is_removed(self, place: Path) -> None:
        left = [place.with_name(f".{place.name}.staging-{kind}") for kind in ("folder", "file", "link")]
        left[0].mkdir(parents=True)
        (left[0] / "model.onnx").touch()
        left[1].touch()
        left[2].symlink_to(left[0])
        other = place.with_name(".fp16-onnxruntime.staging-other")
        other.mkdir()
        with staging(place, force=False):
            assert not any(os.path.lexists(path) for path in left)
        assert other.exists()

    def test_a_bundle_moved_aside_comes_back(self, place: Path) -> None:
        aside = place.with_name(f".{place.name}.previous")
        aside.mkdir(parents=True)
        (aside / "old").touch()
        with pytest.raises(BundleError, match="already exists"), staging(place, force=False):
            pass
        assert (place / "old").exists()
        assert not aside.exists()

    def test_a_bundle_moved_aside_goes_where_the_new_one_stands(self, place: Path) -> None:
        aside = place.with_name(f".{place.name}.previous")
        for folder, name in ((aside, "old"), (place, "new")):
            folder.mkdir(parents=True)
            (folder / name).touch()
        with staging(place, force=True):
            pass
        assert [path.name for path in place.iterdir()] == ["new"]
        assert not aside.exists()

    def test_a_full_disk_whoever_meets_it(self, place: Path) -> None:
        for error in (OSError(28, "No space left on device"), Exception("No space left on device (os error 28)")):
            with pytest.raises(BundleError, match="the disk is full"), writing(place):
                raise error
        with pytest.raises(BundleError, match="cannot be written: Permission denied"), writing(place):
            raise PermissionError(13, "Permission denied")
        with pytest.raises(ValueError, match="os error 2"), writing(place):
            raise ValueError("no such file (os error 2)")
