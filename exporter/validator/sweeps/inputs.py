"""What a sweep runs: the word rows, positions, batch sizes and padded widths that sentences do not reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from exporter.checkpoint import Checkpoint
from exporter.engines.tensorrt.profiles import profiles_of
from exporter.recipe import Gate, Shapes
from exporter.runtime.tokens import IntArray, TextTokenizer
from exporter.validator.probes import LONG, shipped_probes

# Budgets. A model smaller than half of BERT-base costs little per token and gets more: see ``budget``.
SAMPLED_ROWS = 2000  # word rows, where the table is proven by other means
POSITION_TOKENS = 4000  # tokens, padding included, of the sequences that use every position
WIDTH_TOKENS = 6000  # tokens, padding included, of one sentence padded to many widths
BATCH_TOKENS = 8192  # tokens, padding included, of one batch: rows of a very large batch are the shortest ones

SHORT_ROWS = 37  # a prime: an engine that repeats its answers after 2, 8 or 32 rows repeats the wrong ones
MOST_WORDS = 126  # words per sequence: memory and time of attention grow with the square
FEWEST_WORDS = 2
LAST = 4  # positions of the narrow window at the end
VISIBLE = 4  # one wrong word among n moves the vector by about 1/n, and must pass the bound by this factor

_HALF_OF_BERT_BASE = 6 * 768**2
_FREE = 512  # tokens up to which attention costs little beside the linear layers

Rows = int | Literal["all", "sample"]
Padded = tuple[IntArray, IntArray]
"""``input_ids`` and ``attention_mask``, both (batch, sequence) int64."""


@dataclass(frozen=True)
class Material:
    """Token ids that sweeps are made of.

    Attributes:
        word_rows: Rows of the table of word embeddings.
        prefix: What the tokenizer puts before a sentence, for example the id of [CLS].
        suffix: What it puts after a sentence, for example the id of [SEP].
        text: Real text, (tokens,) int64, without special tokens.
        short: The shortest sentences, all different, special tokens included; shortest first.
        longest: Tokens of the longest sequence.
    """

    word_rows: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    text: IntArray
    short: tuple[tuple[int, ...], ...]
    longest: int

    def text_from(self, start: int, count: int) -> IntArray:
        """Return ``count`` ids of the text, (count,) int64, from ``start`` on and around its end."""
        return self.text[np.arange(start, start + count) % len(self.text)]


def material_of(checkpoint: Checkpoint) -> Material:
    """Tokenize the shipped probes, and take the sizes of the checkpoint's tables."""
    tokenizer = TextTokenizer(checkpoint.tokenizer)
    sentences = tokenizer.ids([probe.text for probe in shipped_probes()])
    prefix, suffix = _special_tokens(tokenizer)
    words = checkpoint.model[0].auto_model.get_input_embeddings()
    # RoBERTa counts positions from ids other than the one that pads, so real text must be free of it.
    special = _special_ids(checkpoint.tokenizer) | {checkpoint.pad_token_id, words.padding_idx}
    rows = range(int(words.num_embeddings))
    # A vocabulary that knows no word of the probes turns all of them into [UNK], which is a special token.
    text = (
        [token for row in sentences for token in row if token not in special]
        or [row for row in rows if row not in special]
        or list(rows)
    )
    short = sorted({tuple(row) for row in sentences}, key=lambda row: (len(row), row))
    return Material(
        word_rows=len(rows),
        prefix=prefix,
        suffix=suffix,
        text=np.array(text, dtype=np.int64),
        short=tuple(row for row in short[:SHORT_ROWS] if row) or ((text[0],),),
        longest=checkpoint.facts.max_seq_length,
    )


def _special_tokens(tokenizer: TextTokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what the tokenizer puts before a sentence and after it, read off an empty one and a short one."""
    empty, short = tokenizer.ids(["", "1"])
    same = 0
    while same < len(empty) and empty[same] == short[same]:
        same += 1
    return tuple(empty[:same]), tuple(empty[same:])


def _special_ids(tokenizer: Tokenizer) -> set[int]:
    return {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def budget(tokens: int, checkpoint: Checkpoint) -> int:
    """Return ``tokens``, or what costs as much as these of half a BERT-base where the model is smaller yet.

    A token of a layer costs some 12 products of hidden_size numbers with hidden_size columns, and 4 with each token of
    the sequence.
    """
    facts = checkpoint.facts
    attention = max(0, facts.max_seq_length - _FREE) / 3
    cost = facts.layers * facts.hidden_size * (facts.hidden_size + attention)
    return int(tokens * max(1.0, _HALF_OF_BERT_BASE / cost))


def word_rows(rows: Rows, material: Material, checkpoint: Checkpoint) -> IntArray:
    """Return the numbers of the rows to use, (rows,) int64, in a random order that is always the same.

    Args:
        rows: ``"all"``; how many, spread evenly over the table; or ``"sample"``, a number that costs little.
        material: The size of the table.
        checkpoint: The size of the model.
    """
    wanted = {"all": material.word_rows, "sample": budget(SAMPLED_ROWS, checkpoint)}.get(str(rows))
    count = min(material.word_rows, int(rows) if wanted is None else wanted)
    spread = np.unique(np.linspace(0, material.word_rows - 1, count).astype(np.int64))
    special = [number for number in _special_ids(checkpoint.tokenizer) if number < material.word_rows]
    return np.random.default_rng(0).permutation(np.union1d(spread, special).astype(np.int64))


def words_per_sequence(gate: Gate, material: Material) -> int:
    """Return how many words a sequence may have so that a wrong one among them passes the gate's bounds."""
    angle = [2 - 2 * bound for bound in (gate.min_cosine, gate.min_centered_cosine) if bound is not None]
    visible = min(gate.max_relative_error or np.inf, float(np.sqrt(min(angle))))
    most = max(1, min(MOST_WORDS, material.longest - len(material.prefix) - len(material.suffix)))
    return int(np.clip(1 / (VISIBLE * max(visible, 1e-9)), min(FEWEST_WORDS, most), most))


def word_sequences(rows: IntArray, words: int, material: Material) -> IntArray:
    """Return sequences of ``words`` rows each between special tokens, (sequences, tokens) int64.

    The last sequence is completed with the first rows.
    """
    count = -(-len(rows) // words)
    body = np.resize(rows, (count, words))
    before, after = (np.tile(np.array(ids, np.int64), (count, 1)) for ids in (material.prefix, material.suffix))
    return np.concatenate([before, body, after], axis=1)


def long_rows(material: Material, tokens: int) -> Padded:
    """Return two sequences of so many tokens, one the other's text rotated by half of it, and a mask of ones.

    Of more than ``LONG`` tokens it is the first one alone.
    """
    body = tokens - len(material.prefix) - len(material.suffix)
    texts = (material.text_from(start, body) for start in ((0, body // 2) if tokens <= LONG else (0,)))
    ids = np.stack([np.array([*material.prefix, *text, *material.suffix], dtype=np.int64) for text in texts])
    return ids, np.ones_like(ids)


def position_windows(material: Material, words: int, tokens: int) -> list[Padded]:
    """Return sequences in which few positions are read, so that each of these weighs much in the vector.

    The mask is 0 between the special tokens at the beginning and a window at the end. The windows are next to each
    other and cover every position. The last positions, where an engine that counts wrongly shows it first, have a
    narrow window besides.

    Args:
        material: The text.
        words: Positions per window, at least.
        tokens: Tokens of all sequences together, about: windows are made as wide as that needs.
    """
    longest, head = material.longest, len(material.prefix)
    window = max(words, -(-(longest**2) // (2 * tokens)))
    starts = range(head, longest, window)
    extents = [(start, min(start + window, longest)) for start in starts] + [(max(head, longest - LAST), longest)]
    windows = []
    for start, end in dict.fromkeys(extents):
        ids = np.concatenate([np.array(material.prefix, np.int64), material.text_from(start, end - head)])
        mask = ((np.arange(end) < head) | (np.arange(end) >= start)).astype(np.int64)
        windows.append((ids[None], mask[None]))
    return windows


def batch_sizes(shapes: Shapes) -> tuple[int, ...]:
    """Return 1, 2, the optimum and the maximum of a recipe, without those beyond the maximum."""
    sizes = {1, 2, shapes.batch.opt, shapes.batch.max}
    return tuple(sorted(size for size in sizes if size <= shapes.batch.max))


def short_rows(size: int, material: Material) -> list[int]:
    """Return which of ``material.short`` stands in each row of a batch, (size,): neighbors differ."""
    fitting = sum(len(row) * size <= BATCH_TOKENS for row in material.short)
    used = min(max(fitting, 2), len(material.short))  # the shortest come first
    return [row % used for row in range(size)]


def boundaries_of(shapes: Shapes, longest: int) -> tuple[int, ...]:
    """Return the widths at which engines and servers change what they do.

    These are the ends of optimization profiles, the extents of the recipe, and powers of two: kernels are chosen by
    them, and servers pad to them.
    """
    powers = {1 << step for step in range(longest.bit_length())}
    profiles = {extent for profile in profiles_of(shapes, longest) for extent in profile.sequence}
    return tuple(sorted(powers | profiles | {longest}))


def padded_widths(shortest: int, longest: int, boundaries: Iterable[int], tokens: int) -> tuple[int, ...]:
    """Return the widths to pad a sentence to, in order.

    Args:
        shortest: Tokens of the sentence.
        longest: The longest width.
        boundaries: Widths of which the two below, the one itself and the one above are always taken; above ``LONG``
            only the one itself.
        tokens: Tokens of all widths together, about. What the boundaries leave of it goes to widths in between, spread
            evenly.
    """
    ends = {shortest, longest, *boundaries}
    near = {end + step for end in ends for step in ((-2, -1, 0, 1) if end <= LONG else (0,))}
    needed = {width for width in near if shortest <= width <= longest}
    others = [width for width in range(shortest, longest) if width not in needed]
    left = max(0, tokens - sum(needed))
    count = len(others) if left >= sum(others) else int(left / (sum(others) / len(others)))
    return tuple(sorted(needed.union(_spread(others, count))))


def _spread(values: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the values, evenly spread and away from both ends."""
    places = ((np.arange(count) + 0.5) * len(values) / max(1, count)).astype(int)
    return [values[place] for place in places]
