"""The ranges of int8 vectors: taken from what PyTorch answers in float32, never from the engine that they judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exporter.bundle import RangesFacts
from exporter.calibration import TokenBatches
from exporter.checkpoint import Checkpoint
from exporter.runtime.vector_types import Ranges

MOST = 1024
"""Sentences that ranges are taken from, at most: more make ranges wider and codes coarser."""


def calibrated_ranges(
    checkpoint: Checkpoint, sentences: Sequence[str], own: Path | None, truncate_dims: tuple[int, ...]
) -> tuple[Ranges, RangesFacts]:
    """Return the ranges of calibration text, with every prompt that ``encode`` and its variants put before it.

    Args:
        checkpoint: The reference.
        sentences: See ``measured_sentences``.
        own: The user's file that some of them are from, or None.
        truncate_dims: The dimensions that vectors will be truncated to.
    """
    different = list(dict.fromkeys(sentences))
    sentences = different[:: -(-len(different) // MOST)]
    facts = checkpoint.facts
    vectors = {facts.prompt: checkpoint.encode(sentences)}
    for prompt, encode in (
        (facts.query_prompt, checkpoint.encode_query),
        (facts.document_prompt, checkpoint.encode_document),
    ):
        if prompt not in vectors:
            vectors[prompt] = encode(sentences)
    return Ranges.of(np.concatenate(list(vectors.values())), truncate_dims), RangesFacts(
        source="the sentences that ship" + (f" and {own.name}" if own is not None else ""),
        sha256=TokenBatches(tuple(sentences), checkpoint.tokenizer).content_hash(),
        sentences=len(sentences),
        prompts=tuple(vectors),
    )
