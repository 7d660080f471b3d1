"""Bundles: records of validation, signatures, what the encoder is opened with, and files that cannot be read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import exporter.bundle.bundle as module
from exporter.bundle import (
    MANIFEST,
    PARITY,
    RECORD,
    TOKENIZER,
    Bundle,
    Record,
)
from exporter.bundle.manifest import seal_of
from exporter.bundle.signing import SIGNATURE, Trusted
from exporter.errors import BundleError
from tests.support.manifests import edit_manifest

RECORDED = Record(
    manifest_seal="",
    report={"passed": True, "statistics": {}},
    machine={"cores": 2},
    tools={"numpy": "2"},
    created="2026-11-26",
)
SIGNED = b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}'


def listing(files: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    """Return a change of a manifest that lists more files."""
    return lambda manifest: manifest["files"].update(files)


def not_listing(name: str) -> Callable[[dict[str, Any]], object]:
    """Return a change of a manifest that lists a file no longer."""
    return lambda manifest: manifest["files"].pop(name)


@pytest.fixture
def bundle(twin_bundle: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))


@pytest.fixture
def pending(bundle: Path) -> Bundle:
    """A bundle that was published before its engine could run."""
    edit_manifest(bundle, lambda manifest: manifest["validation"].update(state="pending"))
    return Bundle.open(bundle)


def reseal(path: Path, **changes: Any) -> None:
    """Change a record as somebody would who knows how it is sealed."""
    record = Record.model_validate(json.loads(path.read_text(encoding="utf-8")) | changes)
    path.write_text(record.model_copy(update={"seal": seal_of(record)}).model_dump_json(), encoding="utf-8")


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make one path fail as a broken disk does; root may read what permissions forbid."""

    def make(path: Path) -> None:
        def failing(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(opened: Any, *args: Any, **options: Any) -> Any:
                if opened == path:
                    raise OSError(5, "Input/output error")
                return original(opened, *args, **options)

            return call

        for name in ("open", "iterdir", "write_bytes"):
            monkeypatch.setattr(Path, name, failing(getattr(Path, name)))
        monkeypatch.setattr(os, "open", failing(os.open))

    return make


class TestRecords:
    def test_one_makes_a_bundle_validated_until_it_is_withdrawn(self, pending: Bundle) -> None:
        assert not pending.validated
        written = pending.write_record(RECORDED)
        for found in (written, Bundle.open(pending.folder)):
            assert found.validated
            assert found.record is not None
            assert found.record.manifest_seal == pending.manifest.seal
            assert found.record.seal == seal_of(found.record)
            assert found.record.report == {"passed": True, "statistics": {}}
            assert found.names == (*pending.manifest.files, MANIFEST, RECORD)
            assert found.read(RECORD) == (pending.folder / RECORD).read_bytes()
        assert (pending.folder / RECORD).read_text(encoding="utf-8").startswith('{\n "manifest_seal"')
        assert (pending.folder / RECORD).read_bytes().endswith(b"}\n")
        assert not (pending.folder / f".{RECORD}.partial").exists()
        for _ in range(2):  # one that is not there is withdrawn already
            withdrawn = written.withdraw_record()
            for found in (withdrawn, Bundle.open(pending.folder)):
                assert not found.validated
                assert found.names == (*pending.manifest.files, MANIFEST)

    def test_a_bundle_that_passed_before_it_was_published_needs_none(self, bundle: Path) -> None:
        opened = Bundle.open(bundle)
        assert opened.validated
        assert opened.record is None
        assert opened.names == (*opened.manifest.files, MANIFEST)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda path: path.write_text("{"), "not readable as a record of validation"),
            (lambda path: path.write_text("{}"), "not readable as a record of validation"),
            (
                lambda path: path.write_text(path.read_text(encoding="utf-8").replace("2026-11-26", "2026-11-27")),
                "altered, or of another bundle: its seal does not agree",
            ),
            (lambda path: reseal(path, manifest_seal="0" * 64), "altered, or of another bundle"),
            (lambda path: reseal(path, report={"passed": False}), "records a gate that failed"),
            (lambda path: reseal(path, report={}), "records a gate that failed"),
            (lambda path: reseal(path, report={"passed": "yes"}), "records a gate that failed"),
        ],
    )
    def test_one_that_proves_nothing_is_refused(
        self, pending: Bundle, change: Callable[[Path], object], told: str
    ) -> None:
        pending.write_record(RECORDED)
        change(pending.folder / RECORD)
        with pytest.raises(BundleError, match=told) as failure:
            Bundle.open(pending.folder)
        assert failure.value.message.startswith(f"{pending.folder / RECORD}: ")
        assert failure.value.next_step == "remove it, and validate again"

    def test_one_that_cannot_be_written(self, pending: Bundle, unreadable: Callable[[Path], None]) -> None:
        unreadable(pending.folder / f".{RECORD}.partial")
        with pytest.raises(BundleError, match=r"validation\.json: cannot be written: Input/output error") as failure:
            pending.write_record(RECORDED)
        assert failure.value.next_step == "copy the bundle, then validate"

    def test_one_cannot_be_a_file_of_the_manifest(self, bundle: Path) -> None:
        facts = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
        for name in (RECORD, SIGNATURE, MANIFEST):
            edit_manifest(bundle, listing({name: facts}))
            with pytest.raises(BundleError, match=f"lists {name}, which is written after the manifest"):
                Bundle.open(bundle)
            edit_manifest(bundle, not_listing(name))


class TestSignatures:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
        """The signing of a test: it notes what it is asked."""
        asked: list[tuple[Any, ...]] = []

        def sign(hashes: dict[str, str], name: str, signer: object, *, ignored: tuple[str, ...]) -> bytes:
            asked.append((hashes, name, signer, ignored))
            return SIGNED

        def verify(hashes: dict[str, str], signature: bytes, trusted: object, folder: Path) -> None:
            asked.append((hashes, signature, trusted, folder))

        monkeypatch.setattr(module, "sign", sign)
        monkeypatch.setattr(module, "verify", verify)
        monkeypatch.setattr(Trusted, "of", lambda path: SimpleNamespace(path=path))
        return asked

    def hashes(self, bundle: Path) -> dict[str, str]:
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in bundle.iterdir()}
        found.pop(SIGNATURE, None)
        found.pop(RECORD, None)
        return found

    def test_one_covers_the_manifest_and_every_file(self, bundle: Path, asked: list[tuple[Any, ...]]) -> None:
        opened = Bundle.open(bundle)
        assert not opened.signed
        signed = opened.sign("key")  # type: ignore[arg-type]
        assert asked == [(self.hashes(bundle), "bundle", "key", (RECORD,))]
        for found in (signed, Bundle.open(bundle)):
            assert found.signed
            assert found.read(SIGNATURE) == (bundle / SIGNATURE).read_bytes() == SIGNED
            assert found.names[-1] == SIGNATURE

    def test_one_is_verified_where_it_is_required(self, bundle: Path, asked: list[tuple[Any, ...]]) -> None:
        Bundle.open(bundle).sign("key")  # type: ignore[arg-type]
        asked.clear()
        Bundle.open(bundle)
        assert asked == []
        Bundle.open(bundle, require_signature=Path("key.pub"))
        assert asked == [(self.hashes(bundle), SIGNED, SimpleNamespace(path=Path("key.pub")), bundle)]

    def test_a_record_is_not_covered_and_not_believed(self, pending: Bundle, asked: list[tuple[Any, ...]]) -> None:
        pending.write_record(RECORDED).sign("key")  # type: ignore[arg-type]
        assert asked[0][0] == self.hashes(pending.folder)
        assert Bundle.open(pending.folder).validated
        assert not Bundle.open(pending.folder, require_signature=Path("key.pub")).validated

    @pytest.mark.parametrize(
        "content",
        [b"", b"root:x:0:0:root:/root:/bin/bash", b'{"auths": {}}', b"[" * 10**5, b"[]", b'{"mediaType": "x"}'],
    )
    def test_another_file_in_its_place_is_refused(self, bundle: Path, content: bytes) -> None:
        (bundle.parent / "secret").write_bytes(content)
        (bundle / SIGNATURE).symlink_to(bundle.parent / "secret")
        with pytest.raises(BundleError, match=r"model\.sig: not a signature in the format of model-signing") as failure:
            Bundle.open(bundle)
        assert failure.value.next_step == "get it again from its signer, or remove this file"

    def test_a_bundle_without_one_is_refused_where_it_is_required(
        self, bundle: Path, asked: list[tuple[Any, ...]]
    ) -> None:
        told = r"bundle: not signed, and a signature by key\.pub is required"
        with pytest.raises(BundleError, match=told) as failure:
            Bundle.open(bundle, require_signature=Path("key.pub"))
        assert failure.value.next_step == "get a signed bundle, or sign this one"
        assert asked == []

    def test_one_that_cannot_be_written(
        self, bundle: Path, asked: list[tuple[Any, ...]], unreadable: Callable[[Path], None]
    ) -> None:
        unreadable(bundle / f".{SIGNATURE}.partial")
        with pytest.raises(BundleError, match="cannot be written: Input/output error") as failure:
            Bundle.open(bundle).sign("key")  # type: ignore[arg-type]
        assert failure.value.next_step == "copy the bundle, then sign"
        assert len(asked) == 1


class TestEncoder:
    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
        """The devices and threads that engines are opened with; no engine is opened."""
        opened: list[tuple[str, Any]] = []

        def open_engine(engine: object, files: object, device: str, threads: int | None, **_: bool) -> object:  # noqa: ARG001
            opened.append((device, threads))
            return SimpleNamespace(execution="test")

        monkeypatch.setattr(module, "backend_of", lambda name: SimpleNamespace(name=name, open=open_engine))
        return opened

    def test_the_engine_runs_where_it_was_validated_or_where_it_is_asked_to(
        self, bundle: Path, opened: list[tuple[str, Any]]
    ) -> None:
        Bundle.open(bundle).encoder()
        Bundle.open(bundle).encoder(device="cuda", threads=3)
        edit_manifest(bundle, lambda manifest: manifest["validation"].update(device="cuda"))
        Bundle.open(bundle).encoder()
        assert opened == [("cpu", None), ("cuda", 3), ("cuda", None)]

    @pytest.mark.parametrize("precision", ["int8", "int8_dynamic"])
    def test_int8_runs_only_where_it_was_made_for(
        self, bundle: Path, opened: list[tuple[str, Any]], precision: str
    ) -> None:
        edit_manifest(bundle, lambda manifest: manifest["engine"].update(precision=precision))
        Bundle.open(bundle).encoder()
        Bundle.open(bundle).encoder(device="cpu")
        assert opened == [("cpu", None), ("cpu", None)]
        told = "its int8 graph is for cpu kernels, and cuda kernels need other types"
        with pytest.raises(BundleError, match=told) as failure:
            Bundle.open(bundle).encoder(device="cuda")
        assert failure.value.next_step == "export it again with `device=cuda`"

    def test_it_knows_what_the_manifest_states(self, bundle: Path, opened: list[tuple[str, Any]]) -> None:
        edit_manifest(bundle, lambda manifest: manifest["encoder"].update(prompt="질문: "))
        found = Bundle.open(bundle)
        encoder = found.encoder()
        facts = found.manifest.encoder
        assert (encoder.dimension, encoder.max_seq_length) == (facts.dimension, facts.max_seq_length)
        assert encoder.count_tokens([""]) > [2]  # with the prompt
        assert len(opened) == 1

    def test_files_read_for_encoding_are_read_once(
        self, bundle: Path, opened: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = Bundle.open(bundle, for_encoding=True)
        monkeypatch.setattr("exporter.bundle.bundle.read_file", lambda *_: pytest.fail("a file is read again"))
        found.encoder()
        assert len(opened) == 1


class TestUnreadable:
    @pytest.mark.parametrize("name", [MANIFEST, TOKENIZER, PARITY, "model.onnx"])
    @pytest.mark.parametrize("for_encoding", [False, True])
    def test_a_file_that_a_disk_does_not_give_is_named(
        self, bundle: Path, unreadable: Callable[[Path], None], name: str, for_encoding: bool
    ) -> None:
        unreadable(bundle / name)
        with pytest.raises(BundleError) as failure:
            Bundle.open(bundle, for_encoding=for_encoding)
        assert failure.value.message == f"{bundle / name}: cannot be read: Input/output error"

    @pytest.mark.parametrize("for_encoding", [False, True])
    def test_a_file_that_is_removed_meanwhile(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch, for_encoding: bool
    ) -> None:
        listed = module._listed

        def then_removed(folder: Path, name: str) -> Path:
            path = listed(folder, name)
            if name == TOKENIZER:
                path.unlink()
            return path

        monkeypatch.setattr(module, "_listed", then_removed)
        with pytest.raises(BundleError, match=r"tokenizer\.json: cannot be read: No such file or directory"):
            Bundle.open(bundle, for_encoding=for_encoding)

    def test_a_record_that_a_disk_does_not_give(self, pending: Bundle, unreadable: Callable[[Path], None]) -> None:
        pending.write_record(RECORDED)
        unreadable(pending.folder / RECORD)
        with pytest.raises(BundleError, match=r"validation\.json: cannot be read: Input/output error"):
            Bundle.open(pending.folder)

    def test_a_folder_that_a_disk_does_not_give(self, bundle: Path, unreadable: Callable[[Path], None]) -> None:
        unreadable(bundle)
        with pytest.raises(BundleError, match="bundle: cannot be read: Input/output error"):
            Bundle.open(bundle)


UPGRADE = "upgrade korsbert if a newer version wrote it, or export it again"


@pytest.mark.parametrize(
    ("damage", "next_step"),
    [
        (lambda bundle: (bundle / "model.onnx").write_bytes(b"other"), "export it again"),
        (lambda bundle: (bundle / "model.onnx").unlink(), "export it again"),
        (lambda bundle: (bundle / "more.onnx").touch(), "move it out of the folder"),
        (lambda bundle: (bundle / MANIFEST).write_text('{"format": 1}'), "export the checkpoint again"),
        (lambda bundle: (bundle / MANIFEST).write_text("{}"), UPGRADE),
        (lambda bundle: (bundle / MANIFEST).unlink(), "give the folder of a bundle, or export one first"),
        (lambda bundle: edit_manifest(bundle, lambda manifest: manifest["engine"].update(files=[])), "export it again"),
        (
            lambda bundle: (bundle / MANIFEST).write_text((bundle / MANIFEST).read_text().replace("BertModel", "Bert")),
            "export it again",
        ),
    ],
)
def test_every_refusal_says_what_to_do(bundle: Path, damage: Callable[[Path], object], next_step: str) -> None:
    damage(bundle)
    with pytest.raises(BundleError) as failure:
        Bundle.open(bundle)
    assert failure.value.next_step == next_step


@pytest.mark.parametrize("for_encoding", [False, True])
def test_a_file_that_has_grown_is_altered(bundle: Path, for_encoding: bool) -> None:
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"model\.onnx: altered since it was published"):
        Bundle.open(bundle, for_encoding=for_encoding)


def test_a_tokenizer_that_is_none_says_what_to_do(bundle: Path) -> None:
    (bundle / TOKENIZER).write_text("{}", encoding="utf-8")
    content = (bundle / TOKENIZER).read_bytes()
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(bundle, lambda manifest: manifest["files"].update({TOKENIZER: facts}))
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer: ") as failure:
        Bundle.open(bundle).encoder()
    assert failure.value.next_step == "export it again"
