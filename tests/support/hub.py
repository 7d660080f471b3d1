"""A loopback server that speaks the part of the Hugging Face hub's API that downloads and pushes need.

It is a stand-in, and not the hub: what it does is what the real client expects (``tests/support/test_hub.py``).

The tests drive the real ``huggingface_hub`` client against it, selected by ``HF_ENDPOINT``. The client reads its
endpoint and its cache folders when it is imported, so a test runs it in a subprocess:

    with HubServer() as hub:
        commit = hub.add("org/model", folder)
        subprocess.run([sys.executable, "-c", code], env=hub.environment(tmp_path / "cache"))

Only model repositories exist here, no file is offered or taken through xet (``environment`` disables it), and listings
come in a single page. ``hub_uploads.py`` has what is answered to pushes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.hub_uploads import StandInError, Uploads

__all__ = ["HubRequest", "HubServer"]

_HOST = "127.0.0.1"
_CHUNK = 64 * 1024
_DATE = "2024-01-01T00:00:00.000Z"
_RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")

# The hub keeps a file in LFS when `.gitattributes` says so (these are the suffixes of its default one that matter
# here) or when it is larger than 10 MiB. The two kinds differ in their ETag: SHA-256 for LFS, git's blob id otherwise.
_LFS_SUFFIXES = frozenset({".bin", ".h5", ".model", ".msgpack", ".npy", ".npz", ".onnx", ".pt", ".pth", ".safetensors"})
_LFS_THRESHOLD = 10 * 1024 * 1024

# Settings of the developer's shell that would steer the client away from this server or from the test's cache.
_FOREIGN_SETTING = re.compile(
    r"HF_|HUGGING|TRANSFORMERS_|SENTENCE_TRANSFORMERS_|(HTTPS?|ALL|NO)_PROXY$|(DISABLE_TELEMETRY|DO_NOT_TRACK)$",
    re.IGNORECASE,
)


class HubRequest(NamedTuple):
    """One request as it came in: ``path`` is the raw target with its query, ``byte_range`` the Range header."""

    method: str
    path: str
    byte_range: str | None


@dataclass(frozen=True)
class _File:
    """A file of a commit, with the identities that the hub reports for it."""

    path: str
    size: int
    sha256: str
    git_sha1: str
    stored: Path

    @property
    def is_lfs(self) -> bool:
        return is_lfs(self.path, self.size)

    @property
    def pointer(self) -> bytes:
        """What git holds in place of an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def oid(self) -> str:
        return _git_sha1(self.pointer) if self.is_lfs else self.git_sha1

    @property
    def etag(self) -> str:
        return f'"{self.sha256 if self.is_lfs else self.git_sha1}"'


@dataclass(frozen=True)
class _Commit:
    """An immutable listing of files under the commit's hash."""

    sha: str
    files: dict[str, _File]


@dataclass
class _Repo:
    """A model repository: its commits by hash, and the branches and tags that name some of them."""

    repo_id: str
    commits: dict[str, _Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def find(self, revision: str) -> _Commit | None:
        return self.commits.get(self.refs.get(revision, revision))


@dataclass
class _Cut:
    """A fault: no byte of the file at or after ``byte_count`` leaves the server."""

    path_suffix: str
    byte_count: int
    left: int | None
    reset: bool


class HubServer:
    """A hub on a free port of the loopback interface, for the time of a ``with`` block.

    Attributes:
        endpoint: The address for ``HF_ENDPOINT``. It keeps its value after the server stopped.
        requests: Every request so far, in the order of arrival.
        delay_s: Seconds to wait before each answer.
        uploads: Who may push, and what goes wrong with it.
    """

    endpoint: str

    def __init__(self) -> None:
        self.requests: list[HubRequest] = []
        self.delay_s = 0.0
        self.uploads = Uploads(self)
        self._lock = threading.Lock()
        self._repos: dict[str, _Repo] = {}
        self._cuts: list[_Cut] = []
        self._failure: HTTPStatus | None = None
        self._stopping = threading.Event()
        self._reserved: socket.socket | None = None

    def __enter__(self) -> HubServer:
        self._store = tempfile.TemporaryDirectory(prefix="hub-")
        self._server = _Server((_HOST, 0), partial(_Handler, self))
        self.endpoint = f"http://{_HOST}:{self._server.server_port}"
        # The interval is how long stop() may have to wait.
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        self._store.cleanup()
        if error is None and self._server.errors:
            # A bug of this server must not pass for a fault that a test asked for.
            raise RuntimeError("the hub server failed while it answered a request") from self._server.errors[0]

    def stop(self) -> None:
        """Take the server down: from now on a connection to ``endpoint`` is refused, until the block ends."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections()
        self._server.server_close()
        # Bound but not listening: the port refuses connections, and no other process can be given it meanwhile.
        self._reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((_HOST, self._server.server_port))

    def add(self, repo_id: str, folder: Path, *, revisions: Iterable[str] = ("main",)) -> str:
        """Commit a folder as it is now to a model repository, which comes into being with its first commit.

        Args:
            repo_id: ``name`` or ``namespace/name``.
            folder: The files of the commit. They are copied: later changes need another call.
            revisions: Branch or tag names that point to this commit from now on.

        Returns:
            The hash of the commit. It depends on the repository's name and the files, on nothing else, and stays
            reachable when the names move on to later commits.
        """
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and ".git" not in path.relative_to(folder).parts
        }
        if not files:
            raise ValueError(f"{folder} holds no file to serve")
        commit = self._commit(repo_id, files)
        with self._lock:
            repo = self._repos.setdefault(repo_id, _Repo(repo_id))
            repo.commits[commit.sha] = commit
            repo.refs.update(dict.fromkeys(revisions, commit.sha))
        return commit.sha

    def has(self, repo_id: str) -> bool:
        """Whether there is a repository of this name."""
        return repo_id in self._repos

    def head(self, repo_id: str, revision: str) -> str | None:
        """Return the hash of the commit that a revision names, or None."""
        found = self._repos[repo_id].find(revision) if self.has(repo_id) else None
        return None if found is None else found.sha

    def oids(self, repo_id: str, revision: str) -> dict[str, str]:
        """Return by what a push recognizes the files of a commit: SHA-256 for LFS, git's id otherwise."""
        _, commit = self._find(repo_id, revision, authorized=True)
        return {path: file.etag.strip('"') for path, file in commit.files.items()}

    def content(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return the content of every file of a commit, by name."""
        _, commit = self._find(repo_id, revision, authorized=True)
        return {path: file.stored.read_bytes() for path, file in commit.files.items()}

    def branch(self, repo_id: str, branch: str) -> None:
        """Create a branch at the head of ``main``."""
        repo, commit = self._find(repo_id, "main", authorized=True)
        if branch in repo.refs:
            raise StandInError(409, None, "Reference already exists")
        repo.refs[branch] = commit.sha

    def change(
        self,
        repo_id: str,
        revision: str,
        changes: Mapping[str, bytes | None],
        *,
        onto: str | None = None,
        private: bool = False,
    ) -> str:
        """Commit changed files, None for a deleted one, and return the hash of the commit.

        Args:
            repo_id: The repository, which comes into being with its first commit.
            revision: What names the commit from now on.
            changes: Content by name.
            onto: The revision that is changed; by default ``revision``.
            private: Whether a new repository is private.
        """
        with self._lock:
            repo = self._repos.setdefault(repo_id, _Repo(repo_id, private=private))
        before = repo.find(onto or revision)
        if before is None and repo.commits:
            raise StandInError(404, "RevisionNotFound", f"Invalid rev id: {quote(onto or revision)}")
        files = dict(before.files) if before is not None else {}
        for path, content in changes.items():
            files.pop(path, None)
            if content is not None:
                files[path] = self._keep(path, self.store(content))
        commit = self._commit_of(repo_id, files)
        with self._lock:
            repo.commits[commit.sha] = commit
            repo.refs[revision] = commit.sha
        return commit.sha

    def store(self, content: bytes) -> Path:
        """Keep the content of a file, and return where."""
        kept = Path(self._store.name) / hashlib.sha256(content).hexdigest()
        kept.write_bytes(content)
        return kept

    def stored(self, sha256: str) -> bytes | None:
        """Return a content that was kept, or None."""
        kept = Path(self._store.name) / sha256
        return kept.read_bytes() if kept.is_file() else None

    def upload_mode(self, path: str, size: int) -> str:
        """Return how a file is uploaded, ``"lfs"`` or ``"regular"``."""
        return "lfs" if is_lfs(path, size) else "regular"

    def cut_after(self, path_suffix: str, byte_count: int, times: int | None = 1, *, reset: bool = False) -> None:
        """Break the connection inside the body of every file whose ``repo_id/path`` ends in ``path_suffix``.

        Args:
            path_suffix: The end of the path.
            byte_count: Offset in the file. No byte at or after it is sent, also when a download resumes.
            times: How many responses are cut before the server recovers, ``None`` for all of them.
            reset: Reset the connection in place of closing it. The client treats the two differently.
        """
        with self._lock:
            self._cuts.append(_Cut(path_suffix, byte_count, times, reset))

    def fail_with(self, status: int | None) -> None:
        """Answer every request with an HTTP error status, or as usual again with ``None``."""
        self._failure = None if status is None else HTTPStatus(status)

    def environment(self, cache: Path) -> dict[str, str]:
        """The whole environment of a client process that shall see this hub and nothing else.

        Args:
            cache: The client's ``HF_HOME``. Repositories go to the folder ``hub`` in it.
        """
        kept = {name: value for name, value in os.environ.items() if not _FOREIGN_SETTING.match(name)}
        return kept | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": _HOST,
        }

    def _commit(self, repo_id: str, files: dict[str, Path]) -> _Commit:
        return self._commit_of(repo_id, {path: self._keep(path, source) for path, source in files.items()})

    def _commit_of(self, repo_id: str, stored: dict[str, _File]) -> _Commit:
        listing = "".join(f"{path}\0{file.sha256}\n" for path, file in sorted(stored.items()))
        return _Commit(hashlib.sha1(f"{repo_id}\n{listing}".encode()).hexdigest(), stored)

    def _keep(self, path: str, source: Path) -> _File:
        size = source.stat().st_size
        sha256 = hashlib.sha256()
        git_sha1 = hashlib.sha1(b"blob %d\0" % size)
        with source.open("rb") as stream:
            while block := stream.read(_CHUNK):
                sha256.update(block)
                git_sha1.update(block)
        kept = Path(self._store.name) / sha256.hexdigest()
        if not kept.exists():
            shutil.copyfile(source, kept)
        return _File(path, size, sha256.hexdigest(), git_sha1.hexdigest(), kept)

    # What follows is for the handler, whose threads run beside the test's.

    def _record(self, request: HubRequest) -> str:
        with self._lock:
            self.requests.append(request)
            return f"Root=1-{len(self.requests):08x}"

    def _pause(self) -> None:
        # Not time.sleep: stop() must not have to wait for the rest of a long delay.
        self._stopping.wait(self.delay_s)

    def _find(self, repo_id: str, revision: str, *, authorized: bool) -> tuple[_Repo, _Commit]:
        with self._lock:
            repo = self._repos.get(repo_id)
            commit = None if repo is None else repo.find(revision)
        if repo is None or (repo.private and not authorized):
            # An anonymous client may not learn whether a private repository exists, hence 401. The code has to be
            # there: without it the client takes a 401 for a missing repository on https addresses only.
            if authorized:
                raise StandInError(404, "RepoNotFound", "Repository not found")
            raise StandInError(401, "RepoNotFound", "Invalid username or password.")
        if commit is None:
            raise StandInError(404, "RevisionNotFound", f"Invalid rev id: {quote(revision)}")
        return repo, commit

    def _take_cut(self, path: str, end: int) -> _Cut | None:
        with self._lock:
            for cut in self._cuts:
                if path.endswith(cut.path_suffix) and cut.left != 0 and end > cut.byte_count:
                    if cut.left is not None:
                        cut.left -= 1
                    return cut
        return None


class _Server(ThreadingHTTPServer):
    """A threaded server that can drop its open connections, and that collects the bugs of its handler."""

    # Joined by server_close(), so that no thread and no socket outlives the block.
    daemon_threads = False
    # The client opens a connection for each of its download threads at once.
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        self.errors: list[BaseException] = []
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """End the connections that clients keep alive, whose threads would wait for their next request."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        error = sys.exc_info()[1]
        # A client that hangs up is no bug of this server.
        if error is not None and not isinstance(error, ConnectionError):
            self.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    # Header and body are separate writes, which Nagle's algorithm would hold apart for 40 ms each time.
    disable_nagle_algorithm = True

    def __init__(self, hub: HubServer, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def do_GET(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_PUT(self) -> None:
        self._respond(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_: Any) -> None:
        pass

    def _respond(self, body: bytes = b"") -> None:
        # The answer to an error carries the id, as the hub's does, and the client puts it into its message.
        self.request_id = self.hub._record(HubRequest(self.command, self.path, self.headers.get("Range")))
        self.hub._pause()
        try:
            failure = self.hub._failure
            if failure is not None:
                raise StandInError(failure, None, failure.phrase)  # noqa: TRY301
            self.hub.uploads.refuse_failing(self.path)
            self._route(body)
        except StandInError as error:
            self._send_json({"error": str(error)}, error.status, error.headers)

    def _route(self, body: bytes) -> None:
        target = urlsplit(self.path)
        # Split before unquoting: a quoted slash belongs to a revision's or to a folder's name.
        parts = [unquote(part) for part in target.path.split("/")[1:]]
        query = parse_qs(target.query)
        is_read = self.command in {"GET", "HEAD"}
        if (
            answer := self.hub.uploads.answer(self.command, parts, query, self.headers.get("Authorization", ""), body)
        ) is not None:
            self._send_json(*answer)
            return
        match parts:
            case ["api", "agent-harnesses"] if is_read:
                # The client asks for this list once per HF_HOME, to complete its User-Agent header.
                self._send_json({"standardEnvVars": [], "harnesses": {}})
            case ["api", "models", *rest] if is_read and rest:
                self._route_api(rest, query)
            case ["api", "datasets" | "spaces", *_]:
                raise StandInError(401, "RepoNotFound", "Invalid username or password.")
            case [name, "resolve", revision, *path] if is_read and path:
                self._send_file(name, revision, "/".join(path))
            case [namespace, name, "resolve", revision, *path] if is_read and path:
                self._send_file(f"{namespace}/{name}", revision, "/".join(path))
            case _:
                raise StandInError(404, None, "Sorry, we can't find the page you are looking for.")

    def _route_api(self, parts: list[str], query: dict[str, list[str]]) -> None:
        match parts:
            case [name, "revision", revision]:
                self._send_info(name, revision, query)
            case [namespace, name, "revision", revision]:
                self._send_info(f"{namespace}/{name}", revision, query)
            case [name, "tree", revision, *path]:
                self._send_tree(name, revision, "/".join(path), query)
            case [namespace, name, "tree", revision, *path]:
                self._send_tree(f"{namespace}/{name}", revision, "/".join(path), query)
            case [name] | [name, ""]:
                self._send_info(name, "main", query)
            case [namespace, name]:
                self._send_info(f"{namespace}/{name}", "main", query)
            case _:
                raise StandInError(404, None, "Sorry, we can't find the page you are looking for.")

    def _find(self, repo_id: str, revision: str) -> tuple[_Repo, _Commit]:
        return self.hub._find(repo_id, revision, authorized="Authorization" in self.headers)

    def _send_info(self, repo_id: str, revision: str, query: dict[str, list[str]]) -> None:
        repo, commit = self._find(repo_id, revision)
        with_blobs = query.get("blobs") == ["true"]
        info: dict[str, Any] = {
            "id": repo.repo_id,
            "modelId": repo.repo_id,
            "author": repo.repo_id.partition("/")[0] if "/" in repo.repo_id else None,
            "sha": commit.sha,
            "createdAt": _DATE,
            "lastModified": _DATE,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "usedStorage": sum(file.size for file in commit.files.values()),
            "siblings": [_sibling(file, with_blobs=with_blobs) for file in commit.files.values()],
        }
        if "expand" in query:
            info = {name: value for name, value in info.items() if name in {"id", *query["expand"]}}
        self._send_json(info)

    def _send_tree(self, repo_id: str, revision: str, path: str, query: dict[str, list[str]]) -> None:
        _, commit = self._find(repo_id, revision)
        prefix = f"{path}/" if path else ""
        inside = {name: file for name, file in commit.files.items() if name.startswith(prefix)}
        if not inside:
            raise StandInError(404, "EntryNotFound", f"{quote(path)} does not exist on {quote(revision)}")
        folders = {
            parent.as_posix()
            for name in inside
            for parent in Path(name).parents
            if parent.as_posix().startswith(prefix) and parent != Path()
        }
        entries = [_tree_folder(folder, commit) for folder in folders] + [_tree_file(file) for file in inside.values()]
        if query.get("recursive") != ["true"]:
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(prefix)]
        self._send_json(sorted(entries, key=lambda entry: entry["path"]))

    def _send_file(self, repo_id: str, revision: str, path: str) -> None:
        _, commit = self._find(repo_id, revision)
        file = commit.files.get(path)
        if file is None:
            # With the commit the client remembers for good that the file is not there.
            raise StandInError(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.sha})
        name = quote(Path(path).name)
        headers = {
            "X-Repo-Commit": commit.sha,
            "ETag": file.etag,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream" if file.is_lfs else "text/plain; charset=utf-8",
            "Content-Disposition": f"inline; filename*=UTF-8''{name}; filename=\"{name}\";",
        }
        if file.is_lfs:
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": file.etag}
        start, end = 0, file.size
        status = 200
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted:
            start, end = _resolve_range(wanted, file.size)
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        self._start(status, end - start, headers)
        if self.command == "GET":
            self._send_body(file, start, end, self.hub._take_cut(f"{repo_id}/{path}", end))

    def _send_body(self, file: _File, start: int, end: int, cut: _Cut | None) -> None:
        stop = end if cut is None else max(start, cut.byte_count)
        with file.stored.open("rb") as stream:
            stream.seek(start)
            while start < stop and not self.hub._stopping.is_set():
                block = stream.read(min(_CHUNK, stop - start))
                self.wfile.write(block)
                start += len(block)
        if start < end:
            self._hang_up(reset=cut is not None and cut.reset)

    def _hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # With a lingering time of zero close() sends a reset. The reader holds the socket open, so it goes first.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    def _send_json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self._start(status, len(body), {"Content-Type": "application/json; charset=utf-8", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-Request-Id": self.request_id, "Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def is_lfs(path: str, size: int) -> bool:
    """Whether the hub keeps a file in LFS."""
    return Path(path).suffix in _LFS_SUFFIXES or size > _LFS_THRESHOLD


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sibling(file: _File, *, with_blobs: bool) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": file.path}
    if with_blobs:
        sibling |= {"size": file.size, "blobId": file.oid}
        if file.is_lfs:
            sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return sibling


def _tree_file(file: _File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": file.path}
    if file.is_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return entry


def _tree_folder(path: str, commit: _Commit) -> dict[str, Any]:
    # Not git's tree id, which no client can check, but like it a function of what the folder holds.
    listing = "".join(f"{name}\0{file.oid}\n" for name, file in commit.files.items() if name.startswith(f"{path}/"))
    return {"type": "directory", "oid": _git_sha1(listing.encode()), "size": 0, "path": path}


def _resolve_range(wanted: re.Match[str], size: int) -> tuple[int, int]:
    """The half-open range of bytes that a Range header asks for."""
    first, last, suffix = wanted.groups()
    if suffix:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= end:
        raise StandInError(416, None, "Range Not Satisfiable", {"Content-Range": f"bytes */{size}"})
    return start, end
