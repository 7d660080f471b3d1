"""A staged folder becomes a bundle, and only a bundle is replaced."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from exporter.bundle import MANIFEST, Bundle
from exporter.bundle.atomic import staging
from exporter.bundle.publish import publish, refuse_to_replace_other_files
from exporter.errors import BundleError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the bundles of these tests go."""
    return tmp_path / "out" / "model" / "fp32-onnxruntime"


class TestPublish:
    def test_the_manifest_lists_every_file_and_is_sealed(self, place: Path, twin_bundle: Path) -> None:
        manifest = Bundle.open(twin_bundle).manifest
        with staging(place, force=False) as folder:
            for name in manifest.files:
                shutil.copyfile(twin_bundle / name, folder / name)
            (folder / MANIFEST).write_text("what was there before", encoding="utf-8")
            published = publish(manifest.model_copy(update={"files": {}, "seal": ""}), folder, place)
        assert published.manifest.files == manifest.files
        assert published.manifest.seal == manifest.seal
        assert published.read(MANIFEST) == (place / MANIFEST).read_bytes()
        assert (place / MANIFEST).read_text(encoding="utf-8").startswith('{\n  "format"')
        assert (place / MANIFEST).read_bytes().endswith(b"}\n")

    @pytest.mark.parametrize("umask", [0o022, 0o077])
    def test_its_folder_is_as_open_as_the_users_other_folders(self, place: Path, twin_bundle: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            with staging(place, force=False) as folder:
                assert folder.name.startswith(".fp32-onnxruntime.staging-")
                publish(Bundle.open(twin_bundle).manifest, folder, place)
            assert os.umask(umask) == umask
        finally:
            os.umask(before)
        assert place.stat().st_mode & 0o777 == 0o777 & ~umask

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (None, None),
            ([], None),
            ([MANIFEST, "model.onnx"], None),
            (["thesis.txt"], "not a bundle, and `force` only replaces bundles"),
        ],
    )
    def test_force_replaces_bundles_and_empty_folders_only(
        self, tmp_path: Path, content: list[str] | None, told: str | None
    ) -> None:
        target = tmp_path / "place"
        if content is not None:
            target.mkdir()
            for name in content:
                (target / name).touch()
        if told is None:
            refuse_to_replace_other_files(target)
            return
        with pytest.raises(BundleError, match=told) as failure:
            refuse_to_replace_other_files(target)
        assert failure.value.next_step == "move it, or choose another `out`"
