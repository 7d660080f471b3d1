"""The tokenizer of a twin: a WordPiece vocabulary counted from the project's own sentences, and its files."""

from __future__ import annotations

import itertools
import json
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.support.twins.originals import WordPiece

_ROOT = Path(__file__).resolve().parents[3]
CORPUS = (_ROOT / "exporter" / "validator" / "probes.jsonl", _ROOT / "exporter" / "calibration.jsonl")
"""The sentences that vocabularies are counted from: JSON lines with a ``text`` key."""


def corpus_texts() -> list[str]:
    """Return the sentences of ``CORPUS`` in file order; a file that is not there gives none."""
    return [
        json.loads(line)["text"]
        for path in CORPUS
        if path.exists()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]


def vocabulary(kind: WordPiece, size: int, texts: Iterable[str]) -> list[str]:
    """Return a WordPiece vocabulary of exactly ``size`` distinct entries; the index of an entry is its id.

    Counted rather than trained, with ties broken by the text itself, so that equal sentences give equal files. In
    this order: the special tokens; printable ASCII; the characters of ``texts`` by frequency and the rest of the 2,350
    syllables of KS X 1001 (nearly all that Korean text uses), up to three fifths of ``size``; then beginnings and ends
    of words that occur at least twice, those that save most tokens first. ``[unusedN]`` fills up what is left, as it
    does in the KLUE vocabularies.
    """
    normalizer = _normalizer(kind)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)))

    characters: Counter[str] = Counter()
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        characters[word[0]] += count
        for character in word[1:]:
            characters[f"##{character}"] += count
        for cut in range(1, len(word)):
            pieces[word[: cut + 1]] += count
            if cut < len(word) - 1:
                pieces[f"##{word[cut:]}"] += count

    letters = string.digits + string.ascii_lowercase + ("" if kind.do_lower_case else string.ascii_uppercase)
    ascii_entries = [*string.punctuation, *letters, *(f"##{letter}" for letter in letters)]
    syllables = [bytes((lead, trail)).decode("euc_kr") for lead in range(0xB0, 0xC9) for trail in range(0xA1, 0xFF)]
    ranked_characters = itertools.chain(
        sorted(characters, key=lambda entry: (-characters[entry], entry)),
        syllables,
        (f"##{syllable}" for syllable in syllables),
    )
    ranked_pieces = sorted(
        (piece for piece, count in pieces.items() if count > 1),
        key=lambda piece: (-pieces[piece] * (len(piece.removeprefix("##")) - 1), piece),
    )
    # A dict keeps the first of each entry and the order.
    entries = dict.fromkeys([*kind.special_tokens, *ascii_entries])
    for entry in ranked_characters:
        if len(entries) >= size * 3 // 5:
            break
        entries[entry] = None
    entries |= dict.fromkeys(ranked_pieces)
    entries |= dict.fromkeys(f"[unused{index}]" for index in range(size))
    return list(entries)[:size]


def _normalizer(kind: WordPiece) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=kind.strip_accents,
        lowercase=kind.do_lower_case,
    )


def write_tokenizer(folder: Path, kind: WordPiece, entries: list[str]) -> None:
    """Write ``vocab.txt``, ``tokenizer_config.json``, ``special_tokens_map.json`` and, if fast, ``tokenizer.json``."""
    (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    named = {f"{token[1:-1].lower()}_token": token for token in ("[CLS]", "[MASK]", "[PAD]", "[SEP]", "[UNK]")}
    if kind.sentence_tokens:
        named |= {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    write_json(folder / "special_tokens_map.json", named)
    settings: dict[str, object] = {
        "do_basic_tokenize": True,
        "do_lower_case": kind.do_lower_case,
        "never_split": None,
        "strip_accents": kind.strip_accents,
        "tokenize_chinese_chars": True,
        "tokenizer_class": kind.tokenizer_class,
    }
    write_json(folder / "tokenizer_config.json", dict(sorted((settings | named | dict([kind.length_limit])).items())))
    if kind.has_tokenizer_json:
        tokenizer = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
        tokenizer.normalizer = _normalizer(kind)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix="##")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(token, entries.index(token)) for token in ("[CLS]", "[SEP]")],
        )
        tokenizer.add_special_tokens(list(kind.special_tokens))
        tokenizer.save(str(folder / "tokenizer.json"))


def write_json(path: Path, value: object) -> None:
    """Write a JSON file as transformers does."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
