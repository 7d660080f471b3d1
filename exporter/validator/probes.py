"""Probes: the text that judges, written for this project, and the edge cases made for each tokenizer.

Probes only judge. No range, scale or choice is ever taken from them: calibration and the float16 range audit have their
own sentences, disjoint by hash.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from exporter.runtime.tokens import TextTokenizer

SHIPPED = Path(__file__).with_name("probes.jsonl")


@dataclass(frozen=True)
class Probe:
    """One text to judge by.

    Attributes:
        text: What is encoded.
        kind: Its domain (``"law"``, ``"en_news"``), or ``"edge: ..."`` and what is special about it.
    """

    text: str
    kind: str


LONG = 2048
"""Tokens above which few sentences, widths and positions are tried: attention grows with the square of the length."""


def shipped_probes() -> list[Probe]:
    """Return the probes that ship: 700 texts, from one syllable to several hundred words."""
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    return [Probe(entry["text"], entry["domain"]) for entry in map(json.loads, lines)]


def probes_for(tokenizer: Tokenizer, max_seq_length: int, prompt: str = "") -> list[Probe]:
    """Return the shipped probes and the edge cases for a tokenizer, its longest input and its prompt."""
    probes = shipped_probes()
    return [*probes, *_edge_cases(), *_length_cases(probes, tokenizer, max_seq_length, prompt)]


def coverage_of(tokens: Sequence[int]) -> str:
    """Return how many probes there are and how long: ``"727 probes of 2 to 8,192 tokens (2 above 2,048)"``.

    Args:
        tokens: Tokens of each probe.
    """
    long = sum(count > LONG for count in tokens)
    told = f" ({long} above {LONG:,})" if long else ""
    return f"{len(tokens)} probes of {min(tokens):,} to {max(tokens):,} tokens{told}"


def _edge_cases() -> list[Probe]:
    sentence = "한강 공원에서 자전거를 타다가 소나기를 만났다."
    cases = {
        "empty": "",
        "white space": " \t\n  ",
        "one syllable": "가",
        "one letter": "Q",
        "one space around": f" {sentence} ",
        "NFC Hangul": sentence,
        "NFD Hangul": unicodedata.normalize("NFD", sentence),
        "compatibility jamo": "ㅋㅋㅋㅋ ㅠㅠ ㅇㅇ",
        "emoji": "😀🎉🍜",
        "emoji with joiners": "👩‍👩‍👧‍👦 우리 가족 👍🏽",
        "digits": "0 12 345 6789 1,234,567.89 2026-11-21 010-0000-0000",
        "URL": "https://example.com/search?q=%ED%95%9C%EA%B5%AD&page=2#결과",
        "e-mail": "Please write to Support.Team+KR@example.com today.",
        "upper case": "SEOUL IS THE CAPITAL OF KOREA AND NOT OF JAPAN",
        "lower case": "seoul is the capital of korea and not of japan",
        "accents": "Ça déjà vu naïve Škoda Ångström ÜBER",
        "full width": "ＡＢＣ　１２３　！？",
        "Hanja": "大韓民國 憲法 第一條 第一項",
        "Japanese and Cyrillic": "東京は日本の首都です。 Москва",
        "punctuation": "...!?!?... --- ((([[[{{{}}}]]])))",
        "special tokens as text": "[CLS] 이것은 [SEP] 문장 [PAD] 입니다 [MASK]",
        "control characters": "앞\x00뒤\x07 사이\u200b공백\ufeff",
        "a long word": "가나다라마바사아자차카타파하" * 12,
        "repeated word": "정말 " * 40,
    }
    return [Probe(text, f"edge: {kind}") for kind, text in cases.items()]


def _length_cases(probes: list[Probe], tokenizer: Tokenizer, max_seq_length: int, prompt: str) -> list[Probe]:
    """Make texts of exactly the longest length, one token more, and about half of it.

    Where the longest length is no more than ``LONG``, there is also one a token shorter, and one far beyond it.
    """
    words = [word for probe in probes for word in probe.text.split()]
    wanted = {
        "one token below max_seq_length": max_seq_length - 1,
        "exactly max_seq_length": max_seq_length,
        "one token beyond max_seq_length": max_seq_length + 1,
    }
    if max_seq_length > LONG:
        del wanted["one token below max_seq_length"]
    cases = [
        Probe(_text_of_length(words, tokenizer, length, prompt), f"edge: {kind}")
        for kind, length in wanted.items()
        if length > 2
    ]
    half, far = max(1, max_seq_length // 4), 3 * max_seq_length
    cases.append(Probe(" ".join(words[:half]), "edge: about half of max_seq_length"))
    if max_seq_length <= LONG:
        cases.append(Probe(" ".join(words[-far:]), "edge: far beyond max_seq_length"))
    return cases


def _text_of_length(words: list[str], tokenizer: Tokenizer, length: int, prompt: str) -> str:
    """Join words until prompt and text have ``length`` tokens before truncation; words too long for it are left out."""
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.no_truncation()
    untruncated = TextTokenizer(bare)
    special = len(untruncated.ids([""])[0])
    counts = [len(row) - special for row in untruncated.ids(words[: 2 * length])]
    taken: list[str] = []
    room = length - len(untruncated.ids([prompt])[0])
    for word, count in zip(words, counts, strict=False):
        if 0 < count <= room:
            taken.append(word)
            room -= count
    return " ".join(taken)
