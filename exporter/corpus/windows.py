"""A window of rows -> vectors: what cannot be encoded is set apart, equal texts are encoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.corpus.options import EmbedOptions
from exporter.corpus.results import Counts
from exporter.corpus.rows import Fault, Rows
from exporter.runtime.encoder import Encoder
from exporter.runtime.texts import MAX_CHARACTERS, ids_and_truncated_of, lone_surrogate
from exporter.runtime.token_encoder import encoder_batches
from exporter.runtime.tokens import TextTokenizer
from exporter.runtime.vector_types import Stored, Vectors, normalized, quantize_embeddings, truncated

OnProgress = Callable[[], None]


@dataclass(frozen=True)
class Tokenized:
    """A window whose texts are token ids.

    Attributes:
        rows: The window.
        faults: What is wrong with a row, by its number in the window.
        ids: Token ids of each different text, special tokens included.
        cut: Of each of them whether it has more tokens than that.
        text_of: (rows,) which of them a row has; -1 for a row with a fault.
    """

    rows: Rows
    faults: dict[int, Fault]
    ids: list[list[int]]
    cut: list[bool]
    text_of: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """A window with its vectors.

    Attributes:
        rows: The window.
        vectors: (rows, numbers) in the type that was asked for; zeros where a row has a fault.
        faults: What is wrong with a row, by its number in the window.
        counts: What its rows are.
    """

    rows: Rows
    vectors: Stored
    faults: dict[int, Fault]
    counts: Counts


class WindowEncoder:
    """Encodes windows with a bundle. ``tokenize`` may run in another thread than ``encode``.

    Args:
        encoder: The bundle's.
        prompt: What stands before every text.
        options: Type, dimensions and batches.
        on_progress: Called after every batch.
    """

    def __init__(
        self, encoder: Encoder, prompt: str, options: EmbedOptions, on_progress: OnProgress = lambda: None
    ) -> None:
        self._encoder = encoder
        self._prompt = prompt
        self._options = options
        self._on_progress = on_progress
        self._tokenizer = TextTokenizer(encoder.tokenizer)
        self._dimension = min(encoder.dimension, options.truncate_dim or encoder.dimension)
        self._ranges = None
        if options.dtype in ("int8", "uint8") and encoder.ranges is not None:
            self._ranges = encoder.ranges.at(self._dimension, normalize=options.normalize)

    def tokenize(self, rows: Rows) -> Tokenized:
        """Sort out what cannot be encoded, and turn each different text into token ids."""
        faults = dict(rows.faults)
        numbers: dict[str, int] = {}
        text_of = np.full(len(rows), -1, np.int64)
        for number, text in enumerate(rows.texts):
            if number in faults:
                continue
            fault = _fault_of(text)
            if fault is not None:
                faults[number] = fault
            else:
                text_of[number] = numbers.setdefault(str(text), len(numbers))
        ids, cut = ids_and_truncated_of(self._tokenizer, list(numbers), self._prompt)
        for row in np.flatnonzero(text_of >= 0).tolist():
            if not ids[text_of[row]]:  # a tokenizer that adds no special tokens
                faults[row], text_of[row] = "no token", -1
        return Tokenized(rows, faults, ids, cut, text_of)

    def encode(self, window: Tokenized) -> Encoded:
        """Return the vectors of a window. A text whose vector cannot be stored is a fault more."""
        vectors = np.zeros((len(window.ids), self._encoder.full_dimension), np.float32)
        padding = 0
        texts = [text for text, ids in enumerate(window.ids) if ids]
        for batch in encoder_batches([len(window.ids[text]) for text in texts], self._options.batch_size):
            chosen = [texts[number] for number in batch]
            ids, mask = self._tokenizer.pad([window.ids[text] for text in chosen])
            vectors[chosen] = self._encoder.encode_padded(ids, mask)
            self._on_progress()
            padding += int(mask.size - mask.sum())
        largest = np.abs(vectors).max(axis=1, initial=0)
        finite = largest <= np.finfo(np.float16 if self._options.dtype == "float16" else np.float32).max
        vectors[~finite] = 0  # NaN is not smaller than anything
        text_of, faults = window.text_of.copy(), dict(window.faults)
        for row in np.flatnonzero(text_of >= 0).tolist():
            if not finite[text_of[row]]:
                faults[row], text_of[row] = "not finite", -1
        stored = self._stored(vectors)
        placed = np.zeros((len(window.rows), stored.shape[1]), stored.dtype)
        placed[text_of >= 0] = stored[text_of[text_of >= 0]]
        counts = Counts(
            rows=len(window.rows),
            encoded=int((text_of >= 0).sum()),
            duplicates=int((text_of >= 0).sum()) - len(np.unique(text_of[text_of >= 0])),
            truncated=int(np.array(window.cut, bool)[text_of[text_of >= 0]].sum()),
            faults=dict(sorted(Counter(faults.values()).items())),
            tokens=sum(map(len, window.ids)),
            padding=padding,
        )
        return Encoded(window.rows, placed, faults, counts)

    def _stored(self, vectors: Vectors) -> Stored:
        found = truncated(vectors, self._dimension)
        if self._options.normalize:
            found = normalized(found)
        return quantize_embeddings(found, self._options.dtype, self._ranges)


def _fault_of(text: object) -> Fault | None:
    if text is None:
        return "null"
    if not isinstance(text, str):
        return "wrong type"
    if not text.strip():
        return "empty"
    if len(text) > MAX_CHARACTERS:
        return "too long"
    return None if lone_surrogate(text) is None else "undecodable"
