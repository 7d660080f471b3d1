"""What the loopback hub answers to pushes: repositories, branches, LFS uploads and commits.

It is a stand-in like the rest (``hub.py``): it does what the real client expects of the hub, as far as pushes of models
need it. Files are never taken through xet, a card's metadata is only parsed, and one token may write everywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from tests.support.hub import HubServer

GITATTRIBUTES = b"*.onnx filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"
Answer = tuple[Any, int]


class StandInError(Exception):
    """An answer in the hub's error format. The message is sent as a header too: ASCII only."""

    def __init__(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **(headers or {})}
        if code is not None:
            self.headers["X-Error-Code"] = code


@dataclass
class Failure:
    """A fault: requests whose path holds ``part`` are refused."""

    part: str
    status: int
    left: int | None


@dataclass
class Uploads:
    """The writing side of a hub.

    Attributes:
        token: The only token that may write. A token of another name is answered with 401, and ``reader`` with 403.
        reader: A token that may read only.
        on_preupload: Called before the first file is uploaded.
        on_commit: Called before a commit is made: what somebody else does meanwhile.
        answers_get_lost: Whether a commit is made and then answered with an error.
        ignored: Names that the repository's ``.gitignore`` leaves out.
        failures: What goes wrong.
        pull_requests: How many there are.
        messages: The messages of the commits so far.
    """

    hub: HubServer
    token: str = "hf_writer"
    reader: str = "hf_reader"
    on_preupload: Any = None
    on_commit: Any = None
    answers_get_lost: bool = False
    ignored: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    pull_requests: int = 0
    messages: list[str] = field(default_factory=list)

    def fail(self, part: str, status: int, times: int | None = None) -> None:
        """Refuse requests whose path holds ``part``."""
        self.failures.append(Failure(part, status, times))

    def refuse_failing(self, path: str) -> None:
        """Raise the fault that a test asked for, if it is about this path."""
        for failure in self.failures:
            if failure.part in path and failure.left != 0:
                if failure.left is not None:
                    failure.left -= 1
                raise StandInError(failure.status, None, "the test asked for it")

    def answer(
        self, method: str, parts: list[str], query: dict[str, list[str]], authorization: str, body: bytes
    ) -> Answer | None:
        """Return the answer to a writing request, or None where it is none."""
        match (method, parts):
            case ("POST", ["api", "validate-yaml"]):
                return _validate(json.loads(body)["content"])
            case ("POST", ["api", "repos", "create"]):
                self._authorize(authorization)
                return self._create(json.loads(body))
            case ("POST", ["api", "models", owner, name, "branch", branch]):
                self._authorize(authorization)
                return self._branch(f"{owner}/{name}", branch)
            case ("POST", ["api", "models", owner, name, "preupload", revision]):
                self._authorize(authorization)
                return self._preupload(f"{owner}/{name}", revision, json.loads(body))
            case ("POST", [owner, name, "info", "lfs", "objects", "batch"]) if name.endswith(".git"):
                self._authorize(authorization)
                return self._batch(json.loads(body)), 200
            case ("PUT", ["lfs", oid]):  # the address is the permission, as with storage of others
                return self._store(oid, body)
            case ("POST", ["lfs", oid, "verify"]):
                return ({}, 200) if self.hub.stored(oid) is not None else ({"error": "not found"}, 404)
            case ("POST", ["api", "models", owner, name, "commit", revision]):
                self._authorize(authorization)
                return self._commit(f"{owner}/{name}", revision, query, body)
            case _:
                return None

    def _authorize(self, authorization: str) -> None:
        sent = authorization.removeprefix("Bearer ")
        if sent == self.reader:
            raise StandInError(403, None, "Forbidden: you must use a write token")
        if sent != self.token:
            raise StandInError(401, None, "Invalid username or password.")

    def _create(self, asked: dict[str, Any]) -> Answer:
        repo_id = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        url = {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id}
        if self.hub.has(repo_id):
            return {**url, "error": "You already created this model repo"}, 409
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.change(repo_id, "main", {".gitattributes": GITATTRIBUTES}, private=private)
        return url, 200

    def _branch(self, repo_id: str, branch: str) -> Answer:
        self.hub.branch(repo_id, branch)
        return {}, 200

    def _preupload(self, repo_id: str, revision: str, asked: dict[str, Any]) -> Answer:
        if self.on_preupload is not None:
            self.on_preupload()
        there = self.hub.oids(repo_id, revision)
        return {
            "files": [
                {
                    "path": one["path"],
                    "uploadMode": self.hub.upload_mode(one["path"], one["size"]),
                    "shouldIgnore": one["path"] in self.ignored,
                    "oid": there.get(one["path"]),
                }
                for one in asked["files"]
            ]
        }, 200

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        def action(one: dict[str, Any]) -> dict[str, Any]:
            known = {"oid": one["oid"], "size": one["size"]}
            if self.hub.stored(one["oid"]) is not None:
                return known
            place = f"{self.hub.endpoint}/lfs/{one['oid']}"
            return {**known, "actions": {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}}

        return {"transfer": "basic", "objects": [action(one) for one in asked["objects"]]}

    def _store(self, oid: str, body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            raise StandInError(400, None, "the content has another hash")
        self.hub.store(body)
        return {}, 200

    def _commit(self, repo_id: str, revision: str, query: dict[str, list[str]], body: bytes) -> Answer:
        if self.on_commit is not None:
            self.on_commit()
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, self.hub.head(repo_id, revision)):
            raise StandInError(412, None, "A commit has happened since. Please refresh and try again.")
        changes: dict[str, bytes | None] = {}
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    changes[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    stored = self.hub.stored(value["oid"])
                    if stored is None:
                        raise StandInError(400, None, "an LFS file was not uploaded")
                    changes[value["path"]] = stored
                case "deletedFile":
                    changes[value["path"]] = None
        pull_request = query.get("create_pr") == ["1"]
        if pull_request:
            self.pull_requests += 1
        target = f"refs/pr/{self.pull_requests}" if pull_request else revision
        commit = self.hub.change(repo_id, target, changes, onto=revision)
        self.messages.append(header["summary"])
        if self.answers_get_lost:
            raise StandInError(502, None, "Bad Gateway")
        address = f"{self.hub.endpoint}/{repo_id}"
        answer = {"success": True, "commitOid": commit, "commitUrl": f"{address}/commit/{commit}"}
        if pull_request:
            answer["pullRequestUrl"] = f"{address}/discussions/{self.pull_requests}"
        return answer, 200


def _validate(content: str) -> Answer:
    """Parse the metadata of a card; the hub compares it with a schema besides."""
    _, start, rest = content.partition("---\n")
    metadata, end, _ = rest.partition("\n---")
    try:
        sound = bool(start and end) and isinstance(yaml.safe_load(metadata), dict)
    except yaml.YAMLError:
        sound = False
    return ({"errors": [], "warnings": []}, 200) if sound else ({"errors": [{"message": "no metadata"}]}, 400)
