"""What a sweep runs reaches what it says it reaches, within its budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from exporter.bundle import Bundle
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.recipe import Gates, Range, Shapes, find_recipe
from exporter.serving.triton.facts import Options, served
from exporter.validator.sweeps import inputs
from exporter.validator.sweeps.inputs import Material


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(find_recipe("demo"))


@pytest.fixture(scope="module")
def material(checkpoint: Checkpoint) -> Material:
    return inputs.material_of(checkpoint)


class TestMaterial:
    def test_special_tokens_are_told_apart(self, material: Material, checkpoint: Checkpoint) -> None:
        named = [checkpoint.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")]
        assert (material.prefix, material.suffix) == ((named[0],), (named[1],))
        assert not {checkpoint.tokenizer.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")} & set(
            material.text.tolist()
        )

    def test_short_rows_are_all_different_and_as_the_tokenizer_gives_them(self, material: Material) -> None:
        lengths = [len(row) for row in material.short]
        assert len(set(material.short)) == len(material.short) == inputs.SHORT_ROWS
        assert lengths == sorted(lengths)
        assert all(row[0] == material.prefix[0] and row[-1] == material.suffix[0] for row in material.short)

    def test_text_goes_on_from_its_beginning(self, material: Material) -> None:
        end = len(material.text)
        np.testing.assert_array_equal(material.text_from(end - 1, 2), [material.text[-1], material.text[0]])

    def test_a_vocabulary_that_knows_no_word_of_the_probes_gives_its_own_rows(self, checkpoint: Checkpoint) -> None:
        words = {token: row for row, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ꙮꙮ", "ꙮꙮꙮ"])}
        tokenizer = Tokenizer.from_str(checkpoint.tokenizer.to_str())
        tokenizer.model = models.WordPiece(words, unk_token="[UNK]")
        material = inputs.material_of(replace(checkpoint, tokenizer=tokenizer))
        assert material.text.tolist() == list(range(5, 12_800))
        assert len(material.text_from(12_790, 20)) == 20
        assert len(material.short) >= 1


class TestWordRows:
    def test_all_rows(self, material: Material, checkpoint: Checkpoint) -> None:
        assert sorted(inputs.word_rows("all", material, checkpoint)) == list(range(12_800))

    def test_a_sample_is_spread_and_has_every_special_token(self, material: Material, checkpoint: Checkpoint) -> None:
        rows = np.sort(inputs.word_rows(100, material, checkpoint))
        special = [checkpoint.tokenizer.token_to_id(f"[{name}]") for name in ("PAD", "UNK", "CLS", "SEP", "MASK")]
        assert set(special) <= set(rows.tolist())
        assert 100 <= len(rows) <= 100 + len(special)
        assert (rows[0], rows[-1]) == (0, 12_799)
        assert np.diff(rows).max() <= 12_800 / 99 + 1

    def test_more_rows_than_there_are_is_all(self, material: Material, checkpoint: Checkpoint) -> None:
        assert len(inputs.word_rows(10**6, material, checkpoint)) == 12_800

    def test_a_sample_of_a_small_model_is_all(self, material: Material, checkpoint: Checkpoint) -> None:
        assert len(inputs.word_rows("sample", material, checkpoint)) == 12_800

    def test_the_order_is_random_and_always_the_same(self, material: Material, checkpoint: Checkpoint) -> None:
        first, second = (inputs.word_rows("all", material, checkpoint) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert (np.diff(first) == 1).mean() < 0.01

    @pytest.mark.parametrize("words", [1, 17, 126])
    def test_sequences_hold_every_row(self, material: Material, words: int) -> None:
        sequences = inputs.word_sequences(np.arange(1000), words, material)
        assert sequences.shape == (-(-1000 // words), words + 2)
        assert set(sequences[:, 1:-1].ravel().tolist()) == set(range(1000))
        assert set(sequences[:, 0]) == set(material.prefix)
        assert set(sequences[:, -1]) == set(material.suffix)

    @pytest.mark.parametrize(("precision", "words"), [("fp32", 126), ("fp16", 17), ("bf16", 5), ("int8", 2)])
    def test_the_coarser_the_bound_the_fewer_words_share_a_sequence(
        self, material: Material, precision: str, words: int
    ) -> None:
        assert inputs.words_per_sequence(Gates().of(precision), material) == words


class TestPositions:
    def test_long_rows_use_every_position_with_different_text(self, material: Material) -> None:
        ids, mask = inputs.long_rows(material, material.longest)
        assert ids.shape == mask.shape == (2, 256)
        assert mask.all()
        assert (ids[0] != ids[1]).mean() > 0.9

    @pytest.mark.parametrize("words", [1, 17, 300])
    def test_windows_cover_every_position(self, material: Material, words: int) -> None:
        windows = inputs.position_windows(material, words, tokens=10**9)
        read = {int(place) for _, mask in windows for place in np.flatnonzero(mask[0])}
        assert read == set(range(256))
        assert all(mask[0, 0] == 1 and mask.sum() <= max(words, inputs.LAST) + 1 for _, mask in windows)
        assert all(ids.shape == mask.shape for ids, mask in windows)
        assert {array.dtype for window in windows for array in window} == {np.dtype(np.int64)}

    def test_windows_stay_within_the_budget(self, material: Material) -> None:
        windows = inputs.position_windows(material, 1, tokens=2000)
        assert sum(ids.size for ids, _ in windows) <= 2000 * 1.3 + material.longest

    def test_the_last_positions_have_a_narrow_window(self, material: Material) -> None:
        _, mask = inputs.position_windows(material, 126, tokens=10**9)[-1]
        assert np.flatnonzero(mask[0]).tolist() == [0, 252, 253, 254, 255]


class TestBatches:
    def test_sizes(self) -> None:
        assert inputs.batch_sizes(Shapes(batch=Range(opt=32, max=256))) == (1, 2, 32, 256)
        assert inputs.batch_sizes(Shapes(batch=Range(opt=1, max=1))) == (1,)

    def test_neighbors_and_rows_a_power_of_two_apart_differ(self, material: Material) -> None:
        rows = inputs.short_rows(256, material)
        for apart in (1, 2, 4, 8, 16, 32, 64, 128):
            assert all(first != second for first, second in zip(rows, rows[apart:], strict=False))

    def test_a_very_large_batch_is_made_of_the_shortest(self, material: Material) -> None:
        rows = inputs.short_rows(2048, material)
        assert max(len(material.short[row]) for row in rows) * 2048 <= inputs.BATCH_TOKENS
        assert len(set(rows)) > 1


class TestBudget:
    @pytest.mark.parametrize(
        ("layers", "hidden", "tokens"), [(12, 768, 1000), (24, 1024, 1000), (6, 768, 1000), (12, 384, 2000)]
    )
    def test_a_model_smaller_than_half_of_bert_base_gets_more(
        self, checkpoint: Checkpoint, layers: int, hidden: int, tokens: int
    ) -> None:
        facts = checkpoint.facts.model_copy(update={"layers": layers, "hidden_size": hidden})
        assert inputs.budget(1000, replace(checkpoint, facts=facts)) == tokens


class TestWidths:
    def test_boundaries_are_the_powers_of_two_the_profiles_and_the_longest(self) -> None:
        boundaries = inputs.boundaries_of(Shapes(), 100)
        assert {1, 2, 4, 8, 16, 32, 64, 100} <= set(boundaries)
        assert boundaries[-1] == 100

    def test_every_width_where_the_budget_allows(self) -> None:
        assert inputs.padded_widths(3, 64, (), tokens=3000) == tuple(range(3, 65))

    def test_the_ends_and_the_boundaries_come_first(self) -> None:
        widths = inputs.padded_widths(5, 512, (64, 512), tokens=0)
        assert widths == (5, 6, 62, 63, 64, 65, 510, 511, 512)

    @pytest.mark.parametrize("tokens", [8000, 12_000, 50_000])
    def test_the_rest_of_the_budget_is_spread(self, tokens: int) -> None:
        boundaries = inputs.boundaries_of(Shapes(), 512)
        widths = inputs.padded_widths(3, 512, boundaries, tokens)
        assert 0.85 * tokens <= sum(widths) <= 1.1 * tokens
        others = sorted(set(widths) - set(inputs.padded_widths(3, 512, boundaries, 0)))
        assert others[0] < 100
        assert others[-1] > 450

    def test_boundaries_hold_the_ends_of_profiles_and_the_widths_servers_pad_to(self, demo_fp32: Path) -> None:
        shapes = Shapes(batch=Range(opt=8, max=16), sequence=Range(min=1, opt=48, max=200))
        assert {48, 64, 200} <= set(inputs.boundaries_of(shapes, 200))
        bundle = Bundle.open(demo_fp32)
        buckets = served(bundle, Options()).buckets
        assert set(buckets) <= set(inputs.boundaries_of(bundle.manifest.recipe.shapes, 256))

    def test_no_boundary_is_beyond_the_longest(self) -> None:
        assert max(inputs.boundaries_of(Shapes(), 100)) == 100


def test_a_smaller_model_gets_a_larger_budget(checkpoint: Checkpoint) -> None:
    assert inputs.budget(1000, checkpoint) == 13_500
