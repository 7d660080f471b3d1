"""Staging where the system refuses something: what is said, and that nothing is left open or left behind."""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import exporter.bundle.atomic as module
from exporter.bundle.atomic import put_in_place, staging, write_file, writing
from exporter.errors import BundleError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "out" / "bundle"


def refuse(error: OSError) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def refusal(place: Path, **options: Any) -> tuple[str, str | None]:
    with pytest.raises(BundleError) as failure, staging(place, **{"force": False, **options}):
        pass
    return failure.value.message, failure.value.next_step


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a number of names


class TestTheSystemRefuses:
    @pytest.mark.parametrize(
        ("owner", "name"),
        [(Path, "mkdir"), (os, "open"), (fcntl, "flock"), (tempfile, "mkdtemp")],
        ids=["mkdir", "open", "flock", "mkdtemp"],
    )
    @pytest.mark.parametrize(
        ("number", "told", "next_step"),
        [
            (5, "cannot be written: Input/output error", "choose another `repository`"),
            (28, "the disk is full", "free some space, or choose another `repository` on another disk"),
        ],
    )
    def test_and_the_option_of_the_place_is_named(
        self,
        place: Path,
        monkeypatch: pytest.MonkeyPatch,
        owner: Any,
        name: str,
        number: int,
        told: str,
        next_step: str,
    ) -> None:
        before = open_files()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse(OSError(number, os.strerror(number))))
            assert refusal(place, option="repository") == (f"{place}: {told}", next_step)
        assert open_files() == before
        assert not place.parent.exists()

    def test_without_a_reason_of_its_own(self, place: Path) -> None:
        with pytest.raises(BundleError) as failure, writing(place):
            raise OSError("unheard of")
        assert failure.value.message == f"{place}: cannot be written: unheard of"
        assert failure.value.next_step == "choose another `out`"

    def test_in_the_words_of_a_library(self, place: Path) -> None:
        with pytest.raises(BundleError) as failure, writing(place, "repository"):
            raise ValueError("IoError: No space left on device (os error 28)")
        assert failure.value.message == f"{place}: the disk is full"
        assert failure.value.next_step == "free some space, or choose another `repository` on another disk"

    def test_to_let_the_place_be_locked_again_and_again(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tries = []

        def gone(path: Path, *_: Any) -> int:
            tries.append(path)
            raise FileNotFoundError

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", gone)
            assert refusal(place, option="repository") == (
                f"{place}: cannot be written: other processes remove its folder again and again",
                "choose another `repository`",
            )
        assert tries == [place.parent / ".bundle.lock"] * (1000 + 1)  # at last, to remove one that nobody holds

    def test_to_remove_what_was_staged(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with staging(place, force=False) as folder, monkeypatch.context() as patch:
            patch.setattr(os, "rmdir", refuse(PermissionError(13, "Permission denied")))
            module._remove(folder)
            assert folder.is_dir()
        assert not folder.exists()

    def test_to_sync_a_file_and_it_is_closed(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = open_files()
        with staging(place, force=False) as folder:
            (folder / "file").touch()
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", refuse(OSError(5, "Input/output error")))
                with pytest.raises(OSError, match="Input/output error"):
                    put_in_place(folder, place)
            assert not place.exists()
        assert open_files() == before


class TestTheLock:
    def test_is_a_hidden_file_that_others_may_read(self, place: Path) -> None:
        umask = os.umask(0o022)
        try:
            with staging(place, force=False):
                mode = (place.parent / ".bundle.lock").stat().st_mode & 0o777
        finally:
            os.umask(umask)
        assert mode == 0o644

    def test_is_closed_afterwards_and_where_it_is_taken(self, place: Path) -> None:
        before = open_files()
        with staging(place, force=False):
            inside = open_files()
            assert refusal(place) == (
                f"{place}: another export is writing there",
                "wait for it to finish, or choose another `out`",
            )
            assert open_files() == inside
        assert open_files() == before

    def test_that_was_removed_before_it_was_locked_is_closed(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, flock, locked = open_files(), fcntl.flock, []

        def slow(descriptor: int, operation: int) -> None:
            locked.append(descriptor)
            if len(locked) < 3:
                (place.parent / ".bundle.lock").unlink()
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", slow)
        with staging(place, force=False):
            assert len(locked) == 3
        assert open_files() == before


class TestReplacing:
    @pytest.mark.parametrize("system", ["no linux", "an old linux"])
    def test_without_an_exchange_by_the_system(self, place: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
        place.mkdir(parents=True)
        (place / "old").touch()
        if system == "no linux":
            monkeypatch.setattr(sys, "platform", "darwin")
        else:
            monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
        assert not module._exchange(place, place)
        with staging(place, force=True) as folder:
            (folder / "new").touch()
            put_in_place(folder, place)
            assert sorted(path.name for path in place.parent.iterdir()) == [".bundle.lock", "bundle"]
        assert [path.name for path in place.iterdir()] == ["new"]

    def test_is_done_by_the_c_library_of_this_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []
        library = ctypes.CDLL

        def load(name: str | None) -> Any:
            asked.append(name)
            return library(name)

        monkeypatch.setattr(ctypes, "CDLL", load)
        for name in ("one", "two"):
            (tmp_path / name).write_text(name)
        assert module._exchange(tmp_path / "one", tmp_path / "two") is True
        assert ((tmp_path / "one").read_text(), (tmp_path / "two").read_text()) == ("two", "one")
        assert asked == [None]
        assert module._exchange(tmp_path / "one", tmp_path / "three") is False

    def test_a_new_place_takes_the_folder_itself(self, place: Path) -> None:
        with staging(place, force=False) as folder:
            number = folder.stat().st_ino
            put_in_place(folder, place)
            assert not folder.exists()
        assert place.stat().st_ino == number
        assert [path.name for path in place.parent.iterdir()] == ["bundle"]


def test_a_file_is_written_beside_its_place_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        seen.extend(sorted(path.name for path in tmp_path.iterdir()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    before = open_files()
    write_file(tmp_path / "validation.json", b"new")
    assert seen == [".validation.json.partial"]
    assert (tmp_path / "validation.json").read_bytes() == b"new"
    assert open_files() == before
