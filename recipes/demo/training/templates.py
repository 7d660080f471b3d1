"""Template sentences: the phrases beside this file, filled at random with words in the right grammatical form.

``phrases/*.yaml`` hold word lists, ``phrases/*.txt`` one template a line. A slot of a template is

* ``{person}``: a word of the list ``person``; ``{num}`` and ``{digit}`` are numbers instead,
* ``{person:이}``: the same with a Korean particle,
* ``{do+prog}``, ``{do+adn}``: a verb stem of the list ``do`` in a finite form or as an attribute.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from .hangul import attributive, finite_forms, with_particle

PHRASES = Path(__file__).parent / "phrases"
KOREAN_GENRES = {"captions": 0.3, "news": 0.25, "general": 0.3, "talk": 0.15}  # share of each in the sentences
SLOT = re.compile(r"\{(\w+)(?:([:+])(\w+))?\}")

Words = Mapping[str, list[str]]


def template_sentences(count: int, seed: int) -> list[str]:
    """Generate different Korean sentences: ``count`` of them, or one more.

    About half are followed by a near neighbour that differs in one word, so that the teacher's fine distinctions show.
    """
    rng = random.Random(seed)
    words = read_words("korean_words")
    genres = [read_templates(f"korean_{genre}") for genre in KOREAN_GENRES]
    shares = list(KOREAN_GENRES.values())
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        template = rng.choice(rng.choices(genres, shares)[0])
        text, used = fill(template, words, rng)
        stop = rng.choice(["", "", "."]) if text[-1] not in ".?" else ""
        sentences[text + stop] = None
        if len(used) > 1 and rng.random() < 0.5:
            changed = rng.randrange(len(used))
            kept = {slot: word for slot, word in enumerate(used) if slot != changed}
            neighbour, _ = fill(template, words, rng, kept)
            sentences[neighbour + stop] = None
    return list(sentences)


def english_sentences(count: int, seed: int) -> list[str]:
    """Generate ``count`` different English sentences."""
    rng = random.Random(seed)
    words = read_words("english_words")
    templates = read_templates("english")
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        text, _ = fill(rng.choice(templates), words, rng)
        sentences[text] = None
    return list(sentences)


def read_words(name: str) -> Words:
    """Read the word lists of ``phrases/<name>.yaml``, keyed by slot name."""
    return yaml.safe_load((PHRASES / f"{name}.yaml").read_text(encoding="utf-8"))


def read_templates(name: str) -> list[str]:
    """Read the templates of ``phrases/<name>.txt``, one a line."""
    return (PHRASES / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def fill(
    template: str, words: Words, rng: random.Random, kept: Mapping[int, str] | None = None
) -> tuple[str, list[str]]:
    """Fill one template.

    Args:
        template: The template, with its slots.
        words: The word lists.
        rng: Source of the draws; the same state gives the same sentence.
        kept: Words to use again, by the number of their slot, instead of drawing new ones.

    Returns:
        The sentence, and the bare word of each slot from left to right.
    """
    used: list[str] = []

    def word_for(slot: re.Match[str]) -> str:
        name, mark, form = slot.groups()
        word = kept[len(used)] if kept and len(used) in kept else _draw(name, words, rng)
        used.append(word)
        if mark == ":":
            return with_particle(word, form)
        if mark == "+":
            return attributive(word) if form == "adn" else rng.choice(finite_forms(word))
        return word

    return _repaired(SLOT.sub(word_for, template)), used


def _draw(name: str, words: Words, rng: random.Random) -> str:
    if name == "num":
        return str(rng.choice([rng.randint(2, 30), rng.randint(2, 100), rng.randint(100, 3000)]))
    if name == "digit":
        return str(rng.randint(0, 9))
    return rng.choice(words[name])


def _repaired(text: str) -> str:
    """Settle what one slot cannot know of the next.

    * Templates negate a finite verb by a trailing 않다 or 아니다: a progressive takes 지 않다 instead, and where the
      verb was drawn in another form the negation is dropped.
    * The stems in ``do_cook`` begin with the particle 를, whatever sound the ingredient before them ends in.
    """
    text = re.sub(r"고 있(다|습니다|었다) 않다", "고 있지 않다", text)
    text = re.sub(r"있(다|습니다|었다) 아니다", "있지 않다", text)
    text = re.sub(r"다 (않다|아니다)$", "다", text)
    return re.sub(r"([가-힣])를(?= )", lambda match: with_particle(match[1], "을"), text)
