"""Prompts: an encoder with each of the checkpoint's named prompts, and SentenceTransformer with the same one.

The gate judges the default prompt. Another prompt changes the text and nothing else, so a sample of the probes is
enough here; the tokenizer is compared on all of them with every prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from exporter.checkpoint import Checkpoint
from exporter.recipe import Gate
from exporter.runtime.vector_types import Vectors
from exporter.validator.check import Check
from exporter.validator.gates import significant
from exporter.validator.parity import row_cosine

SAMPLED = 16
"""One probe in so many is encoded with every prompt."""


class Prompted(Protocol):
    """What encodes with prompts: an ``Encoder``, or a server."""

    def encode(self, sentences: list[str], /, prompt_name: str | None = None) -> Vectors:
        """Return (len(sentences), dimension) float32, with the default prompt or a named one."""
        ...

    def encode_query(self, sentences: list[str], /) -> Vectors:
        """Return (len(sentences), dimension) float32, with the prompt of queries."""
        ...

    def encode_document(self, sentences: list[str], /) -> Vectors:
        """Return (len(sentences), dimension) float32, with the prompt of documents."""
        ...


def check_prompts(checkpoint: Checkpoint, encoder: Prompted | None, gate: Gate, texts: Sequence[str]) -> Check | None:
    """Compare an encoder with the reference under every prompt but the default, and as query and as document.

    Args:
        checkpoint: The reference.
        encoder: The candidate; None where no engine runs here.
        gate: Bounds of its precision: the smallest cosine and the largest relative error.
        texts: The probes, without a prompt.

    Returns:
        The check ``"prompts"``; None where every prompt has the text of the default.
    """
    default, prompts = checkpoint.facts.prompt, checkpoint.facts.prompts
    names = [name for name, prompt in prompts.items() if prompt != default]
    if not names:
        return None
    if encoder is None:
        return Check("prompts", "not compared: no engine ran")
    chosen = list(texts[::SAMPLED])
    vectors: dict[str, tuple[Vectors, Vectors]] = {
        f"prompt {name!r}": (checkpoint.encode(chosen, name), encoder.encode(chosen, prompt_name=name))
        for name in names
    }
    vectors["encode_query"] = checkpoint.encode_query(chosen), encoder.encode_query(chosen)
    vectors["encode_document"] = checkpoint.encode_document(chosen), encoder.encode_document(chosen)
    failures = [f"{way}: {told}" for way, pair in vectors.items() for told in _differences(*pair, gate)]
    return Check("prompts", f"{', '.join(vectors)} on {len(chosen)} probes", tuple(failures))


def _differences(wanted: Vectors, found: Vectors, gate: Gate) -> list[str]:
    """Return what is beyond the gate's bounds, in words."""
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    cosine = float(np.min(row_cosine(a, b)))
    error = float(np.max(np.linalg.norm(b - a, axis=1) / np.linalg.norm(a, axis=1)))
    told = [] if cosine >= gate.min_cosine else [f"min cosine {significant(cosine)} < {gate.min_cosine:g}"]
    bound = gate.max_relative_error
    return told if bound is None or error <= bound else [*told, f"max relative error {error:.2g} > {bound:g}"]
