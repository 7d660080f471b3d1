"""Manifests and records of a bundle that was never built: their bytes, their seals, and each refusal word for word."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from exporter.bundle.manifest import (
    FORMAT,
    MANIFEST,
    PARITY,
    RECORD,
    TOKENIZER,
    UNLISTED,
    FileFacts,
    GraphFacts,
    Manifest,
    QuantizationFacts,
    Record,
    Validation,
    parse_manifest,
    parse_record,
    read_manifest,
    read_manifest_bytes,
    seal_of,
)
from exporter.errors import BundleError
from exporter.targets import Device
from tests.support.served_bundles import bundle_of

PATH = Path("/bundle/manifest.json")
RECORD_PATH = Path("/bundle/validation.json")
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

UPGRADE = "upgrade korsbert if a newer version wrote it, or export it again"
VALIDATE = "remove it, and validate again"


@pytest.fixture
def manifest() -> Manifest:
    return bundle_of("onnxruntime").manifest.sealed()


def record(manifest: Manifest, **changes: Any) -> Record:
    given: dict[str, Any] = {
        "manifest_seal": "",
        "report": {"passed": True, "statistics": {}},
        "machine": {"cores": 2},
        "tools": {"numpy": "2"},
        "created": "2026-11-26",
    }
    return Record(**given | changes).sealed(manifest)


def refusal(read: Any, *given: Any) -> tuple[str, str | None]:
    with pytest.raises(BundleError) as failure:
        read(*given)
    return failure.value.message, failure.value.next_step


class TestFiles:
    def test_have_the_names_of_the_format(self) -> None:
        assert (FORMAT, MANIFEST, TOKENIZER, PARITY, RECORD) == (
            2,
            "manifest.json",
            "tokenizer.json",
            "parity.json",
            "validation.json",
        )

    def test_that_need_not_be_listed(self) -> None:
        assert sorted(UNLISTED) == [
            ".cache",
            ".git",
            ".gitattributes",
            ".gitignore",
            ".model.sig.partial",
            ".validation.json.partial",
            "LICENSE",
            "manifest.json",
            "model.sig",
            "validation.json",
        ]

    def test_are_known_by_size_and_hash(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"abc")
        assert FileFacts.of_file(tmp_path / "file") == FileFacts.of_content(b"abc") == FileFacts(size=3, sha256=ABC)
        with pytest.raises(FileNotFoundError):
            FileFacts.of_file(tmp_path / "nothing")


class TestContent:
    def test_is_indented_json_that_ends_with_a_line_break(self, manifest: Manifest) -> None:
        content = manifest.to_json()
        assert content.startswith(b'{\n  "format": 2,\n  "recipe": {\n    "name": "demo",\n')
        assert content.endswith(f'  "seal": "{manifest.seal}"\n}}\n'.encode())
        assert json.loads(content) == manifest.model_dump(mode="json")

    def test_of_a_record_is_indented_by_one(self, manifest: Manifest) -> None:
        made = record(manifest)
        content = made.to_json()
        assert content.startswith(
            f'{{\n "manifest_seal": "{manifest.seal}",\n "report": {{\n  "passed": true,\n  "statistics"'.encode()
        )
        assert content.endswith(f' "seal": "{made.seal}"\n}}\n'.encode())
        assert json.loads(content) == made.model_dump(mode="json")

    def test_has_the_defaults_of_one_that_is_to_be_published(self, manifest: Manifest) -> None:
        given = manifest.model_dump(exclude={"format", "quantization", "files", "seal"})
        made = Manifest(**given)
        assert (made.format, made.quantization, made.files, made.seal) == (2, None, {}, "")
        assert Manifest(**given).files is not made.files

    def test_of_a_validation_says_passed_unless_it_is_told_otherwise(self) -> None:
        given: dict[str, Any] = {"execution": "", "probes_sha256": "", "min_cosine": 1.0, "gates": (), "note": ""}
        assert Validation(device=Device.CPU, **given).state == "passed"
        assert Validation(device=Device.CPU, state="pending", **given).state == "pending"

    @pytest.mark.parametrize(
        ("model", "given"),
        [
            (FileFacts, {"size": 1, "sha256": ABC}),
            (GraphFacts, {"sha256": ABC, "nodes": {}, "weight_bytes": 0}),
            (QuantizationFacts, {"source": "", "sha256": ABC, "sentences": 1, "method": "", "ranges": ""}),
        ],
    )
    def test_knows_no_other_keys_and_cannot_be_changed(self, model: Any, given: dict[str, Any]) -> None:
        made = model(**given)
        with pytest.raises(ValidationError, match="extra_forbidden"):
            model(**given, more=1)
        with pytest.raises(ValidationError, match="frozen"):
            made.sha256 = "other"


class TestSeal:
    def test_is_the_hash_of_everything_but_itself(self, manifest: Manifest) -> None:
        content = manifest.model_dump_json(exclude={"seal"})
        assert manifest.seal == seal_of(manifest) == hashlib.sha256(content.encode()).hexdigest()
        assert manifest.sealed() == manifest
        assert seal_of(manifest.model_copy(update={"created": "later"})) != manifest.seal

    def test_of_a_record_covers_that_of_its_manifest(self, manifest: Manifest) -> None:
        made = record(manifest)
        assert made.manifest_seal == manifest.seal
        assert made.seal == seal_of(made) == hashlib.sha256(made.model_dump_json(exclude={"seal"}).encode()).hexdigest()
        assert made.seal != record(manifest.model_copy(update={"seal": "0" * 64})).seal


class TestReading:
    def test_gives_what_was_written(self, manifest: Manifest, tmp_path: Path) -> None:
        assert parse_manifest(PATH, manifest.to_json()).model_dump() == manifest.model_dump()
        (tmp_path / MANIFEST).write_bytes(manifest.to_json())
        assert read_manifest(tmp_path).model_dump() == manifest.model_dump()
        assert read_manifest_bytes(tmp_path / MANIFEST) == manifest.to_json()

    def test_of_a_folder_without_one_is_refused(self, tmp_path: Path) -> None:
        told = (
            f"{tmp_path}: not a bundle: there is no manifest.json",
            "give the folder of a bundle, or export one first",
        )
        assert refusal(read_manifest, tmp_path) == told
        (tmp_path / MANIFEST).mkdir()
        assert refusal(read_manifest, tmp_path) == told

    def test_of_one_that_a_disk_does_not_give_is_refused(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(_: Path, _most: int) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("exporter.bundle.manifest.read_file", fails)
        (tmp_path / MANIFEST).write_bytes(manifest.to_json())
        assert refusal(read_manifest, tmp_path) == (f"{tmp_path / MANIFEST}: cannot be read: Input/output error", None)

    def test_of_one_that_was_altered_is_refused(self, manifest: Manifest) -> None:
        altered = manifest.to_json().replace(b"never built", b"well tested")
        assert refusal(parse_manifest, PATH, altered) == (
            f"{PATH}: altered since it was published: its seal does not agree",
            "export it again",
        )

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"encoder": {"dimension": 1}}, "encoder.architecture: Field required"),
            ({"more": 1}, "more: Extra inputs are not permitted"),
            (
                {"engine": {"backend": "onnxruntime", "precision": "fp32", "files": [1]}},
                "engine.files.0: Input should be a valid string",
            ),
        ],
    )
    def test_of_one_that_is_not_complete_is_refused(
        self, manifest: Manifest, change: dict[str, Any], told: str
    ) -> None:
        content = json.dumps(json.loads(manifest.to_json()) | change).encode()
        assert refusal(parse_manifest, PATH, content) == (f"{PATH}: not readable: {told}", UPGRADE)

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"7", b'"format"'])
    def test_of_what_is_no_manifest_at_all_is_refused(self, content: bytes) -> None:
        message, next_step = refusal(parse_manifest, PATH, content)
        assert message.startswith(f"{PATH}: not readable: manifest.json: ")
        assert next_step == UPGRADE


class TestFormats:
    @pytest.mark.parametrize(
        ("number", "told", "next_step"),
        [
            (3, "3 is newer than format 2, which this version of korsbert opens", "upgrade korsbert, or "),
            (99, "99 is newer than format 2, which this version of korsbert opens", "upgrade korsbert, or "),
            (
                1,
                "1 is opened by development versions of korsbert before 0.1.0; this version opens format 2",
                "",
            ),
            (0, "0 is opened by no version of korsbert; this version opens format 2", ""),
            ("2", "'2' is opened by no version of korsbert; this version opens format 2", ""),
            (2.5, "2.5 is opened by no version of korsbert; this version opens format 2", ""),
            ([2], "[2] is opened by no version of korsbert; this version opens format 2", ""),
        ],
    )
    def test_that_are_not_opened_say_by_what_and_how_to_get_another(
        self, number: Any, told: str, next_step: str
    ) -> None:
        content = json.dumps({"format": number, "source": {"checkpoint": "owner/model", "commit": "abc"}}).encode()
        assert refusal(parse_manifest, PATH, content) == (
            f"{PATH}: bundle format {told}",
            f"{next_step}export the checkpoint 'owner/model' again, revision 'abc'",
        )

    @pytest.mark.parametrize(
        ("source", "next_step"),
        [
            ({"checkpoint": "owner/model"}, "export the checkpoint 'owner/model' again"),
            ({"commit": "abc"}, "export the checkpoint again, revision 'abc'"),
            ({"checkpoint": 1, "commit": None}, "export the checkpoint again"),
            ("owner/model", "export the checkpoint again"),
        ],
    )
    def test_name_the_checkpoint_where_it_is_readable(self, source: Any, next_step: str) -> None:
        content = json.dumps({"format": 1, "source": source}).encode()
        assert refusal(parse_manifest, PATH, content)[1] == next_step


class TestRecords:
    def test_are_read_as_they_were_written(self, manifest: Manifest) -> None:
        made = record(manifest)
        assert parse_record(RECORD_PATH, made.to_json(), manifest) == made

    def test_that_are_none_are_refused(self, manifest: Manifest) -> None:
        for content in (b"{", b"{}", record(manifest).to_json().replace(b"created", b"made")):
            assert refusal(parse_record, RECORD_PATH, content, manifest) == (
                f"{RECORD_PATH}: not readable as a record of validation",
                VALIDATE,
            )

    def test_that_were_altered_or_belong_to_another_are_refused(self, manifest: Manifest) -> None:
        other = manifest.model_copy(update={"seal": "0" * 64})
        altered = record(manifest).to_json().replace(b"2026-11-26", b"2026-11-27")
        for content in (altered, record(other).to_json()):
            assert refusal(parse_record, RECORD_PATH, content, manifest) == (
                f"{RECORD_PATH}: altered, or of another bundle: its seal does not agree",
                VALIDATE,
            )

    @pytest.mark.parametrize("report", [{"passed": False}, {}, {"passed": "true"}, {"passed": 1}])
    def test_of_a_gate_that_failed_are_refused(self, manifest: Manifest, report: dict[str, Any]) -> None:
        content = record(manifest, report=report).to_json()
        assert refusal(parse_record, RECORD_PATH, content, manifest) == (
            f"{RECORD_PATH}: records a gate that failed",
            VALIDATE,
        )
