"""The ranges of int8 vectors: taken from what PyTorch answers in float32, never from the engine that they judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exporter.bundle import RangesFacts
from exporter.calibration import TokenBatches, calibration_sentences
from exporter.checkpoint import Checkpoint
from exporter.runtime.vector_types import Ranges

MOST = 1024
"""Sentences that ranges are taken from, at most: more make ranges wider and codes coarser."""


def calibrated_ranges(
    checkpoint: Checkpoint, calibration: Path | None, probes: Sequence[str], truncate_dims: tuple[int, ...]
) -> tuple[Ranges, RangesFacts]:
    """Return the ranges of calibration text, with every prompt that ``encode`` and its variants put before it.

    Args:
        checkpoint: The reference.
        calibration: The user's file, or None for the sentences that ship.
        probes: Text that judges later and is left out here.
        truncate_dims: The dimensions that vectors will be truncated to.

    Raises:
        InputError: The file cannot be used, or every sentence of it is a probe.
    """
    different = list(dict.fromkeys(calibration_sentences(calibration, probes)))
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
        source=calibration.name if calibration is not None else "the sentences that ship",
        sha256=TokenBatches(tuple(sentences), checkpoint.tokenizer).content_hash(),
        sentences=len(sentences),
        prompts=tuple(vectors),
    )
