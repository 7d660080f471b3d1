"""What a sweep runs, number for number, for a small vocabulary and short sentences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from torch import nn

from exporter.checkpoint import Checkpoint
from exporter.recipe import Gate, Range, Shapes
from exporter.runtime.tokens import TextTokenizer
from exporter.validator.probes import Probe
from exporter.validator.sweeps import inputs
from exporter.validator.sweeps.inputs import Material
from tests.support.stand_in import CLS, FACTS, PAD, SEP, SPECIAL, UNK, stand_in, words_tokenizer

WORDS = ("밥", "국", "떡", "죽")
RICE, SOUP, CAKE, PORRIDGE = range(4, 8)


def material(**changes: Any) -> Material:
    """Return material with two tokens before a sentence and one after it."""
    given: dict[str, Any] = {
        "word_rows": 50,
        "prefix": (1, 2),
        "suffix": (3,),
        "text": np.arange(10, 20),
        "short": ((1, 2, 3), (1, 2, 4, 3), (1, 2, 5, 3), (1, 2, 5, 5, 3)),
        "longest": 8,
    }
    return Material(**given | changes)


def checkpoint(tokenizer: Tokenizer, rows: int, padding: int | None = None, **changes: Any) -> Checkpoint:
    words = nn.Embedding(rows, 1, padding_idx=padding)
    model = SimpleNamespace(auto_model=SimpleNamespace(get_input_embeddings=lambda: words))
    return stand_in(model=[model], tokenizer=tokenizer, **changes)


def without_special_tokens() -> Tokenizer:
    """A tokenizer that puts nothing around a sentence, and whose vocabulary has no special tokens."""
    tokenizer = words_tokenizer(*WORDS)
    content = tokenizer.to_str().replace('"special":true', '"special":false')
    tokenizer = Tokenizer.from_str(content)
    tokenizer.post_processor = processors.Sequence([])
    return tokenizer


def as_data(found: Material) -> dict[str, Any]:
    return {**found.__dict__, "text": found.text.tolist(), "text_dtype": found.text.dtype.name}


class TestMaterial:
    @pytest.fixture
    def probes(self, monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
        """Sentences in place of those that ship."""
        probes: list[Probe] = []
        monkeypatch.setattr(inputs, "shipped_probes", lambda: probes)
        return probes

    def test_text_is_the_probes_without_special_tokens_and_short_the_shortest(self, probes: list[Probe]) -> None:
        probes += [Probe(text, "test") for text in ("떡 죽 밥 국", "국 밥", "밥", "국", "밥 떡", "국", "밥 모름")]
        found = inputs.material_of(checkpoint(words_tokenizer(*WORDS), 60, padding=PORRIDGE, pad_token_id=CAKE))
        assert as_data(found) == {
            "word_rows": 60,
            "prefix": (CLS,),
            "suffix": (SEP,),
            "text": [RICE, SOUP, SOUP, RICE, RICE, SOUP, RICE, SOUP, RICE],
            "text_dtype": "int64",
            "short": (
                (CLS, RICE, SEP),
                (CLS, SOUP, SEP),
                (CLS, RICE, UNK, SEP),
                (CLS, RICE, CAKE, SEP),
                (CLS, SOUP, RICE, SEP),
                (CLS, CAKE, PORRIDGE, RICE, SOUP, SEP),
            ),
            "longest": 24,
        }

    def test_there_are_37_short_rows_or_fewer(self, probes: list[Probe]) -> None:
        probes += [Probe(" ".join(["밥"] * number), "test") for number in range(1, 41)]
        found = inputs.material_of(checkpoint(words_tokenizer(*WORDS), 8))
        assert [len(row) for row in found.short] == [*range(3, 40)]

    def test_rows_that_are_not_special_are_the_text_where_no_probe_has_a_known_word(self, probes: list[Probe]) -> None:
        probes.append(Probe("모름", "test"))
        found = inputs.material_of(checkpoint(words_tokenizer(*WORDS), 8, pad_token_id=SOUP))
        assert found.text.tolist() == [RICE, CAKE, PORRIDGE]
        every = inputs.material_of(checkpoint(words_tokenizer(), len(SPECIAL)))
        assert every.text.tolist() == [PAD, UNK, CLS, SEP]

    def test_a_sentence_without_tokens_is_no_short_row(self, probes: list[Probe]) -> None:
        probes += [Probe("", "test"), Probe("국", "test")]
        tokenizer = without_special_tokens()
        assert inputs.material_of(checkpoint(tokenizer, 8)).short == ((SOUP,),)
        probes[:] = [Probe("", "test")]
        assert inputs.material_of(checkpoint(tokenizer, 8)).short == ((UNK,),)  # the first row that does not pad

    @pytest.mark.parametrize(
        ("template", "prefix", "suffix"),
        [
            ("[CLS] $A [SEP]", (CLS,), (SEP,)),
            ("$A [SEP]", (), (SEP,)),
            ("[CLS] $A", (CLS,), ()),
            ("[CLS] [SEP] $A [SEP]", (CLS, SEP), (SEP,)),
            ("$A", (), ()),
        ],
    )
    def test_special_tokens_are_those_before_and_after_a_sentence(
        self, template: str, prefix: tuple[int, ...], suffix: tuple[int, ...]
    ) -> None:
        tokenizer = words_tokenizer(*WORDS)
        tokenizer.post_processor = processors.TemplateProcessing(template, None, [("[CLS]", CLS), ("[SEP]", SEP)])
        assert inputs._special_tokens(TextTokenizer(tokenizer)) == (prefix, suffix)

    def test_text_goes_on_from_its_beginning(self) -> None:
        assert material().text_from(8, 4).tolist() == [18, 19, 10, 11]
        assert material().text_from(3, 0).tolist() == []


def test_what_a_sweep_of_a_model_of_bert_bases_size_may_cost() -> None:
    budgets = (inputs.SAMPLED_ROWS, inputs.POSITION_TOKENS, inputs.WIDTH_TOKENS, inputs.BATCH_TOKENS)
    assert budgets == (2000, 4000, 6000, 8192)
    assert inputs.budget(1000, stand_in()) == 1000
    assert inputs.budget(1000, stand_in(facts=FACTS.model_copy(update={"layers": 6}))) == 1000
    assert inputs.budget(1000, stand_in(facts=FACTS.model_copy(update={"layers": 4}))) == 1500


def test_tokens_of_long_sentences_cost_more_and_are_fewer() -> None:
    """2,048 tokens add two thirds of the width of a BERT-base to what its layers compute for each of them."""
    facts = FACTS.model_copy(update={"layers": 2, "max_seq_length": 512})
    assert inputs.budget(1000, stand_in(facts=facts)) == 3000
    assert inputs.budget(1000, stand_in(facts=facts.model_copy(update={"max_seq_length": 512 + 3 * 768}))) == 1500


class TestWordRows:
    def rows(self, asked: Any, rows: int, tokenizer: Tokenizer) -> np.ndarray:
        return inputs.word_rows(asked, material(word_rows=rows), stand_in(tokenizer=tokenizer))

    @pytest.mark.parametrize(
        ("asked", "rows", "expected"),
        [
            ("all", 5, [0, 1, 2, 3, 4]),
            (3, 11, [0, 5, 10]),
            (4, 11, [0, 3, 6, 10]),
            (1, 11, [0]),
            (99, 4, [0, 1, 2, 3]),
            ("sample", 6, [0, 1, 2, 3, 4, 5]),
        ],
    )
    def test_are_spread_evenly_over_the_table(self, asked: Any, rows: int, expected: list[int]) -> None:
        found = self.rows(asked, rows, without_special_tokens())
        assert sorted(found) == expected
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, np.random.default_rng(0).permutation(expected))

    def test_a_sample_of_a_large_model_has_2000(self) -> None:
        assert len(self.rows("sample", 30_000, without_special_tokens())) == 2000

    def test_special_tokens_are_among_them_once_where_the_table_has_them(self) -> None:
        tokenizer = words_tokenizer(*WORDS)
        tokenizer.add_special_tokens(["[FIRST]", "[SECOND]"])  # 8 and 9
        tokenizer.add_tokens(["김치"])  # 10, and not special
        assert sorted(self.rows(2, 30, tokenizer)) == [0, 1, 2, 3, 8, 9, 29]
        assert sorted(self.rows(3, 9, tokenizer)) == [0, 1, 2, 3, 4, 8]
        assert sorted(self.rows(4, 8, tokenizer)) == [0, 1, 2, 3, 4, 7]


@pytest.mark.parametrize(
    ("bounds", "longest", "words"),
    [
        ({"min_cosine": 0.9998}, 100, 12),  # a wrong word moves the vector by 1/12, four times 0.02
        ({"min_cosine": 0.9998, "min_centered_cosine": 0.5}, 100, 12),
        ({"min_cosine": 0.5, "min_centered_cosine": 0.9998}, 100, 12),
        ({"min_cosine": 0.9998, "max_relative_error": 0.01}, 100, 25),
        ({"min_cosine": 0.9998, "max_relative_error": 0.5}, 100, 12),
        ({"min_cosine": 0.5}, 100, 2),
        ({"min_cosine": 1.0}, 1000, 126),
        ({"min_cosine": 1.0}, 100, 97),  # what is left beside three special tokens
        ({"min_cosine": 0.5}, 4, 1),
        ({"min_cosine": 1.0}, 3, 1),
    ],
)
def test_words_per_sequence_follow_the_strictest_bound(bounds: dict[str, float], longest: int, words: int) -> None:
    assert inputs.words_per_sequence(Gate(**bounds), material(longest=longest)) == words


class TestSequences:
    @pytest.mark.parametrize("ends", [((1, 2), (3,)), ((), ())])
    def test_of_words_begin_anew_to_complete_the_last(self, ends: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        prefix, suffix = ends
        found = inputs.word_sequences(np.array([7, 8, 9]), 2, material(prefix=prefix, suffix=suffix))
        assert found.tolist() == [[*prefix, 7, 8, *suffix], [*prefix, 9, 7, *suffix]]
        assert found.dtype == np.int64

    def test_of_the_longest_length_are_half_a_text_apart(self) -> None:
        ids, mask = inputs.long_rows(material(longest=9), 9)
        assert ids.tolist() == [[1, 2, 10, 11, 12, 13, 14, 15, 3], [1, 2, 13, 14, 15, 16, 17, 18, 3]]
        assert mask.tolist() == [[1] * 9] * 2
        assert {ids.dtype, mask.dtype} == {np.dtype(np.int64)}

    @pytest.mark.parametrize(("tokens", "rows"), [(2048, 2), (2049, 1)])
    def test_of_very_many_tokens_there_is_one_alone(self, tokens: int, rows: int) -> None:
        ids, mask = inputs.long_rows(material(longest=4096), tokens)
        assert ids.shape == mask.shape == (rows, tokens)

    def test_of_positions_read_a_window_each_and_the_last_positions_twice(self) -> None:
        windows = inputs.position_windows(material(longest=10), 3, tokens=10**9)
        assert [(ids.tolist(), mask.tolist()) for ids, mask in windows] == [
            ([[1, 2, 12, 13, 14]], [[1, 1, 1, 1, 1]]),
            ([[1, 2, 15, 16, 17, 18, 19, 10]], [[1, 1, 0, 0, 0, 1, 1, 1]]),
            ([[1, 2, 18, 19, 10, 11, 12, 13, 14, 15]], [[1, 1, 0, 0, 0, 0, 0, 0, 1, 1]]),
            ([[1, 2, 16, 17, 18, 19, 10, 11, 12, 13]], [[1, 1, 0, 0, 0, 0, 1, 1, 1, 1]]),
        ]

    @pytest.mark.parametrize(
        ("tokens", "extents"),
        [
            (11, [(2, 7), (7, 10), (6, 10)]),  # windows of 5, for 100 / 22 tokens
            (13, [(2, 6), (6, 10)]),  # windows of 4: the last one is that of the last positions
            (9, [(2, 8), (8, 10), (6, 10)]),
            (1, [(2, 10), (6, 10)]),
        ],
    )
    def test_of_positions_are_as_wide_as_the_budget_needs(self, tokens: int, extents: list[tuple[int, int]]) -> None:
        windows = inputs.position_windows(material(longest=10), 1, tokens)
        assert [(int(np.flatnonzero(mask[0])[2]), mask.shape[1]) for _, mask in windows] == extents

    def test_of_positions_without_special_tokens_are_whole_numbers_too(self) -> None:
        ((ids, mask),) = inputs.position_windows(material(longest=3, prefix=()), 3, tokens=10**9)
        assert (ids.tolist(), mask.tolist(), ids.dtype.name) == ([[10, 11, 12]], [[1, 1, 1]], "int64")


class TestBatches:
    @pytest.mark.parametrize(
        ("most", "best", "sizes"), [(5, 3, (1, 2, 3, 5)), (2, 2, (1, 2)), (1, 1, (1,)), (9, 2, (1, 2, 9))]
    )
    def test_sizes_are_one_two_the_best_and_the_most(self, most: int, best: int, sizes: tuple[int, ...]) -> None:
        assert inputs.batch_sizes(Shapes(batch=Range(opt=best, max=most))) == sizes

    @pytest.mark.parametrize(
        ("size", "different"),
        [
            (6, 4),
            (1638, 4),  # the longest has 5 tokens, and 5 x 1638 is 8190
            (1639, 3),
            (2048, 3),  # three have 4 tokens or fewer
            (2049, 2),  # only one fits, and two are needed to tell rows apart
            (9000, 2),
        ],
    )
    def test_rows_take_turns_among_those_that_fit(self, size: int, different: int) -> None:
        assert inputs.short_rows(size, material()) == [row % different for row in range(size)]

    def test_one_row_alone_is_repeated(self) -> None:
        assert inputs.short_rows(3, material(short=((1, 2, 3),))) == [0, 0, 0]


class TestWidths:
    def test_boundaries_are_powers_of_two_ends_of_profiles_and_the_longest(self) -> None:
        shapes = Shapes(sequence=Range(min=5, opt=11, max=90))
        assert inputs.boundaries_of(shapes, 100) == (1, 2, 4, 5, 8, 11, 16, 32, 64, 90, 100)
        assert inputs.boundaries_of(Shapes(), 16) == (1, 2, 4, 8, 16)

    @pytest.mark.parametrize(
        ("tokens", "between"),
        [(0, []), (120, []), (139, []), (140, [20]), (185, [8, 20, 32]), (820, [*range(3, 38)])],
    )
    def test_what_the_ends_leave_of_the_budget_goes_to_widths_in_between(self, tokens: int, between: list[int]) -> None:
        found = inputs.padded_widths(1, 40, (), tokens)
        assert [width for width in found if width not in {1, 2, 38, 39, 40}] == between
        assert {1, 2, 38, 39, 40} <= set(found)

    def test_around_a_boundary_are_the_two_below_and_the_one_above(self) -> None:
        assert inputs.padded_widths(5, 100, (50,), 0) == (5, 6, 48, 49, 50, 51, 98, 99, 100)

    def test_of_the_longest_sentence_are_its_own(self) -> None:
        assert inputs.padded_widths(3, 5, (), 0) == (3, 4, 5)

    def test_above_2048_tokens_are_the_boundaries_alone(self) -> None:
        assert inputs.padded_widths(5, 8192, (2048, 4096), 0) == (5, 6, 2046, 2047, 2048, 2049, 4096, 8192)
        assert inputs.padded_widths(7, 7, (), 100) == (7,)
