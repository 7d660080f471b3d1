"""Sentences of strangers -> token ids: what no tokenizer can read is refused, and memory is bounded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from exporter.errors import EngineError, InputError, first_line, is_panic
from exporter.runtime.tokens import TextTokenizer

MAX_CHARACTERS = 1_000_000
"""Characters of one sentence, at most. A tokenizer needs some 50 times the size of a text, and truncates only then."""
_CHARACTERS_AT_ONCE = 4 * MAX_CHARACTERS
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_Part = TypeVar("_Part")


def ids_of(tokenizer: TextTokenizer, sentences: Sequence[str], prompt: str) -> list[list[int]]:
    """Return the token ids of each sentence with a prompt before it, special tokens included, truncated.

    Raises:
        TypeError: A sentence is not a string.
        InputError: A sentence is no Unicode text, or has more than ``MAX_CHARACTERS`` characters.
        EngineError: The tokenizer fails, or gives a sentence no token.
    """
    for position, sentence in enumerate(sentences):
        _check(sentence, position)
    rows = [ids for part in _tokenized(sentences, prompt, tokenizer.ids) for ids in part]
    if not all(rows):
        empty = next(number for number, row in enumerate(rows) if not row)
        raise EngineError(f"sentence {empty} has no token at all: the tokenizer adds no special ones")
    return rows


def ids_and_truncated_of(
    tokenizer: TextTokenizer, texts: Sequence[str], prompt: str
) -> tuple[list[list[int]], list[bool]]:
    """Return the token ids of texts that ``lone_surrogate`` and ``MAX_CHARACTERS`` let pass, and which were truncated.

    Raises:
        EngineError: The tokenizer fails.
    """
    rows: list[list[int]] = []
    truncated: list[bool] = []
    for ids, cut in _tokenized(texts, prompt, tokenizer.ids_and_truncated):
        rows += ids
        truncated += cut
    return rows, truncated


def _tokenized(texts: Sequence[str], prompt: str, tokenize: Callable[[list[str]], _Part]) -> Iterator[_Part]:
    """Yield what ``tokenize`` returns for each part of texts; a panic of the tokenizer is an ``EngineError``."""
    for part in _parts(texts):
        try:
            yield tokenize([prompt + text for text in part])
        except BaseException as error:
            if not is_panic(error):
                raise
            told = f"the tokenizer fails: {first_line(error)}"
            raise EngineError(told, next_step="export the bundle again") from error


def lone_surrogate(text: str) -> re.Match[str] | None:
    """Return the first half of a pair of surrogates that lacks the other: such a text is no Unicode."""
    return None if text.isascii() else _LONE_SURROGATE.search(text)


def _check(sentence: object, position: int) -> None:
    """Refuse what a tokenizer cannot read, or not within bounds."""
    if not isinstance(sentence, str):
        raise TypeError(f"sentence {position} is {type(sentence).__name__}, and must be a string")
    if len(sentence) > MAX_CHARACTERS:
        raise InputError(
            f"sentence {position} has {len(sentence):,} characters, and may have {MAX_CHARACTERS:,}",
            next_step="split it: the model reads no more than its beginning anyway",
        )
    if (lone := lone_surrogate(sentence)) is not None:
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
