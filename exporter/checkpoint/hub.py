"""A hub id -> a local folder of exactly one commit, through ``huggingface_hub``."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from exporter.errors import CheckpointError, RecipeError
from exporter.hub.client import TIMEOUT_S, Asked, is_offline, prepared

_CONFIGURATION = ("*.json", "*.txt", "*.model", "*.jinja")
_FOREIGN = ("onnx/*", "openvino/*", "*.onnx.json", "tf_*", "flax_*", "rust_*", ".*")


def download(repository: str, revision: str | None) -> tuple[Path, str]:
    """Download what a checkpoint needs, and return its folder and the full hash of the commit it is.

    Safetensors are taken where a folder of the repository has them, ``pytorch_model.bin`` where it has not. Under
    ``HF_HUB_OFFLINE=1`` the local cache answers.

    Raises:
        RecipeError: ``repository`` is no valid hub id.
        CheckpointError: There is no such repository or revision, or it needs a login.
        HubError: The hub cannot be reached or broke off, and the cache does not hold the checkpoint.
    """
    prepared()
    asked = Asked(repository, revision, CheckpointError, RecipeError, "give a local copy with `checkpoint=FOLDER`")
    with asked.told():
        if is_offline():
            folder = _cached(repository, revision)
            return folder, folder.name
        info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_S, files_metadata=True)
        names = [sibling.rfilename for sibling in info.siblings or []]
        # By the name that was asked for, so that the cache remembers it for HF_HUB_OFFLINE=1; the folder's own name is
        # the commit that was taken.
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=_wanted(names)))
        if folder.name != info.sha:  # somebody pushed meanwhile, or the hub went away and the cache answered
            info = HfApi().model_info(repository, revision=folder.name, timeout=TIMEOUT_S, files_metadata=True)
    _check_hashes(repository, folder, info)
    return folder, folder.name


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
