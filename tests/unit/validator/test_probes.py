from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from exporter.calibration import SHIPPED, calibration_sentences, read_sentences, sentence_hash
from exporter.recipe import recipes_folder
from exporter.validator.probes import probes_for, shipped_probes

HANGUL = re.compile("[가-힣]")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(recipes_folder() / "demo" / "checkpoint" / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    return tokenizer


def test_there_are_enough_and_no_two_are_equal() -> None:
    probes = shipped_probes()
    assert len(probes) >= 640
    assert len({sentence_hash(probe.text) for probe in probes}) == len(probes)
    assert all(unicodedata.is_normalized("NFC", probe.text) for probe in probes)


def test_they_are_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_the_c_locale(path: Path, encoding: str | None = None) -> str:
        return path.read_bytes().decode(encoding or "ascii")

    monkeypatch.setattr(Path, "read_text", in_the_c_locale)
    assert len(shipped_probes()) >= 640


def test_korean_english_and_both() -> None:
    texts = [probe.text for probe in shipped_probes()]
    korean = sum(bool(HANGUL.search(text)) and not re.search("[A-Za-z]{2}", text) for text in texts)
    english = sum(not HANGUL.search(text) for text in texts)
    mixed = sum(bool(HANGUL.search(text)) and bool(re.search("[A-Za-z]{2}", text)) for text in texts)
    assert (korean > 400, english > 60, mixed > 50) == (True, True, True)
    assert len({probe.kind for probe in shipped_probes()}) >= 20


def test_lengths_spread_from_one_token_to_beyond_the_longest_input(tokenizer: Tokenizer) -> None:
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.no_truncation()
    lengths = [len(bare.encode(probe.text).ids) - 2 for probe in shipped_probes()]
    assert min(lengths) == 1
    assert max(lengths) > 512
    assert all(
        sum(low <= n < high for n in lengths) >= 8 for low, high in ((1, 3), (3, 8), (8, 20), (20, 60), (60, 256))
    )


@pytest.mark.parametrize("longest", [16, 128, 256, 512])
def test_edge_cases_hit_the_longest_length_exactly(tokenizer: Tokenizer, longest: int) -> None:
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.no_truncation()
    lengths = {p.kind: len(bare.encode(p.text).ids) for p in probes_for(tokenizer, longest) if "max_seq" in p.kind}
    assert lengths["edge: exactly max_seq_length"] == longest
    assert lengths["edge: one token below max_seq_length"] == longest - 1
    assert lengths["edge: one token beyond max_seq_length"] == longest + 1
    assert lengths["edge: far beyond max_seq_length"] > 2 * longest


def test_the_edge_cases_a_tokenizer_stumbles_over_are_there(tokenizer: Tokenizer) -> None:
    kinds = {probe.kind: probe.text for probe in probes_for(tokenizer, 256)}
    assert kinds["edge: empty"] == ""
    assert kinds["edge: white space"].isspace()
    nfd = kinds["edge: NFD Hangul"]
    control = {unicodedata.category(character) for character in kinds["edge: control characters"]}
    assert {"Cc", "Cf"} <= control
    assert unicodedata.normalize("NFC", nfd) == kinds["edge: NFC Hangul"] != nfd


def test_calibration_is_disjoint_from_the_probes() -> None:
    held_out = {sentence_hash(probe.text) for probe in shipped_probes()}
    sentences = read_sentences(SHIPPED)
    assert len(sentences) >= 500
    assert not held_out & {sentence_hash(sentence) for sentence in sentences}


def test_a_probe_among_the_user_s_own_sentences_is_left_out(tmp_path: Path) -> None:
    probes = [probe.text for probe in shipped_probes()]
    path = tmp_path / "own.txt"
    path.write_text(f"{probes[3].upper()}\n나만의 문장입니다.\n", encoding="utf-8")
    assert calibration_sentences(path, probes) == ("나만의 문장입니다.",)
