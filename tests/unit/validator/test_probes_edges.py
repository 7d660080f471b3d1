"""The edge cases one by one: each is there for one property, and has it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from urllib.parse import parse_qs, urlsplit

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from exporter.validator.probes import Probe, _text_of_length, coverage_of, probes_for, shipped_probes
from tests.support.stand_in import words_tokenizer as few_words


def has(*parts: str) -> Callable[[str], bool]:
    return lambda text: all(part in text for part in parts)


def scripts(text: str) -> set[str]:
    return {unicodedata.name(character, "").split()[0] for character in text if character.isalpha()}


def parts_of_url(text: str) -> bool:
    """Whether there is a query in percent encoding, which has capital letters, and a fragment without it."""
    url = urlsplit(text)
    return "%ED" in url.query and parse_qs(url.query) == {"q": ["한국"], "page": ["2"]} and url.fragment == "결과"


PROPERTIES: dict[str, Callable[[str], bool]] = {
    "empty": lambda text: text == "",
    "white space": lambda text: text.isspace() and {" ", "\t", "\n"} <= set(text),
    "one syllable": lambda text: len(text) == 1 and scripts(text) == {"HANGUL"},
    "one letter": lambda text: len(text) == 1 and text.isascii() and text.isupper(),
    "one space around": lambda text: text[0] == text[-1] == " " and text.strip() == text[1:-1],
    "NFC Hangul": lambda text: unicodedata.is_normalized("NFC", text) and "HANGUL" in scripts(text),
    "NFD Hangul": lambda text: unicodedata.is_normalized("NFD", text) and "HANGUL" in scripts(text),
    "compatibility jamo": lambda text: all("\u3131" <= character <= "\u318e" for character in text if character != " "),
    "emoji": lambda text: all(ord(character) > 0x1F000 for character in text),
    "emoji with joiners": has("\u200d", "\U0001f3fd", "우리"),
    "digits": lambda text: sum(map(str.isdecimal, text)) > 30 and not any(map(str.isalpha, text)),
    "URL": lambda text: urlsplit(text)[:3] == ("https", "example.com", "/search") and parts_of_url(text),
    "e-mail": has("@", "+", "."),
    "upper case": lambda text: text.isupper() and len(text.split()) > 5,
    "lower case": lambda text: text.islower() and len(text.split()) > 5,
    "accents": lambda text: sum(not character.isascii() for character in text) >= 6 and scripts(text) == {"LATIN"},
    "full width": lambda text: all("\u3000" <= character <= "\uffee" for character in text) and text.isupper(),
    "Hanja": lambda text: scripts(text) == {"CJK"},
    "Japanese and Cyrillic": lambda text: scripts(text) == {"CJK", "HIRAGANA", "CYRILLIC"},
    "punctuation": lambda text: text.isascii() and not any(map(str.isalnum, text)),
    "special tokens as text": has("[CLS]", "[SEP]", "[PAD]", "[MASK]"),
    "control characters": has("\x00", "\x07", "\u200b", "\ufeff"),
    "a long word": lambda text: len(text) == 12 * 14 and scripts(text) == {"HANGUL"} and text.isalpha(),
    "repeated word": lambda text: text.split() == ["정말"] * 40,
}
LENGTHS = (
    "one token below max_seq_length",
    "exactly max_seq_length",
    "one token beyond max_seq_length",
    "about half of max_seq_length",
    "far beyond max_seq_length",
)


def words_tokenizer(*, prompt_words: int = 0) -> Tokenizer:
    """Return a tokenizer to whom every word is one token, between two special ones."""
    words = {word for probe in shipped_probes() for word in probe.text.split()}
    words |= {f"p{number}" for number in range(prompt_words)}
    vocabulary = {word: number for number, word in enumerate(["[CLS]", "[SEP]", "[UNK]", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 0), ("[SEP]", 1)])
    return tokenizer


@cache
def edge_cases(longest: int, prompt: str = "") -> dict[str, str]:
    tokenizer = words_tokenizer(prompt_words=9)
    tokenizer.enable_truncation(longest)
    edges = [probe for probe in probes_for(tokenizer, longest, prompt) if probe.kind.startswith("edge: ")]
    return {probe.kind.removeprefix("edge: "): probe.text for probe in edges}


def test_these_and_no_others() -> None:
    assert list(edge_cases(64)) == [*PROPERTIES, *LENGTHS]


@pytest.mark.parametrize("kind", PROPERTIES)
def test_each_has_its_property(kind: str) -> None:
    text = edge_cases(64)[kind]
    assert PROPERTIES[kind](text), text


def test_composed_and_decomposed_hangul_are_one_sentence() -> None:
    cases = edge_cases(64)
    assert unicodedata.normalize("NFC", cases["NFD Hangul"]) == cases["NFC Hangul"]
    assert cases["one space around"].strip() == cases["NFC Hangul"]
    assert cases["upper case"].lower() == cases["lower case"]


def test_shipped_probes_come_first_with_their_domains() -> None:
    shipped = shipped_probes()
    probes = probes_for(words_tokenizer(), 64)
    assert probes[: len(shipped)] == shipped
    assert all(isinstance(probe, Probe) and probe.text and probe.kind for probe in shipped)
    assert {"law", "agriculture"} <= {probe.kind for probe in shipped}


@pytest.mark.parametrize("longest", [16, 64])
@pytest.mark.parametrize("prompt", ["", "p0 p1 p2 "])
def test_lengths_count_the_special_tokens_and_the_prompt(longest: int, prompt: str) -> None:
    tokenizer = words_tokenizer(prompt_words=9)
    lengths = {kind: len(tokenizer.encode(prompt + text).ids) for kind, text in edge_cases(longest, prompt).items()}
    assert [lengths[kind] for kind in LENGTHS[:3]] == [longest - 1, longest, longest + 1]
    assert lengths["far beyond max_seq_length"] == 3 * longest + 2 + len(prompt.split())
    assert lengths["about half of max_seq_length"] == longest // 4 + 2 + len(prompt.split())  # words have two tokens


@pytest.mark.parametrize(("longest", "kinds"), [(3, LENGTHS[1:]), (2, LENGTHS[2:]), (4, LENGTHS)])
def test_lengths_that_leave_no_room_for_a_word_are_left_out(longest: int, kinds: tuple[str, ...]) -> None:
    cases = edge_cases(longest)
    assert [kind for kind in cases if kind not in PROPERTIES] == list(kinds)
    assert len(cases["about half of max_seq_length"].split()) == 1


def test_few_are_longer_than_2048_tokens() -> None:
    kept = ("exactly max_seq_length", "one token beyond max_seq_length", "about half of max_seq_length")
    for longest, kinds in ((2048, LENGTHS), (2049, kept)):
        assert [kind for kind in edge_cases(longest) if kind not in PROPERTIES] == list(kinds)


def test_coverage_states_how_many_probes_are_long() -> None:
    assert coverage_of([5, 2048, 2]) == "3 probes of 2 to 2,048 tokens"
    assert coverage_of([5, 8192, 2049]) == "3 probes of 5 to 8,192 tokens (2 above 2,048)"


def test_words_of_many_tokens_fill_a_length_exactly() -> None:
    """Words of several tokens are taken as long as they fit, and shorter ones fill the rest."""
    letters = sorted({character for probe in shipped_probes() for character in probe.text if not character.isspace()})
    tokenizer = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(letters)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    cases = {probe.kind: probe.text for probe in probes_for(bare, 40)}
    for kind, length in zip(LENGTHS[:3], (39, 40, 41), strict=True):
        assert len(bare.encode(cases[f"edge: {kind}"]).ids) == length


def test_the_callers_tokenizer_keeps_its_truncation() -> None:
    tokenizer = words_tokenizer()
    tokenizer.enable_truncation(16)
    probes_for(tokenizer, 16)
    assert tokenizer.truncation is not None
    assert tokenizer.truncation["max_length"] == 16


class TestTextOfALength:
    """Of a tokenizer to whom every word is one token, and a zero-width space none."""

    def text(self, words: list[str], length: int, prompt: str = "") -> str:
        tokenizer = few_words("밥", "국", "떡")
        tokenizer.normalizer = normalizers.Replace("\u200b", "")
        tokenizer.enable_truncation(3)
        return _text_of_length(words, tokenizer, length, prompt)

    @pytest.mark.parametrize(
        ("length", "prompt", "text"),
        [(5, "", "밥 국 떡"), (4, "", "밥 국"), (5, "떡 ", "밥 국"), (3, "", "밥"), (2, "", ""), (3, "떡 ", "")],
    )
    def test_has_as_many_words_as_there_is_room_for(self, length: int, prompt: str, text: str) -> None:
        assert self.text(["밥", "국", "떡", "밥"], length, prompt) == text

    def test_leaves_out_words_of_no_token_and_of_too_many(self) -> None:
        assert self.text(["\u200b", "밥 국 떡", "국", "밥 떡", "떡"], 4) == "국 떡"

    def test_is_made_of_the_first_words_two_for_each_token(self) -> None:
        assert self.text([*["밥 국 떡"] * 7, "국"], 4) == "국"
        assert self.text([*["밥 국 떡"] * 8, "국"], 4) == ""
