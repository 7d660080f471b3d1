"""The hub server is a stand-in: these tests hold it to what the real client expects of the hub."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.hub import HubServer
from tests.support.process import wait_until

MIB = 1024 * 1024
REPO = "org/model"
UNKNOWN_COMMIT = "0123456789" * 4

# Runs statements in the client process and tells how they ended. The causes matter: the client wraps most failures of
# the network in one class.
CLIENT = """
import json, sys
from pathlib import Path
import huggingface_hub as hub

result, error = {}, None
try:
    exec(sys.argv[1])
except Exception as failure:
    error = {"classes": [kind.__name__ for kind in type(failure).__mro__],
             "cause": type(failure.__cause__).__name__, "message": str(failure)}
print(json.dumps([result, error]))
"""


@dataclass(frozen=True)
class Outcome:
    """What the statements put into ``result``, or the exception that they ended with."""

    result: dict[str, Any]
    classes: list[str]
    cause: str
    message: str

    @property
    def error(self) -> str | None:
        return self.classes[0] if self.classes else None


def run_client(hub: HubServer, cache: Path, code: str, **settings: str) -> Outcome:
    """Run statements with ``huggingface_hub`` imported as ``hub``, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, code],
        env=hub.environment(cache) | settings,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result, error = json.loads(done.stdout)
    error = error or {"classes": [], "cause": "", "message": ""}
    return Outcome(result, error["classes"], error["cause"], error["message"])


def download(hub: HubServer, cache: Path, *, repo: str = REPO, revision: str | None = None, **settings: str) -> Outcome:
    code = f"result['path'] = hub.snapshot_download({repo!r}, revision={revision!r})"
    return run_client(hub, cache, code, **settings)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def bodies(hub: HubServer, path_suffix: str) -> list[str | None]:
    """The Range headers with which the bodies of a file were asked for."""
    return [
        request.byte_range
        for request in hub.requests
        if request.method == "GET" and request.path.endswith(f"/{path_suffix}")
    ]


def request(
    hub: HubServer, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """One plain request, for what does not need the client."""
    connection = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}\n')
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}\n')
    (folder / "읽어 보기.txt").write_text("설명\n", encoding="utf-8")
    (folder / "empty.txt").touch()
    (folder / "model.safetensors").write_bytes(random.Random(0).randbytes(2 * MIB))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


class TestDownloads:
    def test_a_snapshot_has_the_bytes_and_the_commit(self, hub: HubServer, folder: Path, cache: Path) -> None:
        commit = hub.add(REPO, folder)
        # With xet allowed the client must still come for plain files.
        outcome = download(hub, cache, HF_HUB_DISABLE_XET="0")
        assert outcome.error is None
        path = Path(outcome.result["path"])
        assert path == cache / "hub" / "models--org--model" / "snapshots" / commit
        assert read_tree(path) == read_tree(folder)
        assert (cache / "hub" / "models--org--model" / "refs" / "main").read_text() == commit
        assert bodies(hub, "model.safetensors") == [None]

    def test_blobs_carry_the_hashes_that_the_hub_names_them_by(self, hub: HubServer, folder: Path, cache: Path) -> None:
        hub.add(REPO, folder)
        path = Path(download(hub, cache).result["path"])
        weights = (folder / "model.safetensors").read_bytes()
        config = (folder / "config.json").read_bytes()
        assert (path / "model.safetensors").resolve().name == hashlib.sha256(weights).hexdigest()
        assert (path / "config.json").resolve().name == hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()

    def test_a_repository_without_a_namespace(self, hub: HubServer, folder: Path, cache: Path) -> None:
        commit = hub.add("model", folder)
        outcome = run_client(
            hub,
            cache,
            "result['path'] = hub.snapshot_download('model')\n"
            "result['sha'] = hub.HfApi().model_info('model').sha\n"
            "result['file'] = hub.hf_hub_download('model', 'config.json', subfolder='1_Pooling', force_download=True)",
        )
        assert outcome.error is None
        assert outcome.result["sha"] == commit
        assert read_tree(Path(outcome.result["path"])) == read_tree(folder)
        assert Path(outcome.result["file"]).read_bytes() == (folder / "1_Pooling" / "config.json").read_bytes()

    def test_an_old_commit_stays_reachable_by_its_hash(self, hub: HubServer, folder: Path, cache: Path) -> None:
        before = read_tree(folder)
        old = hub.add(REPO, folder)
        (folder / "config.json").write_text('{"model_type": "roberta"}\n')
        (folder / "empty.txt").unlink()
        new = hub.add(REPO, folder)
        assert old != new

        outcome = run_client(
            hub,
            cache,
            f"result['old'] = hub.snapshot_download({REPO!r}, revision={old!r})\n"
            f"result['new'] = hub.snapshot_download({REPO!r})\n"
            f"result['sha'] = [hub.model_info({REPO!r}, revision=r).sha for r in (None, {old!r})]",
        )
        assert outcome.error is None
        assert Path(outcome.result["old"]).name == old
        assert Path(outcome.result["new"]).name == new
        assert read_tree(Path(outcome.result["old"])) == before
        assert read_tree(Path(outcome.result["new"])) == read_tree(folder)
        assert outcome.result["sha"] == [new, old]

    def test_tags_and_branches_name_commits(self, hub: HubServer, folder: Path, cache: Path) -> None:
        old = hub.add(REPO, folder, revisions=("main", "v1.0", "refs/pr/1"))
        (folder / "config.json").write_text("{}\n")
        new = hub.add(REPO, folder)
        outcome = run_client(
            hub,
            cache,
            f"for name in ('main', 'v1.0', 'refs/pr/1'):\n"
            f"    result[name] = Path(hub.hf_hub_download({REPO!r}, 'config.json', revision=name)).parent.name",
        )
        assert outcome.error is None
        assert outcome.result == {"main": new, "v1.0": old, "refs/pr/1": old}

    def test_listings(self, hub: HubServer, folder: Path, cache: Path) -> None:
        commit = hub.add(REPO, folder)
        outcome = run_client(
            hub,
            cache,
            f"api = hub.HfApi()\n"
            f"info = api.model_info({REPO!r}, files_metadata=True)\n"
            f"result['info'] = [info.id, info.sha]\n"
            f"result['expand'] = api.repo_info({REPO!r}, expand=['sha']).siblings\n"
            f"result['sizes'] = {{s.rfilename: s.size for s in info.siblings}}\n"
            f"result['sha256'] = {{s.rfilename: s.lfs.sha256 for s in info.siblings if s.lfs}}\n"
            f"result['files'] = api.list_repo_files({REPO!r})\n"
            f"result['top'] = [entry.path for entry in api.list_repo_tree({REPO!r})]\n"
            f"result['folder'] = [entry.path for entry in api.list_repo_tree({REPO!r}, '1_Pooling')]\n"
            f"result['exists'] = [api.file_exists({REPO!r}, name) for name in ('config.json', 'none.json')]\n"
            f"hub.snapshot_download({REPO!r})\n"
            f"checked = api.verify_repo_checksums({REPO!r})\n"
            f"result['checked'] = [checked.checked_count, checked.mismatches]",
        )
        assert outcome.error is None
        files = read_tree(folder)
        assert outcome.result == {
            "info": [REPO, commit],
            "expand": None,
            "sizes": {path: len(content) for path, content in files.items()},
            "sha256": {"model.safetensors": hashlib.sha256(files["model.safetensors"]).hexdigest()},
            "files": sorted(files),
            "top": sorted({path.split("/")[0] for path in files}),
            "folder": ["1_Pooling/config.json"],
            "exists": [True, False],
            "checked": [len(files), []],
        }


class TestErrors:
    def test_an_unknown_repository(self, hub: HubServer, folder: Path, cache: Path) -> None:
        hub.add(REPO, folder)
        anonymous = download(hub, cache, repo="org/none")
        assert anonymous.error == "RepositoryNotFoundError"
        assert anonymous.message.startswith("401 ")
        known = download(hub, cache, repo="org/none", HF_TOKEN="hf_token")
        assert known.error == "RepositoryNotFoundError"
        assert known.message.startswith("404 ")
        assert not (cache / "hub").exists()

    @pytest.mark.parametrize("revision", ["v9", UNKNOWN_COMMIT])
    def test_an_unknown_revision(self, hub: HubServer, folder: Path, cache: Path, revision: str) -> None:
        hub.add(REPO, folder)
        assert download(hub, cache, revision=revision).error == "RevisionNotFoundError"

    def test_an_unknown_file(self, hub: HubServer, folder: Path, cache: Path) -> None:
        commit = hub.add(REPO, folder)
        outcome = run_client(hub, cache, f"hub.hf_hub_download({REPO!r}, 'none.json')")
        assert outcome.error == "RemoteEntryNotFoundError"
        assert "EntryNotFoundError" in outcome.classes
        # The client notes the absence only when the answer names the commit.
        assert (cache / "hub" / "models--org--model" / ".no_exist" / commit / "none.json").exists()

    def test_every_request_fails_until_told_otherwise(self, hub: HubServer, folder: Path, cache: Path) -> None:
        hub.add(REPO, folder)
        hub.fail_with(503)
        outcome = download(hub, cache)
        assert (outcome.error, outcome.cause) == ("LocalEntryNotFoundError", "HfHubHTTPError")
        assert "503 Service Unavailable" in outcome.message
        hub.fail_with(None)
        assert download(hub, cache).error is None


class TestBrokenConnections:
    def test_a_cut_download_resumes_with_a_range(self, hub: HubServer, folder: Path, cache: Path) -> None:
        # The client keeps what it received in pieces of 10 MiB, so that only a larger file can resume.
        (folder / "model.safetensors").write_bytes(random.Random(1).randbytes(12 * MIB))
        hub.add(REPO, folder)
        hub.cut_after("model.safetensors", 11 * MIB)
        outcome = download(hub, cache)
        assert outcome.error is None
        assert read_tree(Path(outcome.result["path"])) == read_tree(folder)
        first, second = bodies(hub, "model.safetensors")
        assert first is None
        assert second is not None
        resumed = re.fullmatch(r"bytes=(\d+)-", second)
        assert resumed
        assert 0 < int(resumed[1]) <= 11 * MIB

    def test_a_cut_download_of_a_small_file_succeeds_too(self, hub: HubServer, folder: Path, cache: Path) -> None:
        hub.add(REPO, folder)
        hub.cut_after("model.safetensors", MIB)
        outcome = download(hub, cache)
        assert outcome.error is None
        assert read_tree(Path(outcome.result["path"])) == read_tree(folder)
        assert len(bodies(hub, "model.safetensors")) == 2

    def test_a_download_that_is_always_cut_leaves_no_file(self, hub: HubServer, folder: Path, cache: Path) -> None:
        commit = hub.add(REPO, folder)
        hub.cut_after("model.safetensors", MIB, times=None)
        outcome = download(hub, cache)
        assert outcome.error == "RemoteProtocolError"
        assert len(bodies(hub, "model.safetensors")) > 2

        repository = cache / "hub" / "models--org--model"
        assert not (repository / "snapshots" / commit / "model.safetensors").exists()
        sizes = {path.stat().st_size for path in (repository / "blobs").iterdir()}
        assert max(sizes, default=0) < MIB
        # Nor does a client that can no longer ask take what is there for the whole.
        assert download(hub, cache, HF_HUB_OFFLINE="1").error == "IncompleteSnapshotError"

    def test_a_reset_connection_is_not_retried(self, hub: HubServer, folder: Path, cache: Path) -> None:
        hub.add(REPO, folder)
        hub.cut_after("model.safetensors", MIB, reset=True)
        assert download(hub, cache).error == "ReadError"
        assert download(hub, cache).error is None

    def test_a_server_that_is_down(self, hub: HubServer, folder: Path, cache: Path) -> None:
        commit = hub.add(REPO, folder)
        assert download(hub, cache).error is None
        count = len(hub.requests)
        hub.stop()
        hub.stop()
        # What is in the cache still serves, the rest is an error.
        assert Path(download(hub, cache).result["path"]).name == commit
        outcome = download(hub, cache.with_name("other"))
        assert (outcome.error, outcome.cause) == ("LocalEntryNotFoundError", "ConnectError")
        assert len(hub.requests) == count


class TestOffline:
    def test_with_a_cache(self, hub: HubServer, folder: Path, cache: Path) -> None:
        commit = hub.add(REPO, folder)
        assert download(hub, cache).error is None
        count = len(hub.requests)
        for revision in (None, commit):
            outcome = download(hub, cache, revision=revision, HF_HUB_OFFLINE="1")
            assert Path(outcome.result["path"]).name == commit
        assert len(hub.requests) == count

    def test_without_a_cache(self, hub: HubServer, folder: Path, cache: Path) -> None:
        hub.add(REPO, folder)
        outcome = download(hub, cache, HF_HUB_OFFLINE="1")
        assert (outcome.error, outcome.cause) == ("LocalEntryNotFoundError", "OfflineModeIsEnabled")
        assert hub.requests == []


class TestServer:
    """What needs no client: plain HTTP."""

    FILE = f"/{REPO}/resolve/main/model.safetensors"

    def test_the_hash_of_a_commit_follows_from_name_and_files(self, hub: HubServer, folder: Path) -> None:
        first = hub.add(REPO, folder)
        assert re.fullmatch(r"[0-9a-f]{40}", first)
        assert hub.add(REPO, folder, revisions=["other"]) == first
        assert hub.add("org/other", folder) != first
        with HubServer() as second:
            assert second.add(REPO, folder) == first

    def test_an_empty_folder_is_refused(self, hub: HubServer, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no file"):
            hub.add(REPO, tmp_path)

    def test_head_announces_the_file(self, hub: HubServer, folder: Path) -> None:
        commit = hub.add(REPO, folder)
        sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        response, body = request(hub, "HEAD", self.FILE)
        assert (response.status, body) == (200, b"")
        expected = {
            "X-Repo-Commit": commit,
            "ETag": f'"{sha256}"',
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(2 * MIB),
            "Accept-Ranges": "bytes",
            "Content-Length": str(2 * MIB),
        }
        assert {name: response.headers[name] for name in expected} == expected
        assert not [name for name in response.headers if "xet" in name.lower()]
        assert hub.requests == [("HEAD", self.FILE, None)]

    @pytest.mark.parametrize(
        ("wanted", "start", "end"),
        [("bytes=0-9", 0, 10), (f"bytes={MIB}-", MIB, 2 * MIB), ("bytes=-7", 2 * MIB - 7, 2 * MIB)],
    )
    def test_ranges(self, hub: HubServer, folder: Path, wanted: str, start: int, end: int) -> None:
        hub.add(REPO, folder)
        response, body = request(hub, "GET", self.FILE, {"Range": wanted})
        assert response.status == 206
        assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{2 * MIB}"
        assert body == (folder / "model.safetensors").read_bytes()[start:end]
        assert hub.requests == [("GET", self.FILE, wanted)]

    def test_a_range_behind_the_end(self, hub: HubServer, folder: Path) -> None:
        hub.add(REPO, folder)
        response, _ = request(hub, "GET", self.FILE, {"Range": f"bytes={2 * MIB}-"})
        assert response.status == 416
        assert response.headers["Content-Range"] == f"bytes */{2 * MIB}"

    @pytest.mark.parametrize(
        ("path", "status", "code"),
        [
            ("/api/models/org/none", 401, "RepoNotFound"),
            ("/api/models/org%2Fmodel", 200, None),
            ("/api/datasets/org/model", 401, "RepoNotFound"),
            ("/org/none/resolve/main/config.json", 401, "RepoNotFound"),
            ("/api/models/org/model/revision/none", 404, "RevisionNotFound"),
            ("/api/models/org/model/tree/none", 404, "RevisionNotFound"),
            ("/api/models/org/model/tree/main/none", 404, "EntryNotFound"),
            ("/org/model/resolve/none/config.json", 404, "RevisionNotFound"),
            ("/org/model/resolve/main/none", 404, "EntryNotFound"),
            ("/org/model/resolve/main/..%2Fmodel%2Fconfig.json", 404, "EntryNotFound"),
            ("/api/elsewhere", 404, None),
        ],
    )
    def test_statuses_and_codes(self, hub: HubServer, folder: Path, path: str, status: int, code: str | None) -> None:
        hub.add(REPO, folder)
        response, body = request(hub, "GET", path)
        assert response.status == status
        assert response.headers["X-Error-Code"] == code
        assert ("error" in json.loads(body)) == (status != 200)

    def test_a_cut_sends_what_comes_before_it(self, hub: HubServer, folder: Path) -> None:
        hub.add(REPO, folder)
        hub.cut_after("model.safetensors", 1000, times=2)
        for headers, length in (({}, 1000), ({"Range": "bytes=2000-"}, 0)):
            with pytest.raises(http.client.IncompleteRead) as failure:
                request(hub, "GET", self.FILE, headers)
            assert len(failure.value.partial) == length
        assert request(hub, "GET", f"/{REPO}/resolve/main/config.json")[0].status == 200
        assert request(hub, "GET", self.FILE)[1] == (folder / "model.safetensors").read_bytes()

    def test_a_delay_holds_the_answer_back(self, hub: HubServer, folder: Path) -> None:
        hub.add(REPO, folder)
        hub.delay_s = 0.3
        began = time.monotonic()
        assert request(hub, "GET", f"/api/models/{REPO}")[0].status == 200
        assert time.monotonic() - began >= 0.3

    def test_the_end_does_not_wait_for_clients(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ended_early: list[bool] = []
        threads = threading.active_count()
        with HubServer() as hub:
            hub.add(REPO, folder)
            idle = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=10)
            idle.request("GET", f"/api/models/{REPO}")
            idle.getresponse().read()
            hub.delay_s = 600
            pause = hub._stopping.wait
            monkeypatch.setattr(hub._stopping, "wait", lambda seconds: ended_early.append(pause(seconds)))
            waiting = http.client.HTTPConnection(urlsplit(hub.endpoint).netloc, timeout=10)
            waiting.request("GET", f"/api/models/{REPO}")
            wait_until(lambda: len(hub.requests) == 2)
        assert ended_early == [True]
        assert threading.active_count() == threads
        idle.close()
        waiting.close()

    def test_a_bug_of_the_server_does_not_pass_for_a_fault(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        def ask() -> None:
            with HubServer() as hub:
                hub.add(REPO, folder)
                monkeypatch.setattr(hub, "_find", fail)
                with pytest.raises(http.client.RemoteDisconnected):
                    request(hub, "GET", self.FILE)

        with pytest.raises(RuntimeError, match="hub server failed"):
            ask()

    def test_the_environment_leaves_no_foreign_setting(
        self, hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        foreign = ("HF_TOKEN", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_OFFLINE", "https_proxy", "ALL_PROXY")
        for name in foreign:
            monkeypatch.setenv(name, "http://elsewhere.invalid")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        environment = hub.environment(cache)
        assert not set(foreign) & set(environment)
        assert environment["HF_ENDPOINT"] == hub.endpoint
        assert environment["OMP_NUM_THREADS"] == "1"
