"""A bundle to a repository on the hub, in one commit: all of it is there afterwards, or nothing of it.

``HfApi.upload_folder`` makes several commits where ``hf_xet`` is installed, so this calls ``create_commit``. What is
committed are the bytes that were compared with the manifest.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: the httpx it uses, whichever
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from exporter.bundle.bundle import Bundle
from exporter.bundle.manifest import MANIFEST, RECORD
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate, refuse_weak_gate
from exporter.bundle.signing import SIGNATURE
from exporter.errors import BundleError, ExportError, HubError, InputError
from exporter.files import MiB
from exporter.hub.client import Asked, first_line, is_offline, prepared
from exporter.hub.names import is_hub_id

_IN_MEMORY = 10 * MiB  # files up to this size are committed as bytes; larger ones are LFS on the hub, and hashed
_KEPT = frozenset({".gitattributes", ".gitignore", "LICENSE", "README.md"})  # of a repository without a bundle
_DENIED, _CONFLICTS = {401, 403}, {409, 412}


@dataclass(frozen=True)
class Pushed:
    """What was pushed.

    Attributes:
        repository: The hub id.
        files: Size in bytes of every file, by name.
        commit: The full hash of the commit; None of a dry run.
        url: Where the commit is to be seen; None of a dry run.
        pull_request: Where the pull request is to be seen, if one was asked for.
    """

    repository: str
    files: dict[str, int]
    commit: str | None = None
    url: str | None = None
    pull_request: str | None = None


@dataclass(frozen=True)
class PushOptions:
    """How a bundle is pushed.

    Attributes:
        private: Create the repository as a private one.
        revision: The branch, which is created where it is missing; by default ``main``.
        message: The commit message.
        create_pr: Open a pull request instead of committing to the branch.
        unvalidated: Push a bundle whose engine no machine has validated.
        dry_run: Only list the files. No request is made.
    """

    private: bool = False
    revision: str | None = None
    message: str | None = None
    create_pr: bool = False
    unvalidated: bool = False
    dry_run: bool = False


def push(
    bundle: Bundle,
    repository: str,
    options: PushOptions = PushOptions(),
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE,
) -> Pushed:
    """Push a bundle, with its record of validation and its signature, in one commit.

    Files of a bundle that is there are removed in the same commit. The token is that of ``HF_TOKEN`` or of
    ``hf auth login``.

    Raises:
        BundleError: The bundle was not validated, misses the minimum gate or was altered; or the repository holds
            something else than a bundle, or is public and ``private`` is asked for.
        InputError: ``repository`` is no hub id, or two options exclude each other.
        HubError: There is no token, or the hub cannot be reached or refuses. The message says what is there then.
    """
    _refuse(bundle, repository, options, minimum_gate)
    contents = {name: bundle.read(name) for name in bundle.names if _size(bundle, name) <= _IN_MEMORY}
    files = {name: _size(bundle, name) for name in bundle.names}
    if options.dry_run:
        return Pushed(repository, files)
    hub = _Hub(repository, options)
    prepared()
    if is_offline():
        raise HubError(f"{repository}: HF_HUB_OFFLINE is set", next_step="unset it to push")
    if get_token() is None:
        raise HubError(
            f"{repository}: there is no token for the hub",
            next_step="`hf auth login`, or set HF_TOKEN; it is not printed",
        )
    with hub.told():
        parent, stale = hub.ready(files)
        added = [
            CommitOperationAdd(name, contents[name] if name in contents else bundle.folder / name) for name in files
        ]
        hub.upload(added)
        _refuse_other_bytes(bundle, added)
        commit = hub.commit([*added, *(CommitOperationDelete(name) for name in stale)], parent, bundle)
        hub.compare(commit.oid, files, added)
    return Pushed(repository, files, commit.oid, commit.commit_url, commit.pr_url)


def _refuse(bundle: Bundle, repository: str, options: PushOptions, minimum_gate: MinimumGate) -> None:
    """Refuse what is not to be pushed, before any request."""
    if not is_hub_id(repository):
        raise InputError(f"{repository!r} is no hub id", next_step="give it as owner/name")
    if options.create_pr and options.revision is not None:
        raise InputError(
            "`create_pr` and `revision` are both given, and pull requests are made to main",
            next_step="omit one of them",
        )
    if options.message is not None and not options.message.strip():
        raise InputError("`message` is empty", next_step="omit it, or say what changed")
    if not bundle.validated and not options.unvalidated:
        raise BundleError(
            f"{bundle.folder}: no machine has validated it yet, so it is not pushed",
            next_step="validate it on a machine that can run it, with `record`; or push it with `unvalidated`",
        )
    refuse_weak_gate(bundle, minimum_gate)


def _size(bundle: Bundle, name: str) -> int:
    facts = bundle.manifest.files.get(name)
    return len(bundle.read(name)) if facts is None else facts.size


def _refuse_other_bytes(bundle: Bundle, added: list[CommitOperationAdd]) -> None:
    """Refuse to commit what is not in the manifest: a large file may have been replaced while it was uploaded."""
    for operation in added:
        facts = bundle.manifest.files.get(operation.path_in_repo)
        if facts is not None and operation.upload_info.sha256.hex() != facts.sha256:
            raise BundleError(
                f"{bundle.folder / operation.path_in_repo}: altered while it was uploaded; nothing was committed",
                next_step="push again, and leave the folder alone meanwhile",
            )


class _Hub:
    """One push to one repository: its requests, and what is there when one of them fails."""

    def __init__(self, repository: str, options: PushOptions) -> None:
        self._repository, self._options = repository, options
        self._api = HfApi(library_name="korsbert")
        self._left = ["nothing was committed"]

    @contextmanager
    def told(self) -> Iterator[None]:
        """Say of every failure in the block what is on the hub now."""
        asked = Asked(
            self._repository,
            self._options.revision,
            BundleError,
            InputError,
            "push later",
            cached=False,
        )
        try:
            with asked.told():
                yield
        except ExportError as error:
            refused = _refusal(error.__cause__, self._repository)
            kind, message, next_step = refused or (type(error), error.message, error.next_step)
            raise kind(f"{message}; {', '.join(self._left)}", next_step=next_step) from error
        except (ValueError, RuntimeError) as error:  # of the client: refused metadata, a failed upload of one file
            raise HubError(
                f"{self._repository}: the hub refuses the upload: {_told(error)}; {', '.join(self._left)}",
                next_step="try again: what was uploaded is not uploaded again",
            ) from error

    def ready(self, files: dict[str, int]) -> tuple[str | None, list[str]]:
        """Create the repository and the branch where they are missing.

        Returns:
            The commit that the push builds on, and the files of the bundle there that this one does not have.
        """
        options, branch = self._options, self._options.revision or constants.DEFAULT_REVISION
        try:
            info = self._api.model_info(self._repository)
        except RepositoryNotFoundError:
            self._api.create_repo(self._repository, private=options.private or None, exist_ok=True)
            self._left.append(f"{self._repository} was created, and is empty")
            info = self._api.model_info(self._repository)
        if options.private and not info.private:
            raise BundleError(
                f"{self._repository}: is public, and `private` is given",
                next_step="make it private on the hub, or omit `private`",
            )
        if options.revision is not None:
            try:
                info = self._api.model_info(self._repository, revision=branch)
            except RevisionNotFoundError:
                self._api.create_branch(self._repository, branch=branch, exist_ok=True)
                self._left.append(f"the branch {branch} was created")
                info = self._api.model_info(self._repository, revision=branch)
        there = {sibling.rfilename for sibling in info.siblings or []}
        return info.sha, sorted((self._bundle_in(there, info.sha) & there) - files.keys())

    def _bundle_in(self, there: set[str], commit: str | None) -> set[str]:
        """Return the files of the bundle that is in the repository, and refuse a repository that holds other files."""
        others = sorted(there - _KEPT)
        if not others:
            return set()
        listed: Any = None
        if MANIFEST in there:
            path = hf_hub_download(self._repository, MANIFEST, revision=commit)
            listed = _files_of(path)
        if not isinstance(listed, dict):
            raise BundleError(
                f"{self._repository}: holds files that are no bundle, {others[0]} for one",
                next_step="push to another repository, or to a branch of a repository of its own",
            )
        return {*listed, RECORD, SIGNATURE}

    def upload(self, added: list[CommitOperationAdd]) -> None:
        """Upload large files. They are in no commit yet."""
        self._api.preupload_lfs_files(
            self._repository,
            added,
            revision=None if self._options.create_pr else self._options.revision,
            create_pr=self._options.create_pr,
            free_memory=False,
        )

    def commit(
        self, operations: list[CommitOperationAdd | CommitOperationDelete], parent: str | None, bundle: Bundle
    ) -> Any:
        """Make the commit, unless somebody has pushed since ``ready``."""
        manifest, options = bundle.manifest, self._options
        named = f"{manifest.recipe.name} {manifest.engine.precision} on {manifest.engine.backend}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of metadata that the hub would like to have
                made = self._api.create_commit(
                    self._repository,
                    operations,
                    commit_message=options.message or f"{named}, by korsbert",
                    revision=options.revision,
                    create_pr=options.create_pr,
                    parent_commit=parent,
                )
        except (HTTPError, OSError) as error:
            if not self._is_refusal(error) and not self._is_still_at(parent):
                self._left[0] = "it is not known whether the commit was made"
            raise
        self._left = [f"the commit {made.oid} is on the hub"]
        return made

    @staticmethod
    def _is_refusal(error: Exception) -> bool:
        """Whether the hub has answered that it does not do it."""
        return isinstance(error, HfHubHTTPError) and error.response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR

    def _is_still_at(self, parent: str | None) -> bool:
        """Whether the branch is where it was, as far as the hub says so. A pull request would be elsewhere."""
        with suppress(HTTPError, OSError):
            info = self._api.model_info(self._repository, revision=self._options.revision)
            return not self._options.create_pr and info.sha == parent
        return False

    def compare(self, commit: str, files: dict[str, int], added: list[CommitOperationAdd]) -> None:
        """Compare what the hub lists with what was sent: a ``.gitignore`` there may leave files out."""
        info = self._api.model_info(self._repository, revision=commit, files_metadata=True)
        found = {sibling.rfilename: sibling for sibling in info.siblings or []}
        sent = {operation.path_in_repo: operation.upload_info.sha256.hex() for operation in added}
        for name, size in files.items():
            there = found.get(name)
            lfs = None if there is None else there.lfs
            if there is None or there.size != size or (lfs is not None and lfs.sha256 != sent[name]):
                what = "has no" if there is None else "has another"
                raise BundleError(
                    f"{self._repository}: the commit {what} {name}",
                    next_step="look for a .gitignore or .gitattributes in the repository, and push again",
                )


def _files_of(path: str) -> Any:
    """Return what a manifest of any format lists as its files, or None."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        try:
            stated = json.load(file)
        except (ValueError, RecursionError):
            return None
    return stated.get("files") if isinstance(stated, dict) and "seal" in stated else None


def _refusal(error: BaseException | None, repository: str) -> tuple[type[ExportError], str, str] | None:
    """Return how a refusal of the hub is told, where it is one."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in _DENIED:
        return (
            HubError,
            f"{repository}: the hub does not let this token write there",
            "check the spelling; `hf auth whoami` says whose token it is, which must be allowed to write",
        )
    if status in _CONFLICTS:
        return HubError, f"{repository}: somebody has pushed meanwhile", "look at what is there, and push again"
    return None


def _told(error: Exception) -> str:
    """Return what the client says, its cause included: it wraps what fails of one file."""
    cause = error.__cause__
    return " ".join(first_line(one).rstrip(".") + "." for one in (error, cause) if one is not None)
