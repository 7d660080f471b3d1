"""Korean as far as the templates need it: syllables, particles and the conjugation of verb stems.

A composed Hangul syllable is ``0xAC00 + (initial * 21 + vowel) * 28 + final`` (Unicode Standard, section 3.12), so its
sounds can be taken apart and exchanged by arithmetic.
"""

from __future__ import annotations

from typing import NamedTuple

FIRST_SYLLABLE = 0xAC00
SYLLABLE_COUNT = 11_172
VOWELS = tuple("ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ")
FINALS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")

# particle -> its forms after a closed and after an open syllable
PARTICLES = {"이": ("이", "가"), "을": ("을", "를"), "은": ("은", "는"), "과": ("과", "와"), "으로": ("으로", "로")}
# last vowel of an open stem -> the vowel it contracts to with the past ending (가 + 았 = 갔, 보 + 았 = 봤)
CONTRACTED_VOWELS = {
    "ㅏ": "ㅏ", "ㅐ": "ㅐ", "ㅓ": "ㅓ", "ㅔ": "ㅔ", "ㅕ": "ㅕ", "ㅗ": "ㅘ", "ㅜ": "ㅝ", "ㅡ": "ㅓ", "ㅣ": "ㅕ",
}  # fmt: skip
IRREGULAR_PASTS = {
    "하": "했", "굽": "구웠", "눕": "누웠", "줍": "주웠", "걷": "걸었", "듣": "들었", "짓": "지었", "젓": "저었",
    "부르": "불렀", "자르": "잘랐", "오르": "올랐", "지르": "질렀", "고르": "골랐", "기르": "길렀", "담그": "담갔",
}  # fmt: skip


class Syllable(NamedTuple):
    """The sounds of one Hangul syllable; ``final`` is empty when the syllable is open."""

    initial: int
    vowel: str
    final: str

    def __str__(self) -> str:
        """Compose the syllable."""
        index = (self.initial * len(VOWELS) + VOWELS.index(self.vowel)) * len(FINALS) + FINALS.index(self.final)
        return chr(FIRST_SYLLABLE + index)


def split_syllable(char: str) -> Syllable | None:
    """Take one composed Hangul syllable apart; None for any other character."""
    index = ord(char) - FIRST_SYLLABLE
    if not 0 <= index < SYLLABLE_COUNT:
        return None
    rest, final = divmod(index, len(FINALS))
    initial, vowel = divmod(rest, len(VOWELS))
    return Syllable(initial, VOWELS[vowel], FINALS[final])


def with_particle(word: str, particle: str) -> str:
    """Append a particle (a key of ``PARTICLES``) in the form that the word's last sound asks for.

    A word that does not end in Hangul counts as ending in an open syllable.
    """
    last = split_syllable(word[-1])
    closed = last is not None and last.final != ""
    if closed and particle == "으로" and last.final == "ㄹ":  # 물 + 으로 = 물로
        closed = False
    after_closed, after_open = PARTICLES[particle]
    return word + (after_closed if closed else after_open)


def attributive(stem: str) -> str:
    """Return the present attributive of a verb stem (먹 -> 먹는, 울 -> 우는)."""
    return _without_final_l(stem) + "는"


def finite_forms(stem: str) -> list[str]:
    """Return finite forms of a verb stem; the progressive stands several times, to be drawn more often."""
    if stem.endswith(" 있"):  # 앉아 있: already a state, it has no progressive
        return [stem + "다", stem + "다", stem + "습니다", stem + "었다"]
    return [stem + "고 있다"] * 5 + [
        stem + "고 있습니다",
        stem + "고 있었다",
        _without_final_l(stem) + "는 중이다",
        _present(stem) + "다",
        _past_stem(stem) + "다",
    ]


def _last_syllable(stem: str) -> Syllable:
    last = split_syllable(stem[-1])
    if last is None:
        raise ValueError(f"the verb stem {stem!r} does not end in a Hangul syllable")
    return last


def _without_final_l(stem: str) -> str:
    """Drop a final ㄹ, as stems do before ㄴ."""
    last = _last_syllable(stem)
    return stem[:-1] + str(last._replace(final="")) if last.final == "ㄹ" else stem


def _present(stem: str) -> str:
    """Return the plain present without its last syllable 다 (먹 -> 먹는, 가 -> 간, 울 -> 운)."""
    last = _last_syllable(stem)
    return stem[:-1] + str(last._replace(final="ㄴ")) if last.final in ("", "ㄹ") else stem + "는"


def _past_stem(stem: str) -> str:
    """Return the past stem (먹 -> 먹었, 가 -> 갔, 부르 -> 불렀)."""
    for ending, past in IRREGULAR_PASTS.items():
        if stem.endswith(ending):
            return stem.removesuffix(ending) + past
    last = _last_syllable(stem)
    if last.final:
        return stem + ("았" if last.vowel in ("ㅏ", "ㅗ") else "었")
    if last.vowel in CONTRACTED_VOWELS:
        return stem[:-1] + str(last._replace(vowel=CONTRACTED_VOWELS[last.vowel], final="ㅆ"))
    return stem + "었"
