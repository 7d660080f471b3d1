"""A hub id -> a local folder of exactly one commit, through ``huggingface_hub``."""

from __future__ import annotations

import hashlib
import logging
import re
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import HfApi, ModelInfo, constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: the httpx it uses, whichever
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from exporter.errors import CheckpointError, HubError, RecipeError
from exporter.errors import first_line as first_line_of

TIMEOUT_S = 20.0
_CONFIGURATION = ("*.json", "*.txt", "*.model", "*.jinja")
_FOREIGN = ("onnx/*", "openvino/*", "*.onnx.json", "tf_*", "flax_*", "rust_*", ".*")


_CREDENTIALS = re.compile(r"(?:(?<=:/)|(?<=://))[^/?#\s]*@|(?<![^\s'\"(])[^/?#\s]*:[^/?#\s]*@")
"""User name and password of a URL, as ``HF_ENDPOINT`` may have them for a mirror."""


def download(repository: str, revision: str | None) -> tuple[Path, str]:
    """Download what a checkpoint needs, and return its folder and the full hash of the commit it is.

    Safetensors are taken where a folder of the repository has them, ``pytorch_model.bin`` where it has not. Under
    ``HF_HUB_OFFLINE=1`` the local cache answers.

    Raises:
        RecipeError: ``repository`` is no valid hub id.
        CheckpointError: There is no such repository or revision, or it needs a login.
        HubError: The hub cannot be reached or broke off, and the cache does not hold the checkpoint.
    """
    _hide_credentials_in_log()
    try:
        if constants.is_offline_mode():
            folder = _cached(repository, revision)
            return folder, folder.name
        _check_endpoint()
        info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_S, files_metadata=True)
        names = [sibling.rfilename for sibling in info.siblings or []]
        # By the name that was asked for, so that the cache remembers it for HF_HUB_OFFLINE=1; the folder's own name is
        # the commit that was taken.
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=_wanted(names)))
        if folder.name != info.sha:  # somebody pushed meanwhile, or the hub went away and the cache answered
            info = HfApi().model_info(repository, revision=folder.name, timeout=TIMEOUT_S, files_metadata=True)
    except HFValidationError as error:
        raise RecipeError(
            f"{repository!r} is neither a folder here nor a hub id: {first_line(error)}",
            next_step="give a hub id (owner/name), or a local copy with `checkpoint=FOLDER`",
        ) from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repository}: access to this repository is restricted", next_step="accept its terms, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repository}: the hub has no revision {revision!r} of it") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repository}: the hub has no such model, or it is private",
            next_step="check the spelling; for a private model, `hf auth login`",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if not constants.is_offline_mode():
            raise _unreachable(repository, error.__cause__ or error) from error
        raise HubError(
            f"{repository}: not in the local cache, and HF_HUB_OFFLINE is set",
            next_step="unset HF_HUB_OFFLINE, or give a local copy with `checkpoint=FOLDER`",
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"{repository}: the hub lists a file that it does not have: {first_line(error)}"
        ) from error
    except (HTTPError, HfHubHTTPError, OSError) as error:
        raise _unreachable(repository, error) from error
    _check_hashes(repository, folder, info)
    return folder, folder.name


def _check_endpoint() -> None:
    """Refuse an ``HF_ENDPOINT`` that is no URL of a server. It is not repeated: it may hold a password."""
    try:
        url = urlsplit(constants.ENDPOINT)
        sound = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise HubError("HF_ENDPOINT is not the URL of a hub", next_step="give it as https://HOST, or unset it")


def without_credentials(text: str) -> str:
    """Return a text in which no URL has a user name or a password."""
    return _CREDENTIALS.sub("", text)


def first_line(error: BaseException) -> str:
    """Return the first line of what the hub's client says, without the credentials of its URLs."""
    return without_credentials(first_line_of(error))


def _hide_credentials_in_log() -> None:
    """Make the client's log, which goes to stderr, leave the credentials out of URLs."""
    for handler in logging.getLogger("huggingface_hub").handlers:
        if _without_credentials not in handler.filters:
            handler.addFilter(_without_credentials)


def _without_credentials(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_credentials(record.getMessage()), None
    return True


def _check_hashes(repository: str, folder: Path, info: ModelInfo) -> None:
    """Hold every downloaded weight against the SHA-256 the hub states: the client itself only looks at sizes."""
    for sibling in info.siblings or []:
        path = folder / sibling.rfilename
        if sibling.lfs is None or not path.is_file():
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sibling.lfs.sha256:
            raise CheckpointError(
                f"{repository}: {sibling.rfilename} is damaged: its SHA-256 differs from the hub's",
                next_step=f"delete {path.resolve()} and try again",
            )


def _cached(repository: str, revision: str | None) -> Path:
    """Return the folder in the local cache, where it is complete.

    The client counts a file it was never asked for as missing, so it is told again what was asked for. Without the
    hub's listing that is not known of ``pytorch_model.bin``: it may be absent where safetensors are there.
    """

    def find(*weights: str) -> Path:
        patterns = [*_CONFIGURATION, *weights]
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                local_files_only=True,
                allow_patterns=patterns,
                ignore_patterns=list(_FOREIGN),
            )
        )

    try:
        return find("*.safetensors", "pytorch_model*.bin", "*/pytorch_model*.bin")
    except LocalEntryNotFoundError:
        folder = find("*.safetensors")
        if not any(folder.rglob("*.safetensors")):
            raise
        return folder


def _unreachable(repository: str, error: BaseException) -> HubError:
    return HubError(
        f"{repository}: the hub at {without_credentials(constants.ENDPOINT)} cannot be reached or disconnected: "
        f"{first_line(error)}",
        next_step="try again (a broken download is resumed), set HF_HUB_OFFLINE=1 if it is in the cache, "
        "or give a local copy with `checkpoint=FOLDER`",
    )


def _wanted(names: list[str]) -> list[str]:
    """Choose the files to download: configuration, tokenizer, and one format of weights per folder."""
    kept = [name for name in names if not any(fnmatch(name, pattern) for pattern in _FOREIGN)]
    configuration = [name for name in kept if any(fnmatch(name, pattern) for pattern in _CONFIGURATION)]
    weights = [name for name in kept if name.count("/") <= 1]  # deeper ones are of a training run
    safe = [name for name in weights if name.endswith(".safetensors")]
    safe_folders = {name.rpartition("/")[0] for name in safe}
    old = [name for name in weights if fnmatch(name.rpartition("/")[2], "pytorch_model*.bin")]
    pickled = [name for name in old if name.rpartition("/")[0] not in safe_folders]
    return [*configuration, *safe, *pickled]
