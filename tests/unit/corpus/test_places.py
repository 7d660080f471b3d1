"""One process writes to a place, also where another one was killed; what a store raises is told in a sentence."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from exporter.corpus import lease
from exporter.corpus.files import input_files
from exporter.corpus.places import opened_place, place_of
from exporter.corpus.scratch import scratch_folder
from exporter.errors import BundleError, InputError
from tests.support.process import wait_until
from tests.support.s3_server import s3_server

CLOSED = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server() as system:
        yield system


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Lets a lock be renewed ten times a second, and expire after half a second."""
    monkeypatch.setattr(lease, "RENEWED", 0.1)
    monkeypatch.setattr(lease, "EXPIRES", 0.5)
    monkeypatch.setattr(lease, "SETTLES", 0.1)
    return monkeypatch


class TestLease:
    def test_a_lock_that_is_renewed_keeps_others_away(self, s3: Any, quick: pytest.MonkeyPatch) -> None:
        quick.setattr(lease, "EXPIRES", 60)
        with opened_place("s3://vectors/a"):
            with pytest.raises(
                BundleError, match=r"s3://vectors/a: another embed is writing there\n  next: wait for it"
            ):
                opened_place("s3://vectors/a").__enter__()
            assert s3.exists("vectors/a/_lock")
        assert not s3.exists("vectors/a/_lock")

    def test_a_lock_that_nobody_renews_is_taken_over(self, s3: Any, quick: pytest.MonkeyPatch) -> None:
        quick.setattr(lease, "RENEWED", 60)
        s3.pipe_file("vectors/b/_lock", b"of a process that was killed")
        told: list[str] = []
        with opened_place("s3://vectors/b", told.append) as place:
            assert s3.cat_file("vectors/b/_lock") != b"of a process that was killed"
            place.write("_plan.json", b"ours")
        (sentence,) = told
        assert "s3://vectors/b: another embed has locked it, or one was killed: waiting up to 0 s" in sentence
        assert place.names() == {"_plan.json"}
        assert not s3.exists("vectors/b/_lock")

    def test_a_lock_that_is_removed_is_not_waited_for(self, s3: Any, quick: pytest.MonkeyPatch) -> None:
        quick.setattr(lease, "EXPIRES", 3600)
        s3.pipe_file("vectors/c/_lock", b"of a process that was killed")
        with opened_place("s3://vectors/c", lambda _: s3.rm_file("vectors/c/_lock")):
            assert s3.exists("vectors/c/_lock")

    def test_who_has_lost_the_lock_writes_nothing_and_leaves_it(self, s3: Any, quick: pytest.MonkeyPatch) -> None:
        quick.setattr(lease, "RENEWED", 60)  # as of a process that is stopped
        with opened_place("s3://vectors/d") as place:
            s3.pipe_file("vectors/d/_lock", b"of another")
            with pytest.raises(BundleError, match=r"s3://vectors/d: another embed has begun to write there"):
                place.write("_SUCCESS", b"")
            with (
                pytest.raises(BundleError, match=r"another embed has begun to write there"),
                place.filling("part-000000.parquet") as path,
            ):
                path.write_bytes(b"late")
        assert place.names() == set()
        assert s3.cat_file("vectors/d/_lock") == b"of another"

    @pytest.mark.usefixtures("quick")
    def test_who_has_lost_the_lock_does_not_renew_it(self, s3: Any) -> None:
        with opened_place("s3://vectors/e"):
            first = s3.cat_file("vectors/e/_lock")
            wait_until(lambda: s3.cat_file("vectors/e/_lock") != first)
            s3.pipe_file("vectors/e/_lock", b"of another")
            # A renewal that has read the lock just before may still write it, once.
            wait_until(lambda: not _renewing())
        assert not _renewing()

    def test_of_two_that_take_it_over_at_once_one_gives_up(self, s3: Any, quick: pytest.MonkeyPatch) -> None:
        s3.pipe_file("vectors/f/_lock", b"of a process that was killed")
        quick.setattr(time, "sleep", lambda _: s3.pipe_file("vectors/f/_lock", b"of another"))
        quick.setattr(lease, "EXPIRES", 0)
        with pytest.raises(BundleError, match=r"another embed is writing there"):
            opened_place("s3://vectors/f").__enter__()
        assert s3.cat_file("vectors/f/_lock") == b"of another"

    def test_a_worker_needs_no_lock(self, s3: Any) -> None:
        with opened_place("s3://vectors/g"):
            place_of("s3://vectors/g").write("part", b"content")
        assert s3.cat_file("vectors/g/part") == b"content"


def _renewing() -> bool:
    return any(thread.name == lease.THREAD for thread in threading.enumerate())


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without credentials, in which nobody listens at the address of the store."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", CLOSED)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield monkeypatch
    fsspec.get_filesystem_class("s3").clear_instance_cache()


class TestStores:
    @pytest.mark.usefixtures("alone")
    def test_no_credentials(self) -> None:
        with pytest.raises(
            InputError, match=r"s3://corpus/in\.jsonl: cannot be read: .*credentials\n  next: check the"
        ):
            input_files(["s3://corpus/in.jsonl"])
        place = place_of("s3://vectors/a")
        with pytest.raises(BundleError, match=r"s3://vectors/a: cannot be written: .*credentials\n  next: check the"):
            place.write("_plan.json", b"")

    def test_nobody_answers(self, alone: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            alone.setenv(name, "test")
        with pytest.raises(
            InputError, match=rf"s3://corpus/\*\.jsonl: cannot be read: .*{CLOSED}.*\n  next: check the"
        ):
            input_files(["s3://corpus/*.jsonl"])
        place = place_of("s3://vectors/a")
        with pytest.raises(BundleError, match=rf"s3://vectors/a: cannot be written: .*{CLOSED}"):
            place.write("_plan.json", b"")
        with pytest.raises(BundleError, match=rf"s3://vectors/a: cannot be written: .*{CLOSED}"):
            place.remove("_plan.json")
        with pytest.raises(BundleError, match=rf"s3://vectors/a: cannot be read: .*{CLOSED}"):
            place.names()
        for read in (place.read, place.version, place.state):
            with pytest.raises(BundleError, match=rf"s3://vectors/a/_plan\.json: cannot be read: .*{CLOSED}"):
                read("_plan.json")
        with pytest.raises(BundleError, match=rf"s3://vectors/a/part: cannot be read: .*{CLOSED}"):
            place.open("part").read()

    def test_what_is_not_there(self, s3: Any, tmp_path: Path) -> None:
        s3.pipe_file("vectors/here/one", b"1")
        for place in (place_of("s3://vectors/here"), place_of(str(tmp_path))):
            for look in (place.read, place.open, place.state, place.version if "://" in place.url else place.read):
                with pytest.raises(FileNotFoundError):
                    look("nothing")


class TestScratch:
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def test_what_a_killed_process_has_left_is_removed(self, s3: Any, tmp_path: Path) -> None:
        fill = "import os, signal; from exporter.corpus.scratch import scratch_folder; "
        fill += "folder = scratch_folder('korsbert-part-'); "
        fill += "(folder.__enter__() / 'part').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
        subprocess.run([sys.executable, "-c", fill], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
        (left,) = tmp_path.iterdir()
        assert (left / "part").read_bytes() == b"x"
        place_of("s3://vectors/a")
        assert not left.exists()
        assert s3.exists("vectors")

    @pytest.mark.usefixtures("s3")
    def test_what_others_use_stays(self, tmp_path: Path) -> None:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        of_another_container = tmp_path / f"korsbert-part-{ended.pid}-abc"
        not_locked_yet = tmp_path / f"korsbert-part-{os.getpid()}-abc"
        for folder in (of_another_container, not_locked_yet, tmp_path / "korsbert-abc"):
            folder.mkdir()
        (tmp_path / f"korsbert-part-{ended.pid}-link").symlink_to(tmp_path / "korsbert-abc")
        descriptor = os.open(of_another_container, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with scratch_folder("korsbert-part-") as ours:
            place_of("s3://vectors/a")
            assert ours.exists()
            assert len([*tmp_path.iterdir()]) == 5
        os.close(descriptor)
        place_of("s3://vectors/a")
        assert not of_another_container.exists()
        assert len([*tmp_path.iterdir()]) == 3
