"""Weight files: opened as data, hashed, and compared with the parameters a library made of them.

A pickle that holds code is refused, by file.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from exporter.errors import CheckpointError, first_sentence

# What torch's reader of old pickles raises when bytes are missing or out of place.
_DAMAGE = (OSError, RuntimeError, EOFError, ValueError, struct.error, LookupError, TypeError, AttributeError)

# Parameters of a transformer that no sentence vector depends on: a checkpoint may lack them.
_UNUSED = ("pooler.",)

# Weights of a pretraining head, by the beginnings of their names: a checkpoint may have them, and nothing reads them.
_HEADS = (
    *("cls.predictions.", "cls.seq_relationship.", "predictions.", "sop_classifier."),  # BERT, ALBERT
    *("lm_head.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector."),  # RoBERTa, MPNet, DistilBERT
    *("generator_predictions.", "generator_lm_head.", "discriminator_predictions."),  # ELECTRA
    *("head.dense.", "head.norm.", "decoder.weight", "decoder.bias"),  # ModernBERT
)

# Buffers that transformers 4 stored and transformers 5 computes.
_COUNTED = ("embeddings.position_ids", "embeddings.token_type_ids")


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


@dataclass(frozen=True)
class Equality:
    """What was found equal to the files, bit for bit.

    Attributes:
        tensors: How many parameters.
        weights: How many numbers in them.
    """

    tensors: int
    weights: int

    def __add__(self, other: Equality) -> Equality:
        return Equality(self.tensors + other.tensors, self.weights + other.weights)


def check_parameters(module: nn.Module, stored: StoredWeights, prefix: str = "") -> Equality:
    """Compare every parameter of a module with the tensor it comes from, as float32, bit for bit.

    Which tensor that is follows from the names alone, by the three ways in which checkpoints of BERT's family are
    written: the parameter's own name, that name after the model's prefix (``bert.``), and LayerNorm's ``gamma`` and
    ``beta`` of the TensorFlow originals. A loader that fills a parameter in any other way is found out by its bits.

    Args:
        module: The transformer, or a module after it, in float32.
        stored: Its weight files.
        prefix: ``base_model_prefix`` of the transformer, ``""`` for a module.

    Raises:
        CheckpointError: A parameter has no tensor or two, a tensor has no parameter and is of no known head, or the two
            differ.
    """
    place = stored.files[0].parent
    sources = _sources(stored, prefix, place)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    tied = _tied(parameters)
    needed = [name for name in parameters if not name.startswith(_UNUSED)]
    missing = [name for name in needed if not tied[name] & sources.keys()]
    foreign = [
        source
        for name, source in sources.items()
        if name not in parameters and name not in _COUNTED and not source.startswith(_HEADS)
    ]
    if missing:
        others = f"; {len(foreign)} in the files belong to no parameter, the first is {foreign[0]}" if foreign else ""
        raise CheckpointError(
            f"{place}: {len(missing)} of {len(needed)} weights are missing, the first is {missing[0]}{others}",
            next_step="save the checkpoint again with SentenceTransformer.save",
        )
    if foreign:
        raise CheckpointError(
            f"{place}: {len(foreign)} weights belong to no parameter of {type(module).__name__}, the first is "
            f"{foreign[0]}: the model was trained with a part that would be lost",
            next_step="export a checkpoint whose model has all of these parts",
        )
    for name, source in sources.items():
        if name in parameters:
            _check_equal(name, parameters[name], stored.tensor(source), place)
        elif name in _COUNTED:
            _check_counted(name, stored.tensor(source), place)
    compared = {id(parameters[name]): parameters[name] for name in sources if name in parameters}
    return Equality(len(compared), sum(parameter.numel() for parameter in compared.values()))


def hash_of_parameter(parameter: Tensor) -> str:
    """Return the SHA-256 of a parameter's numbers."""
    return hashlib.sha256(parameter.detach().cpu().contiguous().flatten().numpy().data).hexdigest()


def _sources(stored: StoredWeights, prefix: str, place: Path) -> dict[str, str]:
    """Return which stored tensor each name of the model stands for."""
    sources: dict[str, str] = {}
    for source in stored.names:
        name = source.removeprefix(f"{prefix}.") if prefix else source
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if name in sources:
            raise CheckpointError(f"{place}: {sources[name]} and {source} are both weights for {name}")
        sources[name] = source
    return sources


def _tied(parameters: Mapping[str, nn.Parameter]) -> dict[str, set[str]]:
    """Return for each name all names of the same parameter, its own among them."""
    names: dict[int, set[str]] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), set()).add(name)
    return {name: names[id(parameter)] for name, parameter in parameters.items()}


def _check_equal(name: str, parameter: nn.Parameter, stored: Tensor, place: Path) -> None:
    loaded, wanted = parameter.detach().cpu().contiguous(), stored.to(torch.float32).contiguous()
    if loaded.shape != wanted.shape or not torch.equal(loaded.view(torch.int32), wanted.view(torch.int32)):
        raise CheckpointError(
            f"{place}: the loaded weight {name} differs from the file",
            next_step="save the checkpoint again with SentenceTransformer.save",
        )


def _check_counted(name: str, stored: Tensor, place: Path) -> None:
    """Refuse positions or token types of the checkpoint's own: transformers 5 counts from zero and reads none."""
    flat = stored.flatten().to(torch.int64)
    wanted = torch.arange(flat.numel()) if name.endswith("position_ids") else torch.zeros_like(flat)
    if not torch.equal(flat, wanted):
        raise CheckpointError(f"{place}: {name} is not what transformers computes, and would be lost")


def _open(path: Path) -> tuple[dict[str, Callable[[], Tensor]], dict[str, tuple[int, ...]]]:
    """Return a reader and the shape of each tensor in a ``.safetensors`` or ``.bin`` file, reading it as data only."""
    try:
        if path.suffix == ".safetensors":
            file: Any = safe_open(path, framework="pt")
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
