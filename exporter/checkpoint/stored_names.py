"""Which tensor of the weight files each parameter of a model comes from, by the names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from exporter.errors import CheckpointError

_QKV = tuple(f"self_attn.{name}_proj" for name in "qkv")


@dataclass(frozen=True)
class Stored:
    """Where a parameter is stored.

    Attributes:
        tensor: Name of the tensor in the weight files.
        part: The parameter is this part of the tensor's rows, counted from 0.
        parts: The tensor has the rows of so many parameters of one shape, one below another.
    """

    tensor: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class _Names:
    """How the files of an architecture name what its class in transformers names otherwise.

    Attributes:
        renamed: Patterns of names in the files, and what stands in their place in the model, applied in this order.
        joined: A tensor's module and the modules whose rows it has, by their names in the model.
    """

    renamed: tuple[tuple[str, str], ...]
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))


# The TensorFlow originals of BERT's kin.
_EVERY = _Names(((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")))

# The published files keep the names of the authors' own code. transformers renames and splits their tensors when it
# loads them, and joins them again when it saves (`transformers/conversion_mapping.py`). This table does not come from
# there, so that a mistake in either shows.
_OF_ARCHITECTURES: Mapping[str, _Names] = {
    "gte": _Names(
        renamed=(
            (r"^new\.", ""),
            (r"^encoder\.layer\.", "layers."),
            (r"\.attention\.o_proj\.", ".self_attn.o_proj."),
            (r"\.attn_ln\.", ".post_attention_layernorm."),
            (r"\.mlp_ln\.", ".post_mlp_layernorm."),
        ),
        joined={"attention.qkv_proj": _QKV, "mlp.up_gate_proj": ("mlp.up_proj", "mlp.gate_proj")},
    ),
    "jina_embeddings_v3": _Names(
        renamed=(
            (r"^emb_ln\.", "embeddings.LayerNorm."),
            (r"^encoder\.layers\.", "layers."),
            (r"\.mixer\.out_proj\.", ".self_attn.o_proj."),
            (r"\.norm1\.", ".post_attention_layernorm."),
            (r"\.norm2\.", ".post_mlp_layernorm."),
        ),
        joined={"mixer.Wqkv": _QKV},
    ),
    "nomic_bert": _Names(
        renamed=(
            (r"^emb_ln\.", "embeddings.LayerNorm."),
            (r"^encoder\.layers\.", "layers."),
            (r"\.attn\.out_proj\.", ".self_attn.o_proj."),
            (r"\.mlp\.fc11\.", ".mlp.up_proj."),
            (r"\.mlp\.fc12\.", ".mlp.gate_proj."),
            (r"\.mlp\.fc2\.", ".mlp.down_proj."),
            (r"\.norm1\.", ".post_attention_layernorm."),
            (r"\.norm2\.", ".post_mlp_layernorm."),
        ),
        joined={"attn.Wqkv": _QKV},
    ),
}


def stored_names(tensors: Iterable[str], prefix: str, model_type: str, place: object) -> dict[str, Stored]:
    """Return where each parameter is stored, by its name in the model.

    Args:
        tensors: The names in the weight files.
        prefix: ``base_model_prefix`` of the model, which some files put before every name; ``""`` for none.
        model_type: The architecture, whose files may have names of their own; ``""`` for a module that is none.
        place: Folder of the weight files, for messages.

    Raises:
        CheckpointError: Two tensors are for one parameter.
    """
    found: dict[str, Stored] = {}
    for tensor in tensors:
        for name, stored in _parameters_of(tensor, prefix, model_type):
            if name in found:
                raise CheckpointError(f"{place}: {found[name].tensor} and {tensor} are both weights for {name}")
            found[name] = stored
    return found


def _parameters_of(tensor: str, prefix: str, model_type: str) -> list[tuple[str, Stored]]:
    """Return the parameters that a tensor fills, by their names in the model."""
    own = _OF_ARCHITECTURES.get(model_type, _Names(()))
    name = tensor.removeprefix(f"{prefix}.") if prefix else tensor
    for pattern, replacement in (*_EVERY.renamed, *own.renamed):
        name = re.sub(pattern, replacement, name)
    for joined, parts in own.joined.items():
        block, found, rest = name.partition(f".{joined}.")
        if found:
            return [(f"{block}.{module}.{rest}", Stored(tensor, part, len(parts))) for part, module in enumerate(parts)]
    return [(name, Stored(tensor))]
