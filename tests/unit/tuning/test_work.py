"""A candidate is published by a copy: whatever stands at its place, nothing is removed that the user may want."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from exporter.acceptance.tuning import refuse_taken_places
from exporter.bundle import PARITY, Bundle
from exporter.bundle.atomic import locked
from exporter.bundle.publish import publish
from exporter.errors import BundleError
from exporter.options import ExportOptions
from exporter.recipe import load_recipe, recipes_folder
from exporter.runtime.vector_types import RANGES
from exporter.tuning.work import Work
from tests.support.served_bundles import bundle_of

DEMO = load_recipe(recipes_folder() / "demo.yaml")


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / ".demo.tune", "demo", tmp_path, {})


def bundle_at(place: Path, precision: str = "fp32", created: str = "2026-01-01T00:00:00+00:00") -> Bundle:
    """Write a bundle that can be opened, and whose engine cannot."""
    scratch = place.with_name("scratch")
    scratch.mkdir(parents=True)
    for name in ("model.onnx", "tokenizer.json", RANGES, PARITY):
        (scratch / name).write_text(name, encoding="utf-8")
    manifest = bundle_of("onnxruntime", precision).manifest.model_copy(update={"created": created})
    return publish(manifest, scratch, place)


def candidate(work: Work, precision: str = "fp32") -> Bundle:
    return bundle_at(work.folder / "demo" / f"{precision}-onnxruntime", precision)


def test_a_candidate_stays_where_it_is_until_everything_is_published(work: Work, tmp_path: Path) -> None:
    chosen = candidate(work)
    published = work.publish(chosen, force=False)
    assert published.folder == tmp_path / "demo" / "fp32-onnxruntime"
    assert published.manifest == Bundle.open(chosen.folder).manifest
    assert published.folder.stat().st_mode == chosen.folder.stat().st_mode
    assert [path.name for path in published.folder.parent.iterdir()] == ["fp32-onnxruntime"]


def test_a_file_system_without_links(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    published = work.publish(candidate(work), force=False)
    assert (published.folder / "model.onnx").stat().st_nlink == 1


def test_a_disk_that_is_full(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copy", full)
    chosen = candidate(work)
    with pytest.raises(BundleError, match="fp32-onnxruntime: the disk is full"):
        work.publish(chosen, force=False)
    assert not (tmp_path / "demo").exists()
    Bundle.open(chosen.folder)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["LICENSE", ".gitattributes"])
def test_what_was_added_to_a_published_bundle_stays(work: Work, name: str, *, force: bool) -> None:
    chosen = candidate(work)
    place = work.publish(chosen, force=False).folder
    (place / name).write_text("mine", encoding="utf-8")
    assert work.publish(chosen, force=force).folder == place
    assert (place / name).read_text(encoding="utf-8") == "mine"


def test_a_bundle_that_was_put_in_place_of_the_published_one(work: Work) -> None:
    chosen = candidate(work)
    place = work.publish(chosen, force=False).folder
    shutil.rmtree(place)
    other = bundle_at(place, created="2026-02-02T00:00:00+00:00").manifest.seal
    work.refuse_other_published([candidate(work, "fp16")])
    with pytest.raises(BundleError, match=f"{place}: already exists"):
        work.publish(chosen, force=False)
    assert Bundle.open(place).manifest.seal == other
    assert work.publish(chosen, force=True).manifest.seal == chosen.manifest.seal
    assert Bundle.open(place).manifest.seal == chosen.manifest.seal


def test_a_place_that_another_process_writes_to(work: Work) -> None:
    chosen = candidate(work)
    place = work.publish(chosen, force=False).folder
    with (
        locked(place, "export", "out"),
        pytest.raises(BundleError, match=f"{place}: another tune is writing there"),
    ):
        work.publish(chosen, force=False)


@pytest.mark.parametrize(
    ("name", "told"), [("notes.txt", "not listed in manifest"), ("model.onnx", "altered since it was published")]
)
def test_a_published_bundle_that_was_damaged(work: Work, tmp_path: Path, name: str, told: str) -> None:
    chosen = candidate(work)
    place = work.publish(chosen, force=False).folder
    (place / name).unlink(missing_ok=True)
    (place / name).write_text("mine", encoding="utf-8")
    options = ExportOptions(out=tmp_path)
    for refused in (
        lambda: refuse_taken_places(DEMO, [options.target], options),
        lambda: work.publish(chosen, force=False),
    ):
        with pytest.raises(BundleError, match=f"{place / name}: {told}.*interrupted has published") as refusal:
            refused()
        assert "`force` replaces the bundle" in str(refusal.value)
    assert (place / name).read_text(encoding="utf-8") == "mine"
    assert work.publish(chosen, force=True).manifest.seal == chosen.manifest.seal


def test_a_published_bundle_that_is_not_chosen_is_named_and_stays(work: Work) -> None:
    first, second = candidate(work), candidate(work, "fp16")
    place = work.publish(first, force=False).folder
    work.refuse_other_published([first])
    work.refuse_other_published([first, second])
    with pytest.raises(BundleError, match=f"{place}: published by .* this run chooses fp16-onnxruntime"):
        work.refuse_other_published([second])
    Bundle.open(place)


def test_a_place_is_free_only_for_the_run_that_published_there(work: Work, tmp_path: Path) -> None:
    place = work.publish(candidate(work), force=False).folder
    options = ExportOptions(out=tmp_path)
    refuse_taken_places(DEMO, [options.target], options)
    with pytest.raises(BundleError, match=f"{place}: already exists, and the winner may go there"):
        refuse_taken_places(DEMO, [options.target], options, resumable=False)


def test_a_work_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the bundles is writable, and what it stands in is not."""
    (tmp_path / "demo").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)  # root may write everywhere
    options = ExportOptions(out=tmp_path)
    with pytest.raises(BundleError, match=r"\.demo\.tune: cannot be written: Permission denied"):
        refuse_taken_places(DEMO, [options.target], options)
