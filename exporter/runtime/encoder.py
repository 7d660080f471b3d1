"""Text -> vectors from a bundle, without torch or transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Self

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from exporter.errors import BundleError, EngineError, InputError, first_line, is_panic
from exporter.runtime.facts import DOCUMENT_PROMPTS, QUERY_PROMPTS, EncoderFacts, first_prompt
from exporter.runtime.runner import Runner
from exporter.runtime.tokens import IntArray, TextTokenizer, TokenIds, batches_by_length, batches_of_little_padding

TOKENS_PER_ROW = 128  # a batch of batch_size rows may hold this many tokens a row; longer rows make smaller batches
MAX_CHARACTERS = 1_000_000
"""Characters of one sentence, at most. A tokenizer needs some 50 times the size of a text, and truncates only then."""
_CHARACTERS_AT_ONCE = 4 * MAX_CHARACTERS
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Vectors = npt.NDArray[np.float32]


class Encoder:
    """A bundle's tokenizer and engine, with the ``encode`` that users of SentenceTransformer know.

    Attributes:
        dimension: Length of a sentence vector.
        max_seq_length: Tokens per sentence, special tokens included; what is longer is truncated.
        prompts: The model's prompts, by name.
        execution: Where and in what numbers the engine really runs.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        runner: Runner,
        *,
        dimension: int,
        max_seq_length: int,
        prompt: str = "",
        prompts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._tokenizer = TextTokenizer(tokenizer)
        self._runner = runner
        self._closed = False
        self._prompt = prompt
        self.prompts = dict(prompts)
        self.dimension = dimension
        self.max_seq_length = max_seq_length
        self.execution = runner.execution

    @classmethod
    def of(cls, facts: EncoderFacts, tokenizer: Tokenizer, runner: Runner) -> Self:
        """Return an encoder of a model.

        Args:
            facts: The facts of the model, from its checkpoint or from a manifest.
            tokenizer: Its tokenizer, which truncates by itself.
            runner: Its engine.
        """
        return cls(
            tokenizer,
            runner,
            dimension=facts.dimension,
            max_seq_length=facts.max_seq_length,
            prompt=facts.prompt,
            prompts=facts.prompts,
        )

    def encode(
        self,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        normalize_embeddings: bool = False,
    ) -> Vectors:
        """Return what ``SentenceTransformer.encode`` would, as float32.

        Args:
            sentences: One sentence, or several.
            prompt_name: The model's prompt of this name is put before every sentence (default: the model's default).
            prompt: This text is put before every sentence, whatever ``prompt_name`` says.
            batch_size: Rows per batch, at most; batches of long sentences are smaller.
            show_progress_bar: Show progress on stderr. None means no.
            normalize_embeddings: Scale every vector to length 1.

        Returns:
            (dimension,) for one sentence, (len(sentences), dimension) for several, (0,) for none, as
            SentenceTransformer does.

        Raises:
            TypeError: A sentence is not a string.
            ValueError: ``batch_size`` is below 1, or the model has no prompt of that name.
            InputError: A sentence is no Unicode text, or has more than ``MAX_CHARACTERS`` characters.
            EngineError: The tokenizer or the engine fails, or the encoder is closed.
            BundleError: The engine returned another type or shape than float32 (rows, dimension).
        """
        prompt = self._resolved(prompt_name, prompt)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, and must be 1 or more")
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        if not texts:
            return np.array([], dtype=np.float32)
        rows = self._ids(texts, prompt)
        lengths = [len(row) for row in rows]
        batches = encoder_batches(lengths, batch_size)
        result = self._run_batches(rows, _shown(batches) if show_progress_bar else batches)
        if normalize_embeddings:
            result /= np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)
        vectors: Vectors = result[0] if isinstance(sentences, str) else result
        return vectors

    def encode_query(
        self,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        normalize_embeddings: bool = False,
    ) -> Vectors:
        """Encode queries: with the prompt ``"query"`` where there is one, as ``SentenceTransformer`` does.

        Arguments, result and errors are those of ``encode``.
        """
        return self.encode(
            sentences,
            first_prompt(self.prompts, QUERY_PROMPTS) if prompt_name is None else prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            normalize_embeddings=normalize_embeddings,
        )

    def encode_document(
        self,
        sentences: str | Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        normalize_embeddings: bool = False,
    ) -> Vectors:
        """Encode documents: with the prompt ``"document"``, ``"passage"`` or ``"corpus"``, the first that there is.

        Arguments, result and errors are those of ``encode``.
        """
        return self.encode(
            sentences,
            first_prompt(self.prompts, DOCUMENT_PROMPTS) if prompt_name is None else prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            normalize_embeddings=normalize_embeddings,
        )

    def _resolved(self, prompt_name: str | None, prompt: str | None) -> str:
        """Return the text that is put before every sentence."""
        if prompt is not None:
            return prompt
        if prompt_name is None:
            return self._prompt
        if prompt_name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise ValueError(f"the model has no prompt {prompt_name!r}; its prompts are {known}")
        return self.prompts[prompt_name]

    def encode_tokens(self, rows: Sequence[TokenIds], *, batch_size: int = 32, padding_tokens: int = 16) -> Vectors:
        """Encode token ids, special tokens included and without padding: (len(rows), dimension) float32.

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
        if not all(len(row) for row in rows):
            raise EngineError(f"row {next(number for number, row in enumerate(rows) if not len(row))} has no token")
        batches = batches_of_little_padding(
            [len(row) for row in rows],
            batch_size=batch_size,
            token_budget=batch_size * TOKENS_PER_ROW,
            padding_tokens=padding_tokens,
        )
        return self._run_batches(rows, batches)

    def encode_batch(self, sentences: Sequence[str]) -> Vectors:
        """Encode ``sentences`` as one batch in the order given: (len(sentences), dimension) float32.

        ``encode`` sorts and splits; this is for whoever needs to know what shares a batch.
        """
        return self._run(self._ids(sentences, self._prompt))

    def encode_padded(self, input_ids: IntArray, attention_mask: IntArray) -> Vectors:
        """Encode token ids that are padded already, as one batch: (batch, dimension) float32.

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
        promised = (len(input_ids), self.dimension)
        if vectors.dtype != np.float32 or vectors.shape != promised:
            raise BundleError(
                f"the engine returned {vectors.dtype} {vectors.shape}, and a bundle promises float32 {promised}",
                next_step="export the bundle again",
            )
        return vectors

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """Return how many tokens each sentence has after truncation."""
        return [len(row) for row in self._ids(sentences, self._prompt)]

    def _ids(self, sentences: Sequence[str], prompt: str) -> list[list[int]]:
        for position, sentence in enumerate(sentences):
            _check(sentence, position)
        rows = [ids for part in _parts(sentences) for ids in self._ids_of_part(part, prompt)]
        if not all(rows):
            empty = next(number for number, row in enumerate(rows) if not row)
            raise EngineError(f"sentence {empty} has no token at all: the tokenizer adds no special ones")
        return rows

    def _ids_of_part(self, sentences: Sequence[str], prompt: str) -> list[list[int]]:
        try:
            return self._tokenizer.ids([prompt + sentence for sentence in sentences])
        except BaseException as error:
            if not is_panic(error):
                raise
            raise EngineError(
                f"the tokenizer fails: {first_line(error)}", next_step="export the bundle again"
            ) from error

    def _run_batches(self, rows: Sequence[TokenIds], batches: Iterable[list[int]]) -> Vectors:
        """Run batches of row numbers, and return the vectors in the order of the rows."""
        result = np.empty((len(rows), self.dimension), dtype=np.float32)
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


def encoder_batches(lengths: Sequence[int], batch_size: int = 32) -> list[list[int]]:
    """Return the batches of row numbers that ``Encoder.encode`` makes of sentences with so many tokens each."""
    return list(batches_by_length(lengths, batch_size=batch_size, token_budget=batch_size * TOKENS_PER_ROW))


def rows_at_once(batch_size: int, tokens: int) -> int:
    """Return how many rows of so many tokens each ``Encoder.encode_tokens`` runs as one batch, at most."""
    return max(1, min(batch_size, batch_size * TOKENS_PER_ROW // tokens))


def _check(sentence: object, position: int) -> None:
    """Refuse what a tokenizer cannot read, or not within bounds."""
    if not isinstance(sentence, str):
        raise TypeError(f"sentence {position} is {type(sentence).__name__}, and must be a string")
    if len(sentence) > MAX_CHARACTERS:
        raise InputError(
            f"sentence {position} has {len(sentence):,} characters, and may have {MAX_CHARACTERS:,}",
            next_step="split it: the model reads no more than its beginning anyway",
        )
    if not sentence.isascii() and (lone := _LONE_SURROGATE.search(sentence)):
        raise InputError(
            f"sentence {position} has the lone surrogate U+{ord(lone[0]):04X} at character {lone.start()}, "
            "which is no Unicode text",
            next_step="replace it, for example by U+FFFD",
        )


def _parts(sentences: Sequence[str]) -> Iterator[list[str]]:
    """Yield the sentences in parts of a bounded number of characters: the tokenizer's memory grows with a part."""
    part: list[str] = []
    characters = 0
    for sentence in sentences:
        if part and characters + len(sentence) > _CHARACTERS_AT_ONCE:
            yield part
            part, characters = [], 0
        part.append(sentence)
        characters += len(sentence)
    if part:
        yield part


def _shown(batches: list[list[int]]) -> Iterable[list[int]]:
    """Show progress on stderr. rich is imported only here: a server has no use for it."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    return track(batches, "encoding", console=Console(stderr=True), transient=True)
