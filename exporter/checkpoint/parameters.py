"""The parameters of a loaded module, compared with the tensors that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from exporter.checkpoint.stored_names import Stored, stored_names
from exporter.checkpoint.weights import StoredWeights
from exporter.errors import CheckpointError

# Parameters of a transformer that no sentence vector depends on: a checkpoint may lack them.
_UNUSED = ("pooler.",)

# Weights of a pretraining head, by the beginnings of their names: a checkpoint may have them, and nothing reads them.
_HEADS = (
    *("cls.predictions.", "cls.seq_relationship.", "predictions.", "sop_classifier."),  # BERT, ALBERT
    *("lm_head.", "vocab_transform.", "vocab_layer_norm.", "vocab_projector."),  # RoBERTa, MPNet, DistilBERT
    *("generator_predictions.", "generator_lm_head.", "discriminator_predictions."),  # ELECTRA
    *("head.dense.", "head.norm.", "decoder.weight", "decoder.bias"),  # ModernBERT
    *("lm_predictions.", "mask_predictions."),  # DeBERTa
)

# Buffers that transformers 4 stored and transformers 5 computes.
_COUNTED = ("embeddings.position_ids", "embeddings.token_type_ids")


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


def check_parameters(module: nn.Module, stored: StoredWeights, prefix: str = "", model_type: str = "") -> Equality:
    """Compare every parameter of a module with the tensor it comes from, as float32, bit for bit.

    Which tensor that is follows from the names alone (``stored_names``). A loader that fills a parameter in any other
    way is found out by its bits.

    Args:
        module: The transformer, or a module after it, in float32.
        stored: Its weight files.
        prefix: ``base_model_prefix`` of the transformer, ``""`` for a module.
        model_type: Architecture of the transformer, ``""`` for a module.

    Raises:
        CheckpointError: A parameter has no tensor or two, a tensor has no parameter and is of no known head, or the two
            differ.
    """
    place = stored.files[0].parent
    sources = stored_names(stored.names, prefix, model_type, place)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    tied = _tied(parameters)
    needed = [name for name in parameters if not name.startswith(_UNUSED)]
    missing = [name for name in needed if not tied[name] & sources.keys()]
    unread = (source.tensor for name, source in sources.items() if name not in parameters and name not in _COUNTED)
    foreign = [tensor for tensor in dict.fromkeys(unread) if not tensor.startswith(_HEADS)]
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
            _check_equal(name, parameters[name], _rows(stored.tensor(source.tensor), source), place)
        elif name in _COUNTED:
            _check_counted(name, stored.tensor(source.tensor), place)
    compared = {id(parameters[name]): parameters[name] for name in sources if name in parameters}
    return Equality(len(compared), sum(parameter.numel() for parameter in compared.values()))


def _tied(parameters: Mapping[str, nn.Parameter]) -> dict[str, set[str]]:
    """Return for each name all names of the same parameter, its own among them."""
    names: dict[int, set[str]] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), set()).add(name)
    return {name: names[id(parameter)] for name, parameter in parameters.items()}


def _rows(tensor: Tensor, source: Stored) -> Tensor:
    """Return the rows that one parameter has of a tensor, or all of them where they are not those of several."""
    if source.parts == 1 or tensor.shape[0] % source.parts:
        return tensor
    rows = tensor.shape[0] // source.parts
    return tensor[source.part * rows : (source.part + 1) * rows]


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
