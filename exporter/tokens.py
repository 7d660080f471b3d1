"""Text -> token ids -> padded batches, with ``tokenizers`` and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

IntArray = npt.NDArray[np.int64]


class Padding(NamedTuple):
    """How a tokenizer pads: with which id, and on which side (``"right"`` or ``"left"``)."""

    pad_id: int
    direction: str


class TokenizedText(NamedTuple):
    """Token ids of each sentence, truncated and with special tokens, not padded."""

    rows: list[list[int]]
    padding: Padding


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> TokenizedText:
    """Tokenize with a bundle's tokenizer, which truncates and lower-cases by itself."""
    stated = tokenizer.padding or {}
    bare = Tokenizer.from_str(tokenizer.to_str()) if stated else tokenizer
    bare.no_padding()
    rows = [encoding.ids for encoding in bare.encode_batch_fast(list(sentences))]
    return TokenizedText(rows, Padding(stated.get("pad_id", 0), stated.get("direction", "right")))


def pad(rows: Sequence[Sequence[int]], padding: Padding) -> tuple[IntArray, IntArray]:
    """Pad token ids to one length; returns ids and mask, both (batch, sequence) int64."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    mask = (np.arange(lengths.max(initial=0)) < lengths[:, None]).astype(np.int64)
    if padding.direction == "left":
        mask = np.ascontiguousarray(mask[:, ::-1])
    ids = np.full(mask.shape, padding.pad_id, dtype=np.int64)
    ids[mask.astype(bool)] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return ids, mask


def batches_by_length(lengths: Sequence[int], *, batch_size: int, token_budget: int) -> Iterator[list[int]]:
    """Yield batches of row numbers, longest rows first, so that little of a batch is padding.

    Args:
        lengths: Tokens per row.
        batch_size: Rows per batch, at most.
        token_budget: Tokens per batch with padding, at most (one row always goes, however long).
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        size = max(1, min(batch_size, token_budget // longest))
        yield order[start : start + size]
        start += size
