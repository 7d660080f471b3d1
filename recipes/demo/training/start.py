"""The start: a token vector for each word piece, and ALBERT weights whose CLS output is the mean of these vectors.

Minutes of distillation are short for learning a whole vocabulary from nothing. A ridge regression finds the token
vectors in a minute, and the student begins as the bag of words that they make up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import torch
from transformers import AlbertModel

from .student import CONTENT_SIZE, EMBEDDING_SIZE, HIDDEN_SIZE, MAJOR_UNITS, MINOR_UNITS
from .target import Target
from .tokenizer import SEP_ID, SPECIAL_TOKENS

log = logging.getLogger(__name__)


def prior_vectors(pieces: Sequence[str], embed: Callable[[Sequence[str]], np.ndarray], target: Target) -> np.ndarray:
    """Return what the teacher makes of each word piece on its own, in the major units of the target.

    Args:
        pieces: Texts of the word pieces, in the order of their ids.
        embed: Gives the teacher's vectors of different texts.
        target: The map to the student's hidden space.

    Returns:
        float32 ``(pieces, CONTENT_SIZE)``.
    """
    different = list(dict.fromkeys(pieces))  # "a" and "##a" are one text
    row_of = {piece: row for row, piece in enumerate(different)}
    return target(embed(different)[[row_of[piece] for piece in pieces]])[:, MAJOR_UNITS]


def ridge_tokens(
    ids: list[list[int]], wanted: np.ndarray, prior: np.ndarray, strength: float = 0.02, rounds: int = 50
) -> np.ndarray:
    """Find token vectors X whose mean over a sentence approaches the sentence's wanted vector.

    Minimises ``|A X - wanted|^2 + strength |X - prior|^2``, where a row of A averages a sentence's tokens, by the
    method of conjugate gradients (Hestenes and Stiefel, 1952) on the normal equations, each column for itself.

    Args:
        ids: Token ids of n sentences, with CLS and SEP, which are left out of the mean.
        wanted: float32 ``(n, d)``.
        prior: float32 ``(vocabulary, d)``, where rare tokens stay.
        strength: Pull towards the prior; 0.02 weighs as much as two occurrences in sentences of ten tokens.
        rounds: Steps of the method.

    Returns:
        float32 ``(vocabulary, d)``.
    """
    average = _averages(ids, len(prior))
    normal = (average.T @ average).tocsr()
    residual = average.T @ (wanted - average @ prior)
    change, direction = np.zeros_like(prior), residual.copy()
    energy = (residual**2).sum(0)
    for _ in range(rounds):
        image = normal @ direction + strength * direction
        step = energy / (direction * image).sum(0).clip(1e-12)
        change += step * direction
        residual -= step * image
        renewed = (residual**2).sum(0)
        direction = residual + renewed / energy.clip(1e-12) * direction
        energy = renewed
    tokens = prior + change
    before, after = (1 - ((wanted - average @ x) ** 2).sum() / (wanted**2).sum() for x in (prior, tokens))
    log.info("ridge: explained variance %.3f -> %.3f", before, after)
    return tokens


def _averages(ids: list[list[int]], vocabulary: int) -> sp.csr_matrix:
    """Return float32 ``(sentences, vocabulary)``: how much of each sentence's mean is each token."""
    inner = [row[1:-1] or [SEP_ID] for row in ids]  # a sentence without tokens still needs a row
    lengths = np.array([len(row) for row in inner])
    weights = np.repeat(1.0 / lengths, lengths).astype(np.float32)
    sentences = np.repeat(np.arange(len(ids)), lengths)
    return sp.csr_matrix((weights, (sentences, np.concatenate(inner))), shape=(len(ids), vocabulary))


@torch.no_grad()
def start_from_bag(model: AlbertModel, tokens: np.ndarray) -> None:
    """Set the weights in place so that CLS starts as the (weighted) mean of the token vectors.

    * The mapping to the hidden size copies an embedding's content into the minor units.
    * Attention starts near uniform; its value path copies the minor units to the major ones, so that each token
      gathers the mean there. What was initialised at random stays in small, for the training to break symmetries with.
    * CLS, SEP and PAD have no content of their own, so CLS ends as the mean, in the major units.
    * The pooler is the identity: present for a clean load, unused by CLS pooling.

    Args:
        model: A fresh student.
        tokens: float32 ``(vocabulary, CONTENT_SIZE)``.
    """
    identity = torch.eye(CONTENT_SIZE)

    model.embeddings.word_embeddings.weight.copy_(torch.from_numpy(_embedding_rows(tokens)))
    model.embeddings.position_embeddings.weight.mul_(0.05)
    model.embeddings.token_type_embeddings.weight.zero_()

    mapping = model.encoder.embedding_hidden_mapping_in
    mapping.weight.mul_(0.1)
    mapping.weight[MINOR_UNITS, :CONTENT_SIZE] += identity
    mapping.weight[:, CONTENT_SIZE:] = 0
    mapping.bias.zero_()

    layer = model.encoder.albert_layer_groups[0].albert_layers[0]
    value, dense = layer.attention.value, layer.attention.dense
    value.weight.mul_(0.1)
    value.weight[MAJOR_UNITS, MINOR_UNITS] += identity
    dense.weight.mul_(0.1)
    dense.weight.add_(torch.eye(HIDDEN_SIZE))
    layer.ffn_output.weight.mul_(0.3)

    model.pooler.weight.copy_(torch.eye(HIDDEN_SIZE))
    model.pooler.bias.zero_()


def _embedding_rows(tokens: np.ndarray) -> np.ndarray:
    """Return float32 ``(vocabulary, EMBEDDING_SIZE)``: the token vectors, filled up to one length.

    A token's length is its weight in the mean, and the embedding LayerNorm would erase it. Two filler units of opposite
    sign, which leave the mean over the units as it is, bring all tokens to one length, so that LayerNorm scales all
    alike. That length is the 99th percentile; longer tokens are shortened to it.
    """
    content = tokens.astype(np.float32).copy()
    content[: len(SPECIAL_TOKENS)] = 0
    energy = (content**2).sum(1)
    cap = np.percentile(energy[len(SPECIAL_TOKENS) :], 99)
    content *= np.minimum(1, np.sqrt(cap / energy.clip(1e-9)))[:, None]
    filler = np.sqrt((cap - (content**2).sum(1)).clip(0) / 2)[:, None]
    return np.concatenate([content, filler, -filler], 1) * math.sqrt(EMBEDDING_SIZE / cap) * 0.3
