"""Text -> token ids -> padded batches, with ``tokenizers`` and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

IntArray = npt.NDArray[np.int64]
TokenIds = Sequence[int] | IntArray

ENOUGH_TOKENS, MOST_PADDING = 4096, 1 / 8  # see batches_by_length


class TextTokenizer:
    """A bundle's tokenizer, which truncates and lower-cases by itself, with padding taken into our own hands.

    ``tokenizers`` pads everything it is given to one length; here rows are sorted into batches first.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        padding = tokenizer.padding or {}
        self._pad_id: int = padding.get("pad_id", 0)
        self._pads_left = padding.get("direction", "right") == "left"
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy: the caller's keeps its padding
        self._tokenizer.no_padding()

    @property
    def padding(self) -> str:
        """The side on which rows are padded, ``"right"`` or ``"left"``."""
        return "left" if self._pads_left else "right"

    def ids(self, sentences: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each sentence, special tokens included, truncated and not padded."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(sentences))]

    def ids_and_truncated(self, sentences: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return what ``ids`` does, and of each sentence whether it had more tokens than that."""
        encodings = self._tokenizer.encode_batch_fast(list(sentences))
        return [encoding.ids for encoding in encodings], [bool(encoding.overflowing) for encoding in encodings]

    def pad(self, rows: Sequence[TokenIds], width: int | None = None) -> tuple[IntArray, IntArray]:
        """Pad token ids to ``width``, by default the longest row; ids and mask, both (batch, sequence) int64."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        mask = (np.arange(lengths.max(initial=width or 0)) < lengths[:, None]).astype(np.int64)
        if self._pads_left:
            mask = np.ascontiguousarray(mask[:, ::-1])
        ids = np.full(mask.shape, self._pad_id, dtype=np.int64)
        ids[mask.astype(bool)] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
        return ids, mask


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the tokens of a text, special tokens included, truncated, as a reader can read them.

    A byte-level tokenizer writes each byte as a letter of its own alphabet. Of such a token the part of the text is
    returned that it stands for.

    Args:
        tokenizer: Any.
        text: With the prompt, if there is one.
    """
    encoding = tokenizer.encode(text)
    special = encoding.special_tokens_mask
    if type(tokenizer.decoder).__name__ != "ByteLevel":
        return list(encoding.tokens)
    return [
        token if special[place] or start == end else text[start:end]
        for place, (token, (start, end)) in enumerate(zip(encoding.tokens, encoding.offsets, strict=True))
    ]


def batches_by_length(lengths: Sequence[int], *, batch_size: int, token_budget: int) -> Iterator[list[int]]:
    """Yield batches of row numbers, longest rows first, so that little of a batch is padding.

    A batch that is large enough to keep any device busy ends where more than an eighth of it would be padding: long
    rows are few, and many short ones beside them would be computed at their length.

    Args:
        lengths: Tokens per row.
        batch_size: Rows per batch, at most.
        token_budget: Tokens per batch with padding, at most (one row always goes, however long).
    """

    def most_padding(before: int, padded: int) -> float:
        return padded * MOST_PADDING if before >= ENOUGH_TOKENS else padded

    return _batches(lengths, batch_size, token_budget, most_padding)


def batches_of_little_padding(
    lengths: Sequence[int], *, batch_size: int, token_budget: int, padding_tokens: int
) -> Iterator[list[int]]:
    """Yield batches of row numbers, longest rows first, of which only a bounded part is padding.

    For a handful of rows of all lengths, as a server meets them: in one batch all would be as long as the longest.

    Args:
        lengths: Tokens per row, 1 or more.
        batch_size: Rows per batch, at most.
        token_budget: Tokens per batch with padding, at most (one row always goes, however long).
        padding_tokens: A batch may hold this much padding, or a tenth of its tokens where that is more. About what one
            more batch costs, in tokens.
    """

    def most_padding(_: int, padded: int) -> float:
        return max(padding_tokens, padded // 10)

    return _batches(lengths, batch_size, token_budget, most_padding)


def _batches(
    lengths: Sequence[int], batch_size: int, token_budget: int, most_padding: Callable[[int, int], float]
) -> Iterator[list[int]]:
    """Yield batches, longest rows first; each ends at the first row that would take it beyond a bound.

    Args:
        lengths: Tokens per row. A row without any counts as one.
        batch_size: Rows per batch, at most.
        token_budget: Tokens per batch with padding, at most.
        most_padding: Returns how many tokens of a batch may be padding, given its tokens with padding without and with
            the next row.
    """
    batch: list[int] = []
    longest = tokens = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        padded = longest * (len(batch) + 1)
        padding = padded - tokens - lengths[row]
        full = len(batch) == batch_size or padded > token_budget or padding > most_padding(padded - longest, padded)
        if batch and full:
            yield batch
            batch, tokens = [], 0
        if not batch:
            longest = max(1, lengths[row])
        batch.append(row)
        tokens += lengths[row]
    if batch:
        yield batch
