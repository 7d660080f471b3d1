"""Where a bundle is: a folder, or a repository on the hub, which is downloaded at one commit."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exporter.bundle.manifest import MANIFEST, RECORD, Manifest, read_manifest
from exporter.bundle.signing import SIGNATURE
from exporter.errors import BundleError, InputError
from exporter.hub.names import is_hub_id

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Found:
    """A bundle that is on this machine. Its files have not been compared with their hashes yet.

    Attributes:
        folder: Its folder; of a bundle from the hub, a snapshot in the cache of ``huggingface_hub``.
        repository: Its hub id, or None for a folder.
        commit: The full hash of its commit, or None for a folder.
    """

    folder: Path
    repository: str | None = None
    commit: str | None = None

    def __str__(self) -> str:
        return str(self.folder) if self.repository is None else f"{self.repository}@{self.commit}"


def find_bundle(bundle: str | Path, revision: str | None = None) -> Found:
    """Return where a bundle is, and download it if it is on the hub. A folder of that name wins.

    Only what the manifest lists is downloaded, with the record of validation and the signature.

    Args:
        bundle: A folder, ``owner/name``, or ``owner/name@revision``.
        revision: Branch, tag or commit on the hub; by default what stands after the ``@``, or the default branch.

    Raises:
        BundleError: Neither a folder nor a repository has that name, the hub has no such revision, or the repository
            holds no bundle.
        InputError: ``revision`` is given for a folder, or twice.
        HubError: The hub cannot be reached, and the cache does not hold the bundle.
    """
    name, _, after = str(bundle).partition("@")
    if os.path.isdir(bundle) or not is_hub_id(name):  # noqa: PTH112 - False, not an error, for an impossible name
        if revision is not None:
            raise InputError(
                f"`revision` is given, and {bundle} is not a bundle on the hub", next_step="omit it, or give owner/name"
            )
        return Found(Path(bundle))
    if after and revision is not None:
        raise InputError(f"{bundle}: a revision is given twice", next_step="omit `revision`, or what is after the @")
    return download_bundle(name, revision or after or None)


def download_bundle(repository: str, revision: str | None) -> Found:
    """Download a bundle into the cache of ``huggingface_hub``, or find it there.

    Raises:
        BundleError: There is no such repository or revision, or it holds no bundle.
        HubError: The hub cannot be reached, and the cache does not hold the bundle.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a folder needs no hub

    from exporter.hub.client import Asked, is_offline, prepared  # noqa: PLC0415

    prepared()
    asked = Asked(
        repository,
        revision,
        BundleError,
        BundleError,
        otherwise="give the folder of a bundle",
        elsewhere="there is no such folder here, and ",
    )
    # The manifest by the name that was asked for, so that the cache remembers it; the rest by the commit, so that
    # nobody's push comes in between.
    with asked.told():
        folder = _manifest(repository, revision).parent
        commit = folder.name
        wanted = [MANIFEST, RECORD, SIGNATURE, *_listed(folder, f"{repository} at commit {commit}")]
        snapshot_download(repository, revision=commit, allow_patterns=wanted, local_files_only=is_offline())
    return Found(folder, repository, commit)


def _manifest(repository: str, revision: str | None) -> Path:
    """Return where the manifest is in the cache. A commit that is there needs no request."""
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    from exporter.hub.client import TIMEOUT_S, is_offline  # noqa: PLC0415

    cached = partial(hf_hub_download, repository, MANIFEST, revision=revision, local_files_only=True)
    if is_offline():
        return Path(cached())
    if revision is not None and _COMMIT.fullmatch(revision):
        with suppress(LocalEntryNotFoundError):
            return Path(cached())
    # Asked first: a download would try a hub that is down for half a minute.
    info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_S)
    if MANIFEST not in {sibling.rfilename for sibling in info.siblings or []}:
        raise BundleError(
            f"{repository}: not a korsbert bundle: there is no {MANIFEST}",
            next_step="give a repository that `korsbert push` has written, or export the checkpoint first",
        )
    return Path(hf_hub_download(repository, MANIFEST, revision=revision))


def _listed(folder: Path, named: str) -> list[str]:
    """Return the names of the files that a manifest lists, as patterns."""
    manifest: Manifest = read_manifest(folder)
    outside = next((name for name in manifest.files if Path(name).name != name), None)
    if outside is not None:
        raise BundleError(f"{named}: its {MANIFEST} names a file outside the bundle: {outside}")
    return [_as_pattern(name) for name in manifest.files]


def _as_pattern(name: str) -> str:
    """Return a pattern of ``fnmatch`` that only this name matches."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
