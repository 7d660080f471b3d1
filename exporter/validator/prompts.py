"""Prompts: an encoder with each of the checkpoint's named prompts, and SentenceTransformer with the same one.

The gate judges the default prompt. Another prompt changes the text and nothing else, so a sample of the probes is
enough here; the tokenizer is compared on all of them with every prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from exporter.recipe import Gate
from exporter.runtime.facts import EncoderFacts
from exporter.runtime.vector_types import Vectors
from exporter.validator.check import Check
from exporter.validator.gates import significant
from exporter.validator.parity import row_cosine

if TYPE_CHECKING:
    from exporter.checkpoint import Checkpoint

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


@dataclass(frozen=True)
class PromptVectors:
    """What the reference answers to some probes with its prompts.

    Attributes:
        texts: The probes, without a prompt.
        named: By the name of a prompt whose text is not that of the default, (texts, dimension) float32.
        query: The same with the prompt of queries.
        document: The same with the prompt of documents.
    """

    texts: tuple[str, ...]
    named: Mapping[str, Vectors]
    query: Vectors
    document: Vectors


def named_prompts(facts: EncoderFacts) -> list[str]:
    """Return the names of the prompts whose text is not that of the default."""
    return [name for name, prompt in facts.prompts.items() if prompt != facts.prompt]


def sampled(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the probes that are encoded with every prompt."""
    return tuple(texts[::SAMPLED])


def prompt_vectors_of(checkpoint: Checkpoint, texts: Sequence[str]) -> PromptVectors | None:
    """Encode some of the probes with every prompt but the default, and as query and as document.

    Args:
        checkpoint: The reference.
        texts: The probes, without a prompt.

    Returns:
        The vectors; None where every prompt has the text of the default.
    """
    names = named_prompts(checkpoint.facts)
    if not names:
        return None
    chosen = list(sampled(texts))
    named = {name: checkpoint.encode(chosen, name) for name in names}
    return PromptVectors(tuple(chosen), named, checkpoint.encode_query(chosen), checkpoint.encode_document(chosen))


def check_prompts(reference: PromptVectors, encoder: Prompted, gate: Gate) -> Check:
    """Compare an encoder with the reference under every prompt; the check is called ``"prompts"``.

    Args:
        reference: What the reference answers.
        encoder: The candidate.
        gate: Bounds of its precision: the smallest cosine and the largest relative error.
    """
    texts = list(reference.texts)
    vectors: dict[str, tuple[Vectors, Vectors]] = {
        f"prompt {name!r}": (wanted, encoder.encode(texts, prompt_name=name))
        for name, wanted in reference.named.items()
    }
    vectors["encode_query"] = reference.query, encoder.encode_query(texts)
    vectors["encode_document"] = reference.document, encoder.encode_document(texts)
    failures = [f"{way}: {told}" for way, pair in vectors.items() for told in _differences(*pair, gate)]
    return Check("prompts", f"{', '.join(vectors)} on {len(texts)} probes", tuple(failures))


def _differences(wanted: Vectors, found: Vectors, gate: Gate) -> list[str]:
    """Return what is beyond the gate's bounds, in words."""
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    cosine = float(np.min(row_cosine(a, b)))
    error = float(np.max(np.linalg.norm(b - a, axis=1) / np.linalg.norm(a, axis=1)))
    told = [] if cosine >= gate.min_cosine else [f"min cosine {significant(cosine)} < {gate.min_cosine:g}"]
    bound = gate.max_relative_error
    return told if bound is None or error <= bound else [*told, f"max relative error {error:.2g} > {bound:g}"]
