"""DeBERTa-v2's attention as it is traced: with an axis for the heads.

transformers merges batch and heads into one axis and multiplies with ``bmm``. In such a graph nothing says that the
rows of a batch are apart, which the proof asks for. While a model is traced, each attention therefore computes the same
with an axis of its own for the heads. The gate compares the graph with the model's own attention all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

_MASKED = torch.finfo(torch.bfloat16).min
"""Score of a key that is not read: float32's lowest would be -Inf in bfloat16, and NaN where no key is read."""


@contextmanager
def heads_apart(model: nn.Module) -> Iterator[None]:
    """Have every attention of DeBERTa-v2 in a model compute with an axis for the heads."""
    attentions = [module for module in model.modules() if isinstance(module, DisentangledSelfAttention)]
    for attention in attentions:
        attention.forward = partial(_forward, attention)
    try:
        yield
    finally:
        for attention in attentions:
            del attention.forward


def _forward(
    attention: DisentangledSelfAttention,
    hidden_states: Tensor,
    attention_mask: Tensor,
    *_: object,
    relative_pos: Tensor,
    rel_embeddings: Tensor,
    **__: object,
) -> tuple[Tensor, None]:
    """Compute what ``DisentangledSelfAttention.forward`` does.

    Args:
        attention: The module.
        hidden_states: (batch, tokens, width) float32.
        attention_mask: (batch, 1, tokens, tokens): 1 where a query reads a key.
        relative_pos: (1, tokens, tokens) int64, the distance of each key from each query.
        rel_embeddings: (distances, width) float32, a vector for each distance.
    """
    query, key, value = (
        _by_head(attention, projection(hidden_states))
        for projection in (attention.query_proj, attention.key_proj, attention.value_proj)
    )
    terms = 1 + sum(kind in attention.pos_att_type for kind in ("c2p", "p2c"))
    scale = (query.shape[-1] * terms) ** 0.5
    scores = query @ (key.transpose(-1, -2) / scale)
    if attention.relative_attention and terms > 1:
        scores = scores + _scores_by_distance(attention, query, key, relative_pos, rel_embeddings) / scale
    scores = scores.masked_fill(~attention_mask.bool(), _MASKED)
    vectors = scores.softmax(dim=-1) @ value
    return vectors.transpose(1, 2).flatten(2), None


def _scores_by_distance(
    attention: DisentangledSelfAttention, query: Tensor, key: Tensor, distances: Tensor, vectors: Tensor
) -> Tensor:
    """Return what the distance between query and key adds: (batch, heads, tokens, tokens)."""
    span = attention.pos_ebd_size
    vectors = vectors[: 2 * span][None]
    tokens = query.shape[2]
    found = []
    if "c2p" in attention.pos_att_type:
        projection = attention.key_proj if attention.share_att_key else attention.pos_key_proj
        scores = query @ _by_head(attention, projection(vectors)).transpose(-1, -2)
        places = (distances + span).clamp(0, 2 * span - 1)
        found.append(scores.gather(-1, places.expand(*query.shape[:2], tokens, tokens)))
    if "p2c" in attention.pos_att_type:
        projection = attention.query_proj if attention.share_att_key else attention.pos_query_proj
        scores = key @ _by_head(attention, projection(vectors)).transpose(-1, -2)
        places = (span - distances).clamp(0, 2 * span - 1)
        found.append(scores.gather(-1, places.expand(*key.shape[:2], tokens, tokens)).transpose(-1, -2))
    return sum(found[1:], found[0])


def _by_head(attention: DisentangledSelfAttention, vectors: Tensor) -> Tensor:
    """Return (batch, heads, tokens, size) of (batch, tokens, width)."""
    return vectors.view(*vectors.shape[:-1], attention.num_attention_heads, -1).transpose(1, 2)
