"""Token ids -> vectors, in batches: what servers use, which tokenize elsewhere."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Executor
from typing import Self

import numpy as np
from tokenizers import Tokenizer

from exporter.errors import BundleError, EngineError
from exporter.runtime.runner import Runner
from exporter.runtime.tokens import IntArray, TextTokenizer, TokenIds, batches_by_length, batches_of_little_padding
from exporter.runtime.vector_types import Vectors

TOKENS_PER_ROW = 128  # a batch of batch_size rows may hold this many tokens a row; longer rows make smaller batches


class TokenEncoder:
    """A bundle's engine, with a tokenizer that pads for it.

    Attributes:
        full_dimension: Length of the vectors that the engine computes.
        execution: Where and in what numbers the engine really runs.
    """

    def __init__(self, tokenizer: Tokenizer, runner: Runner, dimension: int) -> None:
        self._tokenizer = TextTokenizer(tokenizer)
        self._runner = runner
        self._closed = False
        self.full_dimension = dimension
        self.execution = runner.execution

    def encode_tokens(self, rows: Sequence[TokenIds], *, batch_size: int = 32, padding_tokens: int = 16) -> Vectors:
        """Encode token ids, special tokens included and without padding: (len(rows), full_dimension) float32.

        For servers, which tokenize elsewhere and have few rows of all lengths at a time.

        Args:
            rows: Token ids of each sentence.
            batch_size: Rows per batch, at most; batches of long rows are smaller.
            padding_tokens: A batch may hold this much padding, or a tenth of its tokens where that is more; beyond it
                rows go into another batch. The more another batch costs on a device, the more it should be.

        Raises:
            EngineError: A row is empty, too long, or has an id that the vocabulary lacks.
            BundleError: The engine returned another type or shape than float32 (rows, dimension).
        """
        return self._run_batches(rows, _server_batches(rows, batch_size, padding_tokens))

    def encode_tokens_by_batch(
        self,
        rows: Sequence[TokenIds],
        *,
        batch_size: int = 32,
        padding_tokens: int = 16,
        batch_tokens: int | None = None,
        pool: Executor,
    ) -> Generator[tuple[list[int], Vectors | Exception], None, None]:
        """Encode token ids as ``encode_tokens`` does, and yield each batch when it is done: short rows come first.

        For servers, which can then answer requests for short sentences while longer ones are still being encoded. A
        batch that fails does not end the others. Whoever needs no more of them closes the generator: batches that have
        not begun are then left out.

        Args:
            rows: Token ids of each sentence.
            batch_size: Rows per batch, at most.
            padding_tokens: See ``encode_tokens``.
            batch_tokens: Tokens per batch with padding, at most; a longer row is a batch of its own. By default as in
                ``encode_tokens``.
            pool: Threads. Each runs one batch at a time; no batch runs in the calling thread.

        Yields:
            The numbers of a batch's rows, and their vectors, (len(batch), full_dimension) float32; or instead of them
            the exception that ``encode_tokens`` would raise for this batch, of any type.

        Raises:
            EngineError: A row is empty.
        """
        longest_first = _server_batches(rows, batch_size, padding_tokens, batch_tokens)
        running = [
            (batch, pool.submit(self._run_or_error, [rows[row] for row in batch])) for batch in reversed(longest_first)
        ]
        try:
            for batch, future in running:
                yield batch, future.result()
        finally:  # what nobody waits for must not delay the batches of the next call
            for _, future in running:
                future.cancel()

    def _run_or_error(self, rows: Sequence[TokenIds]) -> Vectors | Exception:
        """Encode token ids as one batch, or return what it fails with."""
        try:
            return self._run(rows)
        except Exception as error:  # noqa: BLE001 - also of the engine's library, and MemoryError
            return error

    def encode_padded(self, input_ids: IntArray, attention_mask: IntArray) -> Vectors:
        """Encode token ids that are padded already, as one batch: (batch, full_dimension) float32.

        For whoever needs to decide the width of a batch, and what stands where the mask is 0.

        Args:
            input_ids: (batch, sequence) int64.
            attention_mask: (batch, sequence) int64, 1 for tokens and 0 for padding.

        Raises:
            EngineError: The engine refuses the shape, an id or the mask.
            BundleError: The engine returned another type or shape than float32 (batch, dimension).
        """
        if self._closed:
            raise EngineError("the encoder is closed", next_step="open the bundle again")
        vectors = self._runner.run(input_ids, attention_mask)
        promised = (len(input_ids), self.full_dimension)
        if vectors.dtype != np.float32 or vectors.shape != promised:
            raise BundleError(
                f"the engine returned {vectors.dtype} {vectors.shape}, and a bundle promises float32 {promised}",
                next_step="export the bundle again",
            )
        return vectors

    def _run_batches(self, rows: Sequence[TokenIds], batches: Iterable[list[int]]) -> Vectors:
        """Run batches of row numbers, and return the vectors in the order of the rows."""
        result = np.empty((len(rows), self.full_dimension), dtype=np.float32)
        for batch in batches:
            result[batch] = self._run([rows[row] for row in batch])
        return result

    def _run(self, rows: Sequence[TokenIds]) -> Vectors:
        """Encode token ids as one batch."""
        return self.encode_padded(*self._tokenizer.pad(rows))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the engine. Encoding is then an ``EngineError``; closing once more does nothing."""
        if not self._closed:
            self._closed = True
            self._runner.__exit__(None, None, None)


def _server_batches(
    rows: Sequence[TokenIds], batch_size: int, padding_tokens: int, batch_tokens: int | None = None
) -> list[list[int]]:
    """Return batches of row numbers, longest rows first. See ``encode_tokens_by_batch``."""
    if not all(len(row) for row in rows):
        raise EngineError(f"row {next(number for number, row in enumerate(rows) if not len(row))} has no token")
    batches = batches_of_little_padding(
        [len(row) for row in rows],
        batch_size=batch_size,
        token_budget=batch_size * TOKENS_PER_ROW if batch_tokens is None else batch_tokens,
        padding_tokens=padding_tokens,
    )
    return list(batches)


def encoder_batches(lengths: Sequence[int], batch_size: int = 32) -> list[list[int]]:
    """Return the batches of row numbers that ``Encoder.encode`` makes of sentences with so many tokens each."""
    return list(batches_by_length(lengths, batch_size=batch_size, token_budget=batch_size * TOKENS_PER_ROW))


def rows_at_once(batch_size: int, tokens: int) -> int:
    """Return how many rows of so many tokens each ``Encoder.encode_tokens`` runs as one batch, at most.

    Triton's python runtime runs smaller batches, and keeps what it runs at one time within the tokens of that batch.
    """
    return max(1, min(batch_size, batch_size * TOKENS_PER_ROW // tokens))
