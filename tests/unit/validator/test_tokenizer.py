"""Two small tokenizers compared: what is told of every kind of difference, and what is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import exporter.validator.tokenizer as module
from exporter.validator.check import Check
from exporter.validator.tokenizer import check_tokenizer

ENTRIES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "ab", "##b", "##c", "밥", "물", "##물")
TEXTS = ["a b ab", "abc 밥물", "밥", ""]


def wordpiece(entries: tuple[str, ...] = ENTRIES) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({entry: number for number, entry in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def changed(change: Callable[[dict[str, Any]], object]) -> Tokenizer:
    content = json.loads(wordpiece().to_str())
    change(content)
    return Tokenizer.from_str(json.dumps(content))


def swapped(*tokens: str) -> Tokenizer:
    """Return a tokenizer in which each of some entries has the id of the next one."""
    vocabulary = {token: number for number, token in enumerate(ENTRIES)}
    rotated = dict(zip(tokens, [vocabulary[token] for token in (*tokens[1:], tokens[0])], strict=True))
    return changed(lambda content: content["model"]["vocab"].update(rotated))


def compared(candidate: Tokenizer, texts: list[str] | None = None) -> Check:
    return check_tokenizer(wordpiece(), candidate, TEXTS if texts is None else texts)


def test_equal_ones_pass_and_what_was_compared_is_counted() -> None:
    assert compared(wordpiece()) == Check(
        "tokenizer",
        "4 texts and 12 vocabulary entries give the same ids",
        (),
        # The entries as texts, and "bb", "bc" and "b물" for the continuations.
        {"texts": 4, "vocabulary_entries": 12, "texts_of_entries": 15, "ids_in_them": 12},
    )


def test_ids_that_no_text_can_reach_are_not_counted_as_met() -> None:
    both = wordpiece((*ENTRIES, "BIG"))
    check = check_tokenizer(both, both, [])
    assert check.passed
    assert check.figures["vocabulary_entries"] == 13
    assert check.figures["ids_in_them"] == 12  # lower-cased, no text is BIG


def test_added_tokens_are_entries_of_the_vocabulary() -> None:
    both = (wordpiece(), wordpiece())
    for tokenizer in both:
        tokenizer.add_tokens(["축제"])
    assert check_tokenizer(*both, []).figures["vocabulary_entries"] == 13
    other = wordpiece()
    other.add_tokens(["잔치"])
    assert check_tokenizer(both[0], other, []).failures[:2] == (
        "added_tokens is not that of the checkpoint's files",
        "2 of 14 vocabulary entries have another id: '축제' has the id None, the checkpoint's files say 12; "
        "'잔치' has the id 12, the checkpoint's files say None",
    )


def test_ids_that_changed_places_are_told_with_examples() -> None:
    check = compared(swapped("a", "밥"), TEXTS)
    assert check.coverage == "4 texts and 12 vocabulary entries were compared"
    assert not check.passed
    assert check.failures == (
        "2 of 12 vocabulary entries have another id: 'a' has the id 9, the checkpoint's files say 4; "
        "'밥' has the id 4, the checkpoint's files say 9",
        "3 of 4 texts have other ids: 'a b ab' gives [2, 9, 5, 6, 3], the checkpoint's files give [2, 4, 5, 6, 3]; "
        "'abc 밥물' gives [2, 6, 8, 4, 11, 3], the checkpoint's files give [2, 6, 8, 9, 11, 3]; "
        "'밥' gives [2, 4, 3], the checkpoint's files give [2, 9, 3]",
        "2 of 15 texts made of vocabulary entries have other ids: 'a' gives [2, 9, 3], the checkpoint's files give "
        "[2, 4, 3]; '밥' gives [2, 4, 3], the checkpoint's files give [2, 9, 3]",
    )


def test_three_examples_are_shown_and_all_are_counted() -> None:
    told = compared(swapped("a", "b", "밥", "물"), []).failures
    assert told[0].startswith("4 of 12 vocabulary entries have another id: ")
    assert told[0].count("has the id") == 3
    assert told[1].count(" gives ") == 3


def test_continuations_are_met_behind_a_letter() -> None:
    check = compared(swapped("##b", "##c"), [])
    assert check.failures[1] == (
        "2 of 15 texts made of vocabulary entries have other ids: 'bb' gives [2, 5, 8, 3], the checkpoint's files give "
        "[2, 5, 7, 3]; 'bc' gives [2, 5, 7, 3], the checkpoint's files give [2, 5, 8, 3]"
    )


def test_long_texts_and_ids_are_shortened() -> None:
    both = (wordpiece(), swapped("a", "밥"))
    for tokenizer in both:
        tokenizer.enable_truncation(100)
    (told,) = [one for one in check_tokenizer(*both, ["a " * 50]).failures if "of 1 texts" in one]
    assert told == (
        f"1 of 1 texts have other ids: {'a ' * 20!r} gives {[2] + [9] * 11}, "
        f"the checkpoint's files give {[2] + [4] * 11}"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda content: content["truncation"].update(max_length=7),
            "truncation is {'max_length': 7, 'direction': 'right'}, the checkpoint's files say "
            "{'max_length': 8, 'direction': 'right'}",
        ),
        (
            lambda content: content["truncation"].update(direction="Left"),
            "truncation is {'max_length': 8, 'direction': 'left'}, the checkpoint's files say "
            "{'max_length': 8, 'direction': 'right'}",
        ),
        (
            lambda content: content.update(padding=None),
            "padding is {'pad_id': None, 'direction': None}, the checkpoint's files say "
            "{'pad_id': 0, 'direction': 'right'}",
        ),
        (
            lambda content: content["padding"].update(direction="Left"),
            "padding is {'pad_id': 0, 'direction': 'left'}, the checkpoint's files say "
            "{'pad_id': 0, 'direction': 'right'}",
        ),
        (lambda content: content.update(normalizer=None), "normalizer is not that of the checkpoint's files"),
        (
            lambda content: content.update(pre_tokenizer={"type": "WhitespaceSplit"}),
            "pre_tokenizer is not that of the checkpoint's files",
        ),
        (lambda content: content.update(post_processor=None), "post_processor is not that of the checkpoint's files"),
        (
            lambda content: content["added_tokens"][0].update(rstrip=True),
            "added_tokens is not that of the checkpoint's files",
        ),
        (
            lambda content: content["model"].update(max_input_chars_per_word=50),
            "the model's max_input_chars_per_word is not that of the checkpoint's files",
        ),
    ],
)
def test_a_setting_that_no_text_shows_is_told_alone(change: Callable[[dict[str, Any]], object], told: str) -> None:
    assert compared(changed(change), ["밥"]).failures[0] == told


def test_how_far_a_text_is_padded_is_not_compared() -> None:
    assert compared(changed(lambda content: content["padding"].update(strategy={"Fixed": 8}))).passed


def test_texts_are_encoded_some_at_a_time_and_all_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2)
    assert compared(wordpiece()).figures["ids_in_them"] == 12
    assert "3 of 5 texts" in compared(swapped("a", "밥"), ["", "a", "b", "밥", "a"]).failures[1]


def byte_level(swap: bool = False) -> Tokenizer:
    entries = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "Ġb"]
    if swap:
        entries[-2:] = reversed(entries[-2:])
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "a"), ("Ġ", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_entries_that_are_written_in_signs_for_spaces_are_met_as_text() -> None:
    sound = check_tokenizer(byte_level(), byte_level(), [])
    assert sound.passed
    assert sound.figures["vocabulary_entries"] == 258
    differing = check_tokenizer(byte_level(), byte_level(swap=True), []).failures
    assert differing[0].startswith("2 of 258 vocabulary entries have another id: 'Ġa' has the id 257")
    assert "texts made of vocabulary entries have other ids: ' a' gives [257]" in differing[1]
    assert "'a a' gives " in differing[1]


def test_without_a_decoder_entries_are_met_as_they_are() -> None:
    both = (byte_level(), byte_level())
    for tokenizer in both:
        tokenizer.decoder = None
    assert check_tokenizer(*both, []).figures["texts_of_entries"] == 258


BERT = {
    "type": "BertNormalizer",
    "clean_text": True,
    "handle_chinese_chars": True,
    "strip_accents": None,
    "lowercase": True,
}
LOWER = {"type": "Lowercase"}


def normalized(step: dict[str, Any] | None) -> Tokenizer:
    return changed(lambda content: content.update(normalizer=step))


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (BERT, sequence(BERT), True),
        (BERT, sequence(LOWER, BERT), True),
        (sequence(LOWER, {"type": "NFC"}, BERT), sequence({"type": "NFC"}, BERT), True),
        (sequence(sequence(LOWER), BERT), BERT, True),
        (sequence(LOWER, BERT | {"lowercase": False}), BERT | {"lowercase": False}, False),
        (sequence(LOWER, {"type": "NFC"}), {"type": "NFC"}, False),
        (sequence({"type": "NFC"}, BERT), sequence(BERT, {"type": "NFC"}), False),
        (BERT, None, False),
        (None, None, True),
    ],
)
def test_a_lower_casing_that_a_later_step_does_anyhow_is_no_difference(
    one: dict[str, Any] | None, other: dict[str, Any] | None, equal: bool
) -> None:
    check = check_tokenizer(normalized(one), normalized(other), [])
    assert ("normalizer is not that of the checkpoint's files" not in check.failures) is equal


def test_models_of_two_kinds_differ_in_what_one_alone_has() -> None:
    told = check_tokenizer(byte_level(), wordpiece(), []).failures
    assert "the model's merges is not that of the checkpoint's files" in told
    assert "the model's max_input_chars_per_word is not that of the checkpoint's files" in told


@pytest.mark.parametrize(
    ("entries", "letter"),
    [
        (("b", "a", "ab"), "b"),
        (("a", "b", "c", "ax", "bx"), "c"),
        (("a", "b", "ax", "bx", "by"), "a"),
        (("A", "7", "z", "za", "zb"), "z"),
        (("b", "a"), "b"),  # in the order of the ids
        (("ab", "##a"), "a"),
        (("a", "##ax", "##ay", "b", "bx"), "a"),
    ],
)
def test_continuations_are_put_behind_the_letter_that_begins_the_fewest_entries(
    entries: tuple[str, ...], letter: str
) -> None:
    assert module._lonely_letter({entry: number for number, entry in enumerate(entries)}) == letter


def test_examples_come_in_the_order_of_the_ids() -> None:
    told = compared(swapped("물", "b", "a"), []).failures[0]
    assert told.index("'a' has") < told.index("'b' has") < told.index("'물' has")


def test_the_scores_of_a_unigram_vocabulary_are_compared() -> None:
    """Scores decide how a text is split, and no entry encoded alone shows them."""

    def unigram(score: float) -> Tokenizer:
        entries = [("[UNK]", 0.0), ("a", -1.0), ("b", -1.0), ("ab", score), ("abb", -3.0)]
        return Tokenizer(models.Unigram(entries, unk_id=0))

    assert check_tokenizer(unigram(-2.5), unigram(-2.5), ["a b"]).passed
    check = check_tokenizer(unigram(-2.5), unigram(-2.25), ["a b"])
    assert check.failures == ("the scores of the model's vocabulary are not those of the checkpoint's files",)
