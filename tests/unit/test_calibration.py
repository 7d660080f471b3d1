"""Calibration text: what is held out, what is warned of, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.calibration import (
    FEWEST_SENTENCES,
    SHIPPED,
    CalibrationSet,
    audit_text,
    calibration_set,
    measured_sentences,
    read_sentences,
)
from exporter.errors import InputError
from tests.support.encoders import numbers, word_tokenizer

PROBES = ["4 5 6", "7 8"]


def set_of(tmp_path: Path, *sentences: str) -> CalibrationSet:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences), encoding="utf-8")
    return calibration_set(path, PROBES, word_tokenizer(), "")


def test_a_third_is_held_out_and_nothing_is_in_both(tmp_path: Path) -> None:
    text = set_of(tmp_path, *numbers(150))
    fit, held_out = set(text.fit.sentences), set(text.held_out.sentences)
    assert not fit & held_out
    assert set(numbers(150)) <= fit | held_out
    assert len(held_out & set(numbers(150))) == 50
    assert text.warnings == ()


def test_no_more_is_held_out_than_can_be_measured_in_little_time(tmp_path: Path) -> None:
    text = set_of(tmp_path, *numbers(3000))
    assert len(set(text.held_out.sentences) & set(numbers(3000))) <= 128
    long = set_of(tmp_path, *(" ".join([str(number)] * 62) for number in range(4, 700)))
    assert 0 < sum(len(sentence.split()) for sentence in long.held_out.sentences if sentence[0].isdigit()) < 5000


EDGES = [
    ("매우 " * 40, "진짜 " * 48),
    ("나", "너"),
    ("🚀🔥✨", "🎂 🎈"),
    ("42 1234 98.6 2025-03-04 02-345-6789", "7 88 999,000 15:30 3.14159"),
]


@pytest.mark.parametrize(("seen", "judges"), EDGES)
def test_edge_cases_join_the_text_one_of_each_kind_on_each_side(tmp_path: Path, seen: str, judges: str) -> None:
    text = set_of(tmp_path, *numbers(40))
    assert seen in text.fit.sentences
    assert judges in text.held_out.sentences
    assert len(text.fit.sentences) + len(text.held_out.sentences) == len(set(numbers(40))) + 22


def test_probes_are_left_out_whatever_their_case_and_spacing(tmp_path: Path) -> None:
    text = set_of(tmp_path, "4  5 6", "7 8 ", "9 10", "11 12", "13 14")
    assert not {"4  5 6", "7 8"} & {*text.fit.sentences, *text.held_out.sentences}


def test_an_audit_reads_what_ships_edge_cases_and_the_users_text_after_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("own one\n7 8\nown two", encoding="utf-8")
    shipped = read_sentences(SHIPPED)
    sentences = measured_sentences(path, [*PROBES, shipped[0]])
    assert sentences == (*shipped[1:], "own one", "own two")
    audited = audit_text(sentences, word_tokenizer(), "p: ")
    assert audited.sentences[: len(sentences)] == tuple(f"p: {text}" for text in sentences)
    assert {f"p: {text}" for pair in EDGES for text in pair} <= set(audited.sentences)
    assert audited.count == len(shipped) - 1 + 22 + 2
    assert measured_sentences(None, PROBES) == tuple(shipped)


@pytest.mark.parametrize(
    ("sentences", "said"),
    [
        (numbers(40), f"give {FEWEST_SENTENCES} or more"),
        ((*numbers(140), *numbers(140)), "repeat others and count once"),
        (tuple(f"word{number} other{number} thing{number}" for number in range(200)), "unknown to the tokenizer"),
    ],
)
def test_unfit_text_is_warned_of_with_what_to_do(tmp_path: Path, sentences: tuple[str, ...], said: str) -> None:
    (warning,) = set_of(tmp_path, *sentences).warnings
    assert said in warning
    assert "give" in warning
    assert warning.startswith("text.txt: ")


def test_one_sentence_over_and_over_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only one sentence"):
        set_of(tmp_path, *["9 10"] * 50)


def test_the_hash_is_of_the_sentences_in_order(tmp_path: Path) -> None:
    first = set_of(tmp_path, *numbers(20)).sha256
    assert set_of(tmp_path, *numbers(20)).sha256 == first
    assert set_of(tmp_path, *reversed(numbers(20))).sha256 != first


@pytest.mark.parametrize("name", ["text.txt", "text.jsonl"])
def test_unicode_line_separators_do_not_end_a_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = "앞\u2028뒤\u0085끝"
    path.write_text(f'{{"text": "{text}"}}\n' if name.endswith("l") else f"{text}\n", encoding="utf-8")
    assert read_sentences(path) == [text]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "\\ud800"}', "line 2: text has a lone surrogate, which is no Unicode"),
        ("[" * 100_000, "line 2: no JSON object with a text field"),
        ('{"text": 1}', "line 2: text is int, not a string"),
        ('["text"]', "line 2: no JSON object with a text field"),
    ],
)
def test_a_line_that_is_no_text_is_named(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text(f'{{"text": "가"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InputError) as failure:
        read_sentences(path)
    assert failure.value.message == f"{path}, {told}"
    assert (
        failure.value.next_step == 'a line each of {"text": "..."}, or plain text in a file that is not called .jsonl'
    )
