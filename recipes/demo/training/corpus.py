"""The training text: three public sources, template sentences, and pieces and paragraphs made from them."""

from __future__ import annotations

import csv
import json
import logging
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .templates import english_sentences, template_sentences

log = logging.getLogger(__name__)

ENGLISH_COUNT = 6_000
PIECE_COUNT = 40_000
PARAGRAPH_COUNT = 9_000


@dataclass(frozen=True)
class Corpus:
    """Training sentences by where they come from; a sentence may stand in two of the lists."""

    reviews: list[str]
    chat: list[str]
    templates: list[str]
    english: list[str]
    pieces: list[str]
    long: list[str]

    def all(self) -> list[str]:
        """Every sentence once, in a fixed order."""
        return list(dict.fromkeys(self.chat + self.templates + self.english + self.pieces + self.long + self.reviews))


def build_corpus(data: Path, reviews: int, templates: int) -> Corpus:
    """Collect and generate all training text.

    Args:
        data: Folder with ``ChatbotData.csv``, ``kor_pair_train.csv`` and ``raw/*.json``.
        reviews: How many reviews to use at most.
        templates: How many Korean template sentences to generate.
    """
    review_list = read_reviews(data / "raw", reviews)
    chat = read_columns(data / "ChatbotData.csv", ["Q", "A"]) + read_columns(
        data / "kor_pair_train.csv", ["question1", "question2"]
    )
    generated = template_sentences(templates, seed=1)
    base = review_list + chat * 2 + generated  # chat is the smallest source, so it is drawn twice as often
    return Corpus(
        reviews=review_list,
        chat=list(dict.fromkeys(chat)),
        templates=generated,
        english=english_sentences(ENGLISH_COUNT, seed=2),
        pieces=fragments(base, PIECE_COUNT, seed=3),
        long=long_texts(base, PARAGRAPH_COUNT, seed=4),
    )


def read_columns(path: Path, columns: Sequence[str]) -> list[str]:
    """Read the named columns of a CSV file, row by row, into one list of clean sentences; empty cells are left out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = [clean(row[column]) for row in csv.DictReader(file) for column in columns]
    return [cell for cell in cells if cell]


def read_reviews(folder: Path, limit: int) -> list[str]:
    """Draw at most ``limit`` NSMC reviews of 10 to 90 characters, at least 60 % of them Hangul."""
    found: dict[str, None] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            log.warning("left out %s, which is not valid JSON: %s", path.name, error)
            continue
        for row in rows:
            text = clean(row.get("review"))
            if 10 <= len(text) <= 90 and len(re.findall("[가-힣]", text)) >= 0.6 * len(text):
                found[text] = None
    reviews = list(found)
    random.Random(0).shuffle(reviews)
    return reviews[:limit]


def fragments(sentences: Sequence[str], count: int, seed: int) -> list[str]:
    """Cut ``count`` different pieces of 1 to 4 words out of sentences, as search queries would be."""
    rng = random.Random(seed)
    pieces: dict[str, None] = {}
    while len(pieces) < count:
        words = rng.choice(sentences).split()
        size = min(len(words), rng.randint(1, 4))
        start = rng.randint(0, len(words) - size)
        pieces[" ".join(words[start : start + size])] = None
    return list(pieces)


def long_texts(sentences: Sequence[str], count: int, seed: int) -> list[str]:
    """Join random sentences into ``count`` paragraphs of very different lengths (40 to 480 characters)."""
    rng = random.Random(seed)
    paragraphs = []
    for _ in range(count):
        size = rng.randint(40, 480)
        parts: list[str] = []
        while sum(map(len, parts)) < size:
            parts.append(rng.choice(sentences))
        paragraphs.append(" ".join(part if part[-1] in ".?!" else part + "." for part in parts))
    return paragraphs


def clean(text: str | None) -> str:
    """Compose Hangul (NFC) and squeeze white space."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text or "")).strip()
