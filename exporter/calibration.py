"""Real sentences -> token batches that can be read again and again, with a hash of what they hold."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from exporter.errors import InputError
from exporter.files import TEXT, read_text
from exporter.runtime.tokens import IntArray, TextTokenizer, batches_by_length

SHIPPED = Path(__file__).with_name("calibration.jsonl")


def read_sentences(path: Path) -> list[str]:
    """Read sentences from a text file (one a line) or from JSONL with a ``text`` field.

    Raises:
        InputError: The file cannot be read, is no UTF-8, a line is not what its format asks for, or nothing is left.
    """
    try:
        # Not str.splitlines, which also splits at U+2028 and others: JSON may hold them as they are.
        lines = [line.strip() for line in io.StringIO(read_text(path, TEXT, stream=True), newline=None)]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", next_step="give another text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}", next_step="save it as UTF-8") from error
    if path.suffix == ".jsonl":
        sentences = [_text_of(path, number, line) for number, line in enumerate(lines, start=1) if line]
    else:
        sentences = [line for line in lines if line]
    if not sentences:
        raise InputError(
            f"{path}: no sentence in it", next_step="write one sentence per line, or JSONL with a text field"
        )
    return sentences


_JSONL = 'a line each of {"text": "..."}, or plain text in a file that is not called .jsonl'


def _text_of(path: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: no JSON object with a text field", next_step=_JSONL) from error
    if not isinstance(text, str):
        raise InputError(f"{path}, line {number}: text is {type(text).__name__}, not a string", next_step=_JSONL)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{path}, line {number}: text has a lone surrogate, which is no Unicode", next_step=_JSONL)
    return text


def sentence_hash(sentence: str) -> str:
    """Return a hash that equal sentences share whatever their case and spacing."""
    return hashlib.sha256(" ".join(sentence.lower().split()).encode()).hexdigest()


@dataclass(frozen=True)
class TokenBatches:
    """Token batches of similar length, made anew at every iteration.

    Attributes:
        sentences: What they are made of.
        tokenizer: A bundle's tokenizer (it truncates by itself).
        batch_size: Rows per batch, at most.
        token_budget: Tokens per batch with padding, at most: memory does not grow with the number of sentences.
    """

    sentences: tuple[str, ...]
    tokenizer: Tokenizer
    batch_size: int = 32
    token_budget: int = 2048

    @property
    def count(self) -> int:
        """How many sentences there are."""
        return len(self.sentences)

    def content_hash(self) -> str:
        """Return the SHA-256 over the sentences in order."""
        return hashlib.sha256("\n".join(self.sentences).encode()).hexdigest()

    def __iter__(self) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield ``input_ids`` and ``attention_mask``, both (batch, sequence) int64."""
        tokenizer = TextTokenizer(self.tokenizer)
        rows = tokenizer.ids(self.sentences)
        lengths = [len(row) for row in rows]
        for batch in batches_by_length(lengths, batch_size=self.batch_size, token_budget=self.token_budget):
            yield tokenizer.pad([rows[row] for row in batch])


def calibration_sentences(path: Path | None, probes: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences of ``path``, or the shipped ones, less any that is also a probe.

    Raises:
        InputError: The file cannot be used, or every sentence of it is a probe.
    """
    held_out = {sentence_hash(probe) for probe in probes}
    source = path or SHIPPED
    kept = tuple(text for text in read_sentences(source) if sentence_hash(text) not in held_out)
    if not kept:
        raise InputError(f"{source}: every sentence is also a probe, and probes are not used for calibration")
    return kept


def measured_sentences(path: Path | None, probes: Sequence[str]) -> tuple[str, ...]:
    """Return text to measure with: the sentences that ship, and the user's own besides, however few these are.

    No probe is among them: what is measured decides how numbers are kept, and probes judge the result.

    Args:
        path: The user's file, or None.
        probes: Text that judges later.

    Raises:
        InputError: The file cannot be used, or every sentence of it is a probe.
    """
    own = calibration_sentences(path, probes) if path is not None else ()
    return (*calibration_sentences(None, probes), *own)


def audit_text(sentences: Sequence[str], tokenizer: Tokenizer, prompt: str) -> TokenBatches:
    """Return text to measure activations with: sentences and edge cases.

    Args:
        sentences: See ``measured_sentences``.
        tokenizer: The bundle's.
        prompt: What stands before every sentence.
    """
    edges = (text for pair in _EDGES for text in pair)
    return TokenBatches(tuple(prompt + text for text in (*sentences, *edges)), tokenizer)


FEWEST_SENTENCES = 128
"""Below, rare activations have most likely not been seen."""
_HELD_OUT_SHARE, _MOST_HELD_OUT, _MOST_HELD_OUT_TOKENS = 3, 128, 4096
_MOST_REPEATED, _MOST_UNKNOWN = 0.1, 0.2
# What no file of sentences has and every service is sent some day. Ranges that have not seen it cut it off: the first
# of each pair is calibrated with, and the second judges.
_EDGES = (
    ("매우 " * 40, "진짜 " * 48),
    ("부산", "제주"),
    ("나", "너"),
    ("X", "a"),
    ("??!!... ((()))", "--- *** /// !!"),
    ("42 1234 98.6 2025-03-04 02-345-6789", "7 88 999,000 15:30 3.14159"),
    ("https://www.example.org/a/b?c=d&e=1", "ftp://files.example.net/pub/readme.txt"),
    ("BREAKING NEWS FROM BUSAN", "ALL RIGHTS RESERVED"),
    ("🚀🔥✨", "🎂 🎈"),
    ("東京 大阪 北京", "春夏秋冬 山川草木"),
    ("하하하하하하하하하하하하하하하하하하하하", "아야어여오요우유으이아야어여오요우유으이"),
)


@dataclass(frozen=True)
class CalibrationSet:
    """Text that INT8 takes its scales from, and text from the same source that judges them.

    Attributes:
        fit: What scales are taken from, edge cases included.
        held_out: Up to 128 sentences, of at most 4,096 tokens together, that nothing is taken from.
        sha256: Over all sentences in order.
        source: Where they are from: a file's name, or that they are shipped.
        warnings: What speaks against this text, and what to do, one sentence each.
    """

    fit: TokenBatches
    held_out: TokenBatches
    sha256: str
    source: str
    warnings: tuple[str, ...]


def calibration_set(path: Path | None, probes: Sequence[str], tokenizer: Tokenizer, prompt: str) -> CalibrationSet:
    """Read calibration text, and hold every third sentence out, up to 128 of them.

    Args:
        path: The user's file, or None for the sentences that ship.
        probes: Text that judges later and is left out here.
        tokenizer: The bundle's.
        prompt: What stands before every sentence.

    Raises:
        InputError: The file cannot be used, or fewer than two different sentences are left.
    """
    sentences = calibration_sentences(path, probes)
    unique = tuple(dict.fromkeys(sentences))
    source = path.name if path is not None else "the sentences that ship"
    if len(unique) < 2:
        raise InputError(
            f"{path}: only one sentence, but int8 needs some to compute scales and others to evaluate them",
            next_step=f"give {FEWEST_SENTENCES} or more different sentences of the kind that will be encoded",
        )
    lengths = [len(row) for row in TextTokenizer(tokenizer).ids(unique)]
    places = _held_out_places(lengths)
    fit = [text for place, text in enumerate(unique) if place not in places]
    held_out = [unique[place] for place in sorted(places)]
    fit_edges, held_out_edges = zip(*_EDGES, strict=True)
    warnings = _warnings(source, sentences, unique, tokenizer)
    return CalibrationSet(
        fit=TokenBatches(tuple(prompt + text for text in (*fit, *fit_edges)), tokenizer, token_budget=1024),
        held_out=TokenBatches(
            tuple(prompt + text for text in (*held_out, *held_out_edges)), tokenizer, token_budget=1024
        ),
        sha256=hashlib.sha256("\n".join(sentences).encode()).hexdigest(),
        source=source,
        warnings=warnings,
    )


def _held_out_places(lengths: Sequence[int]) -> set[int]:
    """Return every third place, or fewer, evenly, whose sentences have few tokens together; one at least."""
    step = max(_HELD_OUT_SHARE, -(-len(lengths) // _MOST_HELD_OUT))
    chosen: set[int] = set()
    tokens = 0
    for place in sorted(range(0, len(lengths), step), key=lambda place: lengths[place]):
        tokens += lengths[place]
        if chosen and tokens > _MOST_HELD_OUT_TOKENS:
            break
        chosen.add(place)
    return chosen


def _warnings(
    source: str, sentences: tuple[str, ...], unique: tuple[str, ...], tokenizer: Tokenizer
) -> tuple[str, ...]:
    found = []
    if len(unique) < FEWEST_SENTENCES:
        found.append(
            f"{source}: {len(unique)} different sentences are few to calibrate with; give {FEWEST_SENTENCES} or more"
        )
    repeated = 1 - len(unique) / len(sentences)
    if repeated > _MOST_REPEATED:
        found.append(f"{source}: {repeated:.0%} of the sentences repeat others and count once; give different ones")
    unknown = _share_of_unknown_tokens(unique, tokenizer)
    if unknown > _MOST_UNKNOWN:
        found.append(
            f"{source}: {unknown:.0%} of the tokens are unknown to the tokenizer; give text of the language and kind "
            "that the model is for"
        )
    return tuple(found)


def _share_of_unknown_tokens(sentences: Sequence[str], tokenizer: Tokenizer) -> float:
    """Return the share of tokens that are the unknown one; 0 where the tokenizer knows every byte."""
    model = json.loads(tokenizer.to_str())["model"]
    unknown = model.get("unk_id")
    if unknown is None:
        unknown = tokenizer.token_to_id(model.get("unk_token") or "")
    if unknown is None:
        return 0.0
    ids = [token for row in TextTokenizer(tokenizer).ids(sentences) for token in row]
    return ids.count(unknown) / max(len(ids), 1)
