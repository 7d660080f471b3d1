"""DeBERTa-v2's attention as it is traced: with an axis for the heads.

transformers merges batch and heads into one axis and multiplies with ``bmm``. In such a graph nothing says that the
rows of a batch are apart, which the proof asks for. While a model is traced, each attention therefore computes the same
with an axis of its own for the heads. Both forms are compared first, with random weights in float64, because a gate
might not see a wrong distance; then the gate compares the graph with the model's own attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention, build_relative_position

from exporter.errors import UnsupportedModelError

_MASKED = torch.finfo(torch.bfloat16).min
"""Score of a key that is not read: float32's lowest would be -Inf in bfloat16, and NaN where no key is read."""


_COMPARED_TOKENS = 512  # at most: more take gigabytes
_LARGEST_DIFFERENCE = 1e-6  # relative; transformers rounds the scale to float32, which alone makes 2e-8


@contextmanager
def attention_with_head_axis(model: nn.Module, max_seq_length: int) -> Iterator[None]:
    """Have every attention of DeBERTa-v2 in a model compute with an axis for the heads.

    Args:
        model: Any model; without such an attention nothing is done.
        max_seq_length: The longest sequence in tokens.

    Raises:
        UnsupportedModelError: That form is not equal to the one of the installed transformers.
    """
    attentions = [module for module in model.modules() if isinstance(module, DisentangledSelfAttention)]
    if attentions:  # all have one configuration
        difference = _difference(attentions[0], min(max_seq_length, _COMPARED_TOKENS))
        if not difference <= _LARGEST_DIFFERENCE:
            raise UnsupportedModelError(
                f"korsbert's form of DeBERTa's attention differs from that of the installed transformers by "
                f"{difference:.1e}, relative to its vectors",
                next_step="install another version of transformers, and please report it",
            )
    for attention in attentions:
        attention.forward = partial(_forward, attention)
    try:
        yield
    finally:
        for attention in attentions:
            del attention.forward


def _difference(attention: DisentangledSelfAttention, tokens: int) -> float:
    """Return the largest distance of both forms, relative to a vector's length: random numbers, two sentences."""
    random = torch.Generator().manual_seed(0)
    copy = deepcopy(attention).to("cpu", torch.float64)
    width = copy.query_proj.in_features
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.normal_(std=width**-0.5, generator=random)
        states = torch.randn(2, tokens, width, generator=random, dtype=torch.float64)
        mask = torch.ones(2, tokens, dtype=torch.int64)
        mask[1, (tokens + 1) // 2 :] = 0
        options: dict[str, Any] = {}
        if copy.relative_attention:
            options["relative_pos"] = build_relative_position(
                states, states, copy.position_buckets, copy.max_relative_positions
            )
            options["rel_embeddings"] = torch.randn(2 * copy.pos_ebd_size, width, generator=random, dtype=torch.float64)
        read = mask[:, None, None, :] * mask[:, None, :, None]
        own, _ = copy(states, read, **options)
        ours, _ = _forward(copy, states, read, **options)
    return float(((own - ours).norm(dim=-1) / own.norm(dim=-1)).max())


def _forward(
    attention: DisentangledSelfAttention,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,  # noqa: ARG001 - the layer passes it
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Compute what ``DisentangledSelfAttention.forward`` does.

    Args:
        attention: The module.
        hidden_states: (batch, tokens, width) float32.
        attention_mask: (batch, 1, tokens, tokens): 1 where a query reads a key.
        output_attentions: Has no effect: nothing reads them here.
        query_states: None: queries are made of the hidden states too.
        relative_pos: (1, tokens, tokens) int64, the distance of each key from each query; None without distances.
        rel_embeddings: (distances, width) float32, a vector for each distance; None without distances.

    Returns:
        (batch, tokens, width) float32, and None in place of the attention's weights.

    Raises:
        UnsupportedModelError: ``query_states`` is given, as the decoder of pretraining does.
    """
    if query_states is not None:
        raise UnsupportedModelError("DeBERTa's attention with queries from other states than the keys cannot be folded")
    query, key, value = (
        _by_head(attention, projection(hidden_states))
        for projection in (attention.query_proj, attention.key_proj, attention.value_proj)
    )
    terms = 1 + sum(kind in attention.pos_att_type for kind in ("c2p", "p2c"))
    scale = (query.shape[-1] * terms) ** 0.5
    scores = query @ (key.transpose(-1, -2) / scale)
    if relative_pos is not None and rel_embeddings is not None and terms > 1:
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
