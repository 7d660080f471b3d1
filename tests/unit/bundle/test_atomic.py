"""Staging keeps a place for one process, and what it stages appears there whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import FrameType

import pytest

import exporter.bundle.atomic as module
from exporter.bundle import Bundle
from exporter.bundle.atomic import put_in_place, staging, write_file, writing
from exporter.bundle.publish import publish
from exporter.errors import BundleError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the bundles of these tests go."""
    return tmp_path / "out" / "model" / "fp32-onnxruntime"


class InterruptAt:
    """A trace function that raises what a signal raises, at one line of all that run in Python."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, _frame: FrameType, event: str, _argument: object) -> InterruptAt:
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


class TestStaging:
    def beside(self, place: Path) -> list[str]:
        return sorted(path.name for path in place.parent.iterdir())

    def fill(self, folder: Path, made: Path) -> None:
        for name in Bundle.open(made).manifest.files:
            shutil.copyfile(made / name, folder / name)

    def test_the_folder_is_empty_beside_the_place_and_gone_afterwards(self, place: Path) -> None:
        with staging(place, force=False) as folder:
            assert folder.parent == place.parent
            assert folder.name.startswith(f".{place.name}.staging-")
            assert list(folder.iterdir()) == []
            (folder / "half").touch()
            assert self.beside(place) == [".fp32-onnxruntime.lock", folder.name]
        assert not place.parent.exists()

    def test_it_is_gone_after_an_error_too(self, place: Path) -> None:
        with pytest.raises(ZeroDivisionError), staging(place, force=False) as folder:
            _ = (folder / "half").write_text("half") / 0
        assert not place.parent.exists()

    def test_it_is_gone_where_a_signal_arrives_while_it_is_removed(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remove, calls = shutil.rmtree, []

        def interrupted(folder: Path, *, ignore_errors: bool) -> None:
            calls.append(folder)
            if len(calls) == 1:
                (folder / "one").unlink()
                raise KeyboardInterrupt
            remove(folder, ignore_errors=ignore_errors)

        monkeypatch.setattr(shutil, "rmtree", interrupted)

        def fill() -> None:
            with staging(place, force=False) as folder:
                (folder / "one").touch()
                (folder / "two").touch()

        with pytest.raises(KeyboardInterrupt):
            fill()
        assert not place.parent.exists()

    def test_nothing_stays_where_a_signal_arrives_at_any_line_before_it_is_open(self, place: Path) -> None:
        """Also between the making of the folder, or of the lock, and the line that notes it."""
        interrupted = 0
        for number in range(1, 2000):
            stop = InterruptAt(number)
            opened = False
            sys.settrace(stop)
            try:
                with staging(place, force=False):
                    sys.settrace(None)
                    opened = True
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                sys.settrace(None)
            del stop
            assert not (place.parent.parent).exists(), number
            if opened:
                break
        assert opened
        assert interrupted > 50

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
        assert self.beside(place) == [place.name]
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
        assert self.beside(place) == [place.name]
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
            put_in_place(folder, place)
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


class TestPlaces:
    def test_a_place_below_a_file_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        target = tmp_path / "file" / "bundle"
        with pytest.raises(BundleError) as failure, staging(target, force=False):
            pass
        assert failure.value.message.startswith(f"{target}: cannot be written: ")
        assert failure.value.next_step == "choose another `out`"

    def test_a_name_that_is_too_long_cannot_be_written(self, tmp_path: Path) -> None:
        target = tmp_path / ("a" * 300) / "bundle"
        with pytest.raises(BundleError, match="cannot be written: File name too long"), staging(target, force=False):
            pass

    def test_a_folder_that_another_process_removes_is_made_again(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, opened = os.open, []

        def meanwhile(path: str | Path, *arguments: int) -> int:
            opened.append(path)
            if len(opened) == 1:
                place.parent.rmdir()
            return real(path, *arguments)

        monkeypatch.setattr(os, "open", meanwhile)
        with staging(place, force=False) as folder:
            assert folder.is_dir()
        assert len(opened) > 1

    def test_a_place_that_cannot_be_locked_is_not_written_to(self, place: Path) -> None:
        place.with_name(f".{place.name}.lock").mkdir(parents=True)
        with pytest.raises(BundleError) as failure, staging(place, force=False):
            pass
        assert failure.value.message.startswith(f"{place}: cannot be written: ")
        assert len(list(place.parent.iterdir())) == 1

    def test_another_export_keeps_the_place(self, place: Path) -> None:
        with staging(place, force=False), pytest.raises(BundleError) as failure, staging(place, force=True):
            pass
        assert failure.value.message == f"{place}: another export is writing there"
        assert failure.value.next_step == "wait for it to finish, or choose another `out`"

    def test_only_folders_that_were_made_and_are_empty_are_removed(self, tmp_path: Path) -> None:
        there = tmp_path / "there"
        there.mkdir()
        with staging(there / "made" / "too" / "bundle", force=False):
            (there / "made" / "notes").touch()
        assert sorted(path.relative_to(there).as_posix() for path in there.rglob("*")) == ["made", "made/notes"]

    def test_a_lock_file_that_was_removed_meanwhile_keeps_nobody_away(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between opening and locking, its owner may have removed it: the place is locked by the file that is there."""
        path = place.with_name(f".{place.name}.lock")
        flock, inodes = fcntl.flock, []

        def slow(descriptor: int, operation: int) -> None:
            inodes.append(os.fstat(descriptor).st_ino)
            if len(inodes) == 1:
                path.rename(path.with_name("removed"))
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", slow)
        with staging(place, force=False):
            assert path.stat().st_ino == inodes[-1] != inodes[0]
            monkeypatch.setattr(fcntl, "flock", flock)
            with pytest.raises(BundleError, match="another export is writing there"), staging(place, force=False):
                pass

    def test_what_is_there_is_kept_without_force(self, place: Path) -> None:
        place.mkdir(parents=True)
        with pytest.raises(BundleError) as failure, staging(place, force=False):
            pass
        assert failure.value.message == f"{place}: already exists"
        replaced = "`force` replaces it once the new bundle has passed"
        assert failure.value.next_step == f"{replaced}; `name` gives this one another folder"
        with staging(place, force=True):  # and the place is free again
            pass

    @pytest.mark.parametrize("number", [28, 122, 27])
    def test_a_full_disk_says_what_to_do(self, place: Path, number: int) -> None:
        for error in (OSError(number, "full"), RuntimeError(f"I/O error: full (os error {number})")):
            with pytest.raises(BundleError) as failure, writing(place):
                raise error
            assert failure.value.message == f"{place}: the disk is full"
            assert failure.value.next_step == "free some space, or choose another `out` on another disk"

    def test_what_is_no_fault_of_the_disk_is_raised_as_it_is(self, place: Path) -> None:
        for error in (ValueError("shapes differ"), RuntimeError("not permitted (os error 1)")):
            with pytest.raises(type(error)) as failure, writing(place):
                raise error
            assert failure.value is error

    def test_a_disk_that_is_full_from_the_start(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def mkdtemp(**_: object) -> str:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
        with pytest.raises(BundleError) as failure, staging(place, force=False):
            pass
        assert failure.value.message == f"{place}: the disk is full"

    def test_two_relative_paths_are_exchanged_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("one", "two"):
            Path(name).mkdir()
            (Path(name) / name).touch()
        assert module._exchange(Path("one"), Path("two"))
        assert [path.name for path in Path("one").iterdir()] == ["two"]
        assert not module._exchange(Path("one"), Path("three"))


class TestFiles:
    def test_one_is_replaced_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "validation.json"
        for content in (b"old", b"new"):
            write_file(path, content)
            assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]

    def test_one_that_cannot_be_written_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "validation.json"
        path.write_bytes(b"old")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device", descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_file(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_messages_name_the_command_and_the_option(place: Path) -> None:
    with staging(place, force=True, command="ship", option="repository"):
        with pytest.raises(BundleError) as failure, staging(place, force=True, command="ship", option="repository"):
            pass
        assert failure.value.message == f"{place}: another ship is writing there"
        assert failure.value.next_step == "wait for it to finish, or choose another `repository`"
    for number, next_step in (
        (28, "free some space, or choose another `repository` on another disk"),
        (5, "choose another `repository`"),
    ):
        with pytest.raises(BundleError) as failure, writing(place, "repository"):
            raise OSError(number, "failed")
        assert failure.value.next_step == next_step
