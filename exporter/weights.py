"""Weight files: found, opened as data, hashed. A pickle that holds code is refused, by file."""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from exporter.errors import CheckpointError, first_sentence

# What torch's reader of old pickles raises when bytes are missing or out of place.
_DAMAGE = (OSError, RuntimeError, EOFError, ValueError, struct.error, LookupError, TypeError, AttributeError)


def weight_files(places: Iterable[Path]) -> list[Path]:
    """Return the weight files in the folders of a checkpoint's modules, after opening each as data.

    Safetensors are taken where a folder has them, as sentence-transformers does.

    Raises:
        CheckpointError: There are none, one is damaged, or is a pickle that would run code.
    """
    folders = list(places)
    files: list[Path] = []
    for folder in folders:
        files += sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(f"{folders[0]}: no weights: neither *.safetensors nor pytorch_model.bin is there")
    for path in files:
        weight_names(path)
    return files


def weight_names(path: Path) -> set[str]:
    """Return the tensor names in a ``.safetensors`` or ``pytorch_model.bin`` file, reading it as data only.

    Raises:
        CheckpointError: The file is damaged, or is a pickle that holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return set(file.keys())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on pickles that it is about to refuse
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {error}", next_step="download it again") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not loaded: the pickle is damaged or holds code, and weights are data",
            next_step="convert it to safetensors where you trust it, or get it from its authors as safetensors",
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: damaged: {first_sentence(error)}", next_step="download it again") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a state dict, found {type(state).__name__}")
    if not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path}: expected a state dict, found a dict whose keys are no names")
    return set(state)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def hash_files(folder: Path, files: list[Path]) -> str:
    """Return one SHA-256 over the names (relative to ``folder``) and contents of ``files``."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
