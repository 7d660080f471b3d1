"""The two sets of texts that `benchmarks.peers` encodes: sentences, and texts of several sentences in a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from benchmarks.peer_programs import max_seq_length, transformer_folder
from exporter.benchmark import evenly_spread

BATCH = 32
SHORT, LONG = "short", "long"


@dataclass
class Text:
    """A set of texts.

    Attributes:
        all: In order.
        alone: What is encoded one by one in each turn.
        tokens: Of each text in the block, special tokens included.
        block: What is encoded in batches in each turn.
        fitted: Whether the block was shortened to what the reference encodes in about ``--block-s``.
    """

    all: list[str]
    alone: list[str]
    tokens: list[int]
    block: list[str]
    fitted: bool = False

    def shorten(self, batches: int) -> None:
        """Keep so many batches, evenly spread."""
        count = min(batches * BATCH, len(self.all))
        rows = [place * len(self.all) // count for place in range(count)]
        self.block, self.tokens = [self.all[row] for row in rows], [self.tokens[row] for row in rows]
        self.fitted = True


def texts_of(checkpoint: Path, sentences: list[str], long_tokens: int, alone: int) -> dict[str, Text]:
    """Return both sets by their names, ``SHORT`` and ``LONG``.

    Args:
        checkpoint: Whose tokenizer counts tokens.
        sentences: The short texts, of which the long ones are made.
        long_tokens: Tokens that a long text may have.
        alone: How many texts of each set are encoded one by one.
    """
    tokenizer = Tokenizer.from_file(str(transformer_folder(str(checkpoint)) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    limit = max_seq_length(str(checkpoint))

    def counts(texts: list[str]) -> list[int]:
        return [min(len(encoding.ids), limit) for encoding in tokenizer.encode_batch(texts)]

    per_sentence = np.array(counts(sentences))
    passages, start = [], 0
    while start < len(sentences):
        ends = np.cumsum(per_sentence[start:])
        count = max(1, int(np.searchsorted(ends, min(long_tokens, limit), side="right")))
        passages.append(" ".join(sentences[start : start + count]))
        start += count
    chosen = {SHORT: evenly_spread(sentences, 8 * BATCH), LONG: evenly_spread(passages, 8 * BATCH)}
    return {kind: Text(texts, evenly_spread(texts, alone), counts(texts), texts) for kind, texts in chosen.items()}
