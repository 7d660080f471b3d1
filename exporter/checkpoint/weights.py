"""Weight files: opened as data, and hashed. A pickle that holds code is refused, by file."""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from exporter.checkpoint.headers import open_safetensors
from exporter.errors import CheckpointError, first_sentence

# What torch's reader of old pickles raises when bytes are missing or out of place.
_DAMAGE = (OSError, RuntimeError, EOFError, ValueError, struct.error, LookupError, TypeError, AttributeError)


class StoredWeights:
    """The tensors of some weight files, by name; each is read when it is asked for.

    Attributes:
        files: The files.
        names: Names of all tensors.

    Raises:
        CheckpointError: A file is damaged, is a pickle that holds more than tensors, or two files hold one name.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = tuple(files)
        self._readers: dict[str, Callable[[], Tensor]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            readers, shapes = _open(path)
            twice = sorted(readers.keys() & self._readers.keys())
            if twice:
                raise CheckpointError(f"{path}: holds {twice[0]}, which another file of the checkpoint holds as well")
            self._readers |= readers
            self._shapes |= shapes

    @property
    def names(self) -> list[str]:
        """The names of all tensors, in the files' order."""
        return list(self._readers)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor, from the header where the format has one."""
        return self._shapes[name]

    def tensor(self, name: str) -> Tensor:
        """Return one tensor as it is stored, whatever its dtype.

        Raises:
            CheckpointError: Its bytes are damaged.
        """
        try:
            return self._readers[name]()
        except (SafetensorError, *_DAMAGE) as error:
            raise CheckpointError(
                f"{self.files[0].parent}: the weight {name} is damaged: {first_sentence(error)}",
                next_step="download it again",
            ) from error


def hash_of_parameter(parameter: Tensor) -> str:
    """Return the SHA-256 of a parameter's numbers."""
    return hashlib.sha256(parameter.detach().cpu().contiguous().flatten().numpy().data).hexdigest()


def _open(path: Path) -> tuple[dict[str, Callable[[], Tensor]], dict[str, tuple[int, ...]]]:
    """Return a reader and the shape of each tensor in a ``.safetensors`` or ``.bin`` file, reading it as data only."""
    try:
        if path.suffix == ".safetensors":
            file = open_safetensors(path, "pt")
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            return {name: partial(file.get_tensor, name) for name in names}, shapes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on pickles that it is about to refuse
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {error}", next_step="download it again") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not loaded: the pickle is damaged or holds code, and weights are data",
            next_step="convert it to safetensors if you trust it, or get safetensors from its authors",
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path}: damaged: {first_sentence(error)}", next_step="download it again") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a state dict, found {type(state).__name__}")
    if not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path}: expected a state dict, found a dict whose keys are no names")
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise CheckpointError(f"{path}: expected tensors, and {foreign[0]} is a {type(state[foreign[0]]).__name__}")
    for name, tensor in state.items():
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise CheckpointError(
                f"{path}: {name} has {tensor.numel():,} numbers, and the file does not hold so many for it",
                next_step="save the checkpoint again, with contiguous tensors",
            )
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return {name: partial(state.__getitem__, name) for name in state}, shapes


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def hash_of(files: Mapping[str, str], names: Iterable[str]) -> str:
    """Return one SHA-256 over some files.

    Args:
        files: SHA-256 of each file in hexadecimal, by name.
        names: The files that count, in order.
    """
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode())
        digest.update(bytes.fromhex(files[name]))
    return digest.hexdigest()
