"""The tokenizer of a bundle against the anchor: the checkpoint's own files, read by ``tokenizers`` alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer, models

from exporter.validator.check import Check

_CONTINUATION = "##"
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "added_tokens")
# Last steps of a normalizer that change no id where whitespace is dropped next: transformers 5 leaves XLM-R's out.
_OF_SPACES = (
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    {"type": "Strip", "strip_left": False, "strip_right": True},
)
_SHOWN = 3  # examples of a kind of difference that a failure names
_CHUNK = 20_000  # texts encoded at once


def check_tokenizer(anchor: Tokenizer, candidate: Tokenizer, texts: Sequence[str]) -> Check:
    """Compare two tokenizers on texts and on every entry of the vocabulary.

    The steps from text to ids must be the same ones: a step that changes one phrase shows on no probe. Every entry is
    encoded as a text of its own; a WordPiece continuation (``##ly``) also behind a letter, so that it is
    met as one. Beside that the maps from ids to tokens, the maximum of tokens and the padding must be equal.

    Args:
        anchor: What ``exporter.checkpoint.tokenizer_anchor.build_anchor`` made of the checkpoint's files.
        candidate: What a bundle publishes.
        texts: Probes and other sentences, prompts included.
    """
    vocabulary = _vocabulary(anchor)
    failures = [
        *_settings(anchor, candidate),
        *_steps(anchor, candidate),
        *_entries(vocabulary, _vocabulary(candidate)),
    ]
    anchor, candidate = _unpadded(anchor), _unpadded(candidate)
    wrong_texts, reached = _differing(anchor, candidate, list(texts))
    failures += _told(wrong_texts, len(texts), "texts")
    written = list(dict.fromkeys(_written(anchor, vocabulary)))
    wrong_entries, reached_by_entries = _differing(anchor, candidate, written)
    failures += _told(wrong_entries, len(written), "texts made of vocabulary entries")
    met = len((reached | reached_by_entries) & set(vocabulary.values()))
    equal = "give the same ids" if not failures else "were compared"
    return Check(
        name="tokenizer",
        coverage=f"{len(texts):,} texts and {len(vocabulary):,} vocabulary entries {equal}",
        failures=tuple(failures),
        figures={
            "texts": len(texts),
            "vocabulary_entries": len(vocabulary),
            "texts_of_entries": len(written),
            "ids_in_them": met,
        },
    )


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of all entries, added tokens included, in the order of the ids."""
    return dict(sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]))


def _settings(anchor: Tokenizer, candidate: Tokenizer) -> Iterator[str]:
    """Compare where the two truncate and with what they pad."""
    for name in ("truncation", "padding"):
        keys = ("max_length", "direction") if name == "truncation" else ("pad_id", "direction")
        wanted, found = ({key: (getattr(one, name) or {}).get(key) for key in keys} for one in (anchor, candidate))
        if wanted != found:
            yield f"{name} is {found}, the checkpoint's files say {wanted}"


def _steps(anchor: Tokenizer, candidate: Tokenizer) -> Iterator[str]:
    """Compare normalizer, pre-tokenizer, post-processor, added tokens and the model's settings, as JSON."""
    wanted, found = (json.loads(one.to_str()) for one in (anchor, candidate))
    for content in (wanted, found):
        steps = _normalizers(content.get("normalizer"))
        while steps and steps[-1] in _OF_SPACES and _splits_at_spaces(content.get("pre_tokenizer")):
            steps.pop()
        content["normalizer"] = steps
    for name in _STEPS:
        if wanted.get(name) != found.get(name):
            yield f"{name} is not that of the checkpoint's files"
    for name in sorted((wanted["model"].keys() | found["model"].keys()) - {"vocab"}):
        # Libraries write a setting that is not there as null or as nothing.
        if (wanted["model"].get(name) or None) != (found["model"].get(name) or None):
            yield f"the model's {name} is not that of the checkpoint's files"
    # Unigram's vocabulary has a score for each entry, by which a text is split; other vocabularies are compared by id.
    scored, found_scored = (content["model"].get("vocab") for content in (wanted, found))
    if isinstance(scored, list) and scored != found_scored:
        yield "the scores of the model's vocabulary are not those of the checkpoint's files"


def _splits_at_spaces(step: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer drops whitespace before all else: how much of it there is then changes no id."""
    if step is not None and step["type"] == "Sequence":
        return _splits_at_spaces(next(iter(step["pretokenizers"]), None))
    return step is not None and step["type"] == "WhitespaceSplit"


def _normalizers(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a normalizer in order, without what a later one does anyhow.

    sentence-transformers puts ``Lowercase`` in front where a checkpoint asks for lower-casing, and transformers leaves
    it out again where a ``BertNormalizer`` that lower-cases follows.
    """
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    steps = [one for inner in step["normalizers"] for one in _normalizers(inner)]
    lowers = any(one["type"] == "BertNormalizer" and one["lowercase"] for one in steps)
    return [one for one in steps if not (lowers and one["type"] == "Lowercase")]


def _entries(wanted: dict[str, int], found: dict[str, int]) -> Iterator[str]:
    """Compare the maps from tokens to ids."""
    wrong = [token for token in wanted | found if wanted.get(token) != found.get(token)]
    if wrong:
        shown = "; ".join(
            f"{token!r} has the id {found.get(token)}, the checkpoint's files say {wanted.get(token)}"
            for token in wrong[:_SHOWN]
        )
        yield f"{len(wrong):,} of {len(wanted | found):,} vocabulary entries have another id: {shown}"


def _differing(
    anchor: Tokenizer, candidate: Tokenizer, texts: list[str]
) -> tuple[list[tuple[str, list[int], list[int]]], set[int]]:
    """Return the texts whose ids differ, with the anchor's and the candidate's ids, and all ids of the anchor."""
    wrong: list[tuple[str, list[int], list[int]]] = []
    reached: set[int] = set()
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        for text, one, other in zip(
            chunk, anchor.encode_batch_fast(chunk), candidate.encode_batch_fast(chunk), strict=True
        ):
            reached.update(one.ids)
            if one.ids != other.ids:
                wrong.append((text, one.ids, other.ids))
    return wrong, reached


def _told(wrong: Sequence[tuple[str, list[int], list[int]]], total: int, what: str) -> Iterator[str]:
    if wrong:
        shown = "; ".join(
            f"{text[:40]!r} gives {found[:12]}, the checkpoint's files give {wanted[:12]}"
            for text, wanted, found in wrong[:_SHOWN]
        )
        yield f"{len(wrong):,} of {total:,} {what} have other ids: {shown}"


def _written(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> Iterator[str]:
    """Yield texts in which each entry of the vocabulary can occur."""
    yield from vocabulary
    if isinstance(tokenizer.model, models.WordPiece):
        letter = _lonely_letter(vocabulary)
        yield from (
            letter + entry.removeprefix(_CONTINUATION) for entry in vocabulary if entry.startswith(_CONTINUATION)
        )
    elif tokenizer.decoder is not None:
        # Entries of byte-level and sentencepiece vocabularies are written in signs for bytes and spaces.
        yield from (tokenizer.decoder.decode([entry]) for entry in vocabulary)
        yield from (f"a{tokenizer.decoder.decode(['a', entry])[1:]}" for entry in vocabulary)


def _lonely_letter(vocabulary: dict[str, int]) -> str:
    """Return a letter that begins as few longer entries as possible: what follows it is then a continuation."""
    longer = Counter(entry[0] for entry in vocabulary if len(entry) > 1 and not entry.startswith(_CONTINUATION))
    letters = [entry for entry in vocabulary if len(entry) == 1 and entry.isalpha() and entry == entry.lower()]
    return min(letters, key=lambda letter: (longer[letter], vocabulary[letter]), default="a")


def _unpadded(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that does not pad: ``tokenizers`` pads all texts of a call to the longest."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_padding()
    return copy
