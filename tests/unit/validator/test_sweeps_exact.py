"""Sweeps of a model that is a few lines of numpy: what is said and counted, sentence for sentence."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from exporter.recipe import Gate, Range, Shapes
from exporter.runtime.tokens import IntArray
from exporter.targets import Precision
from exporter.validator.check import Check
from exporter.validator.parity import row_cosine
from exporter.validator.sweeps import SweepReference, Vectors, against_itself, against_pytorch, parts, running, sweep
from exporter.validator.sweeps.distances import Distances
from exporter.validator.sweeps.inputs import Material, word_rows, word_sequences
from tests.support.stand_in import CLS, FACTS, PAD, SEP, words_tokenizer

ROWS, LONGEST = 50, 24
SHAPES = Shapes(batch=Range(opt=3, max=5))
STRICT = Gate(min_cosine=0.999999, min_centered_cosine=0.9999, max_relative_error=1e-4, max_batch_deviation=1e-3)
PAIRS = Gate(min_cosine=0.9, max_relative_error=0.3, max_batch_deviation=0.1)  # two words per sequence
SHORT = ((CLS, 4, SEP), (CLS, 5, SEP), (CLS, 6, 7, SEP))

Change = Callable[[IntArray, IntArray, Vectors], Vectors]

_NUMBERS = np.random.default_rng(0)
_WORDS, _POSITIONS = _NUMBERS.standard_normal((ROWS, 8)), 0.1 * _NUMBERS.standard_normal((LONGEST, 8))


def model(ids: IntArray, mask: IntArray) -> Vectors:
    """Return the mean of word and position rows where the mask is 1; positions count from the first column."""
    rows = (_WORDS[ids] + _POSITIONS[: ids.shape[1]]) * mask[:, :, None]
    vectors: Vectors = (rows.sum(axis=1) / mask.sum(axis=1, keepdims=True)).astype(np.float32)
    return vectors


def reference_of(padding: str = "right") -> SweepReference:
    tokenizer = words_tokenizer(*(f"낱말{number}" for number in range(4, ROWS - 1)), padding=padding)  # 49 has no name
    transformer = SimpleNamespace(auto_model=SimpleNamespace(get_input_embeddings=lambda: nn.Embedding(ROWS, 1)))
    checkpoint: Any = SimpleNamespace(
        model=[transformer], tokenizer=tokenizer, facts=FACTS, pad_token_id=PAD, encode_tokens=model
    )
    reference = SweepReference(checkpoint)
    reference.material = Material(ROWS, (CLS,), (SEP,), np.arange(4, ROWS), SHORT, LONGEST)
    return reference


@pytest.fixture(scope="module")
def reference() -> SweepReference:
    return reference_of()


@pytest.fixture(scope="module")
def left() -> SweepReference:
    return reference_of("left")


class Candidate:
    """The model, with its answers changed."""

    def __init__(self, change: Change = lambda _ids, _mask, vectors: vectors) -> None:
        self._change = change
        self.masks: list[IntArray] = []

    def encode_padded(self, input_ids: IntArray, attention_mask: IntArray) -> Vectors:
        self.masks.append(attention_mask)
        return self._change(input_ids, attention_mask, model(input_ids, attention_mask))


def swept(reference: SweepReference, change: Change, gate: Gate = STRICT, **options: Any) -> Check:
    return sweep(reference, Candidate(change), SHAPES, gate, **options)


def times(factor: float, where: Callable[[IntArray, IntArray], Any]) -> Change:
    """Multiply the vectors of some rows: ``where`` returns (batch,) or one truth value."""

    def change(ids: IntArray, mask: IntArray, vectors: Vectors) -> Vectors:
        chosen = np.broadcast_to(where(ids, mask), len(ids))
        changed: Vectors = np.where(chosen[:, None], vectors * np.float32(factor), vectors)
        return changed

    return change


def everywhere(_ids: IntArray, _mask: IntArray) -> bool:
    return True


def turned(degrees: float, where: Callable[[IntArray, IntArray], Any] = everywhere) -> Change:
    """Turn the vectors of some rows by an angle, in four planes at once."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))

    def change(ids: IntArray, mask: IntArray, vectors: Vectors) -> Vectors:
        a, b = vectors[:, ::2], vectors[:, 1::2]
        other = np.stack([cos * a - sin * b, sin * a + cos * b], axis=2).reshape(vectors.shape)
        return np.where(np.broadcast_to(where(ids, mask), len(ids))[:, None], other, vectors).astype(np.float32)

    return change


def nowhere(_ids: IntArray, _mask: IntArray) -> bool:
    return False


def rounded(check: Check) -> dict[str, Any]:
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in check.figures.items()}


SOUND = {
    "rows": 50,
    "rows_of": 50,
    "words_per_sequence": 22,
    "max_relative_error": 0,
    "min_cosine": 1,
    "min_centered_cosine": 1,
    "tokens_of_two_rows": 24,
    "positions": 24,
    "positions_of": 24,
    "position_windows": 3,
    "position_max_relative_error": 0,
    "position_min_cosine": 1,
    "batches": [1, 2, 3, 5],
    "max_batch_deviation": 0,
    "widths": 22,
    "widths_of": 22,
    "padding": "right",
    "max_width_deviation": 0,
    "max_padding_influence": 0,
}


class TestSound:
    def test_everything_that_was_done_is_stated(self, reference: SweepReference) -> None:
        check = swept(reference, times(1, nowhere))
        assert (check.name, check.failures) == ("sweep", ())
        assert check.coverage == (
            "50 of 50 word rows, 24 of 24 positions, batches of 1, 2, 3 and 5, 22 of 22 padded widths (3 to 24), "
            "words in place of padding at width 24"
        )
        assert rounded(check) == SOUND

    def test_few_rows_and_widths_are_counted_as_few(self, reference: SweepReference) -> None:
        check = swept(reference, times(1, nowhere), rows=6, width_tokens=0)
        few = {"rows": 9, "widths": 18}  # with special tokens, and the widths around powers of two, 12 and the ends
        assert rounded(check) == SOUND | few
        assert check.coverage.startswith("9 of 50 word rows, ")
        assert "18 of 22 padded widths (3 to 24)" in check.coverage

    def test_padding_on_the_left_is_compared_with_the_reference(self, left: SweepReference) -> None:
        check = swept(left, times(1, nowhere))
        expected = {name: value for name, value in SOUND.items() if name != "max_padding_influence"}
        assert check.failures == ()
        assert check.coverage.endswith(
            "22 of 22 padded widths (3 to 24), words in place of padding not compared: the tokenizer pads on the left"
        )
        assert rounded(check) == expected | {"padding": "left"}

    def test_an_engine_that_takes_lengths_gets_no_windows(self, reference: SweepReference) -> None:
        candidate = Candidate()
        check = sweep(reference, candidate, SHAPES, STRICT, right_padding_only=True)
        assert rounded(check) == SOUND | {"position_windows": 0}
        assert not any((np.diff(mask, axis=1) > 0).any() for mask in candidate.masks)


class TestWordRows:
    def test_one_that_is_wrong_alone_is_named(self, reference: SweepReference) -> None:
        check = swept(reference, times(1.5, lambda ids, _: (ids == 17).any(axis=1)))
        assert check.failures == (
            "word row 17 ('낱말17'): relative error 0.5, allowed 0.0001",
            "positions 0 to 23: relative error 0.5, allowed 0.0001",
            "positions 0 to 22: relative error 0.5, allowed 0.0001",
            "with words behind the mask, at width 24, the vector differs from itself with padding there by 0.5, "
            "allowed 1e-05",
        )
        wrong = {"max_relative_error": 0.5, "position_max_relative_error": 0.5, "max_padding_influence": 0.5}
        assert rounded(check) | {"min_centered_cosine": 1} == SOUND | wrong
        assert 0.9 < check.figures["min_centered_cosine"] < 0.99  # the mean was taken from a longer vector

    def test_one_that_is_wrong_in_one_row_of_two_counts_fully(self, reference: SweepReference) -> None:
        check = swept(reference, turned(60, lambda ids, _: (ids == 4).any(axis=1)))
        assert set(check.failures) == {  # the row is in two sequences: it also completes the last
            "word row 4 ('낱말4'): relative error 1, allowed 0.0001",
            "positions 0 to 23: relative error 1, allowed 0.0001",
        }
        names = ("max_relative_error", "min_cosine", "position_max_relative_error", "position_min_cosine")
        assert [round(check.figures[name], 5) for name in names] == [1, 0.5, 1, 0.5]

    def test_one_that_the_tokenizer_has_no_name_for_has_its_number(self, reference: SweepReference) -> None:
        check = swept(reference, times(1.5, lambda ids, _: (ids == 49).any(axis=1) & (ids.shape[1] < 5)))
        assert check.failures == ()  # in no sequence of many words
        check = swept(reference, times(1.5, lambda ids, _: (ids == 49).any(axis=1)))
        assert check.failures[0] == "word row 49: relative error 0.5, allowed 0.0001"

    def test_one_that_is_no_number_makes_its_figures_null(self, reference: SweepReference) -> None:
        check = swept(reference, times(np.nan, lambda ids, _: (ids == 17).any(axis=1)))
        assert check.failures == (
            "word row 17 ('낱말17'): NaN or Inf",
            "positions 0 to 23: NaN or Inf",
            "positions 0 to 22: NaN or Inf",
            "row 0 of a batch of 2 with 24 tokens each is NaN or Inf",
            "row 1 of a batch of 2 with 24 tokens each is NaN or Inf",
            "with words behind the mask, at width 24, the vector is NaN or Inf",
        )
        known = {"max_width_deviation": 0}
        measured = {name for name, value in SOUND.items() if value in (0, 1)}
        assert rounded(check) == SOUND | dict.fromkeys(measured) | known

    def test_a_sequence_that_no_row_alone_makes_wrong_is_described(self, reference: SweepReference) -> None:
        check = swept(reference, times(2, lambda ids, _: (ids == 17).any(axis=1) & (ids.shape[1] == 24)))
        material = reference.material
        sequences = word_sequences(word_rows("all", material, reference.checkpoint), 22, material)[:, 1:-1]
        (words,) = (np.unique(row) for row in sequences if 17 in row)
        assert check.failures[0] == (
            f"a sequence of {len(words)} word rows, {words[0]} among them: relative error 1, allowed 0.0001"
        )

    def test_the_worst_three_are_named_and_the_others_counted(self, reference: SweepReference) -> None:
        check = swept(reference, times(2, everywhere), PAIRS)
        material = reference.material
        sequences = word_sequences(word_rows("all", material, reference.checkpoint), 2, material)[:, 1:-1]
        named = [min(row) for row in sequences[:3]]
        tokens = [reference.checkpoint.tokenizer.id_to_token(int(row)) for row in named]
        told = [f" ({token!r})" if token else "" for token in tokens]
        assert check.failures == (
            *(f"word row {row}{name}: relative error 1, allowed 0.3" for row, name in zip(named, told, strict=True)),
            "25 of 25 sequences of 2 word rows differ from PyTorch's vectors",
            "positions 0 to 23: relative error 1, allowed 0.3",
            "positions 0 to 2: relative error 1, allowed 0.3",
            "positions 3 to 4: relative error 1, allowed 0.3",
            "14 ranges of positions differ from PyTorch's vectors",
        )
        vectors = model(
            word_sequences(word_rows("all", material, reference.checkpoint), 2, material), np.ones((25, 4), np.int64)
        )
        center = vectors.mean(axis=0)
        centered = float(row_cosine(vectors - center, 2 * vectors - center).min())
        wrong = {
            "max_relative_error": 1,
            "position_max_relative_error": 1,
            "min_centered_cosine": round(centered, 5),
        }
        assert rounded(check) == SOUND | wrong | {"words_per_sequence": 2, "position_windows": 13}

    def test_three_are_named_and_not_counted(self, reference: SweepReference) -> None:
        rows = (10, 20, 30)
        check = swept(reference, times(2, lambda ids, _: np.isin(ids, rows).any(axis=1) & (ids.shape[1] < 5)), PAIRS)
        told = [failure for failure in check.failures if "row" in failure]
        assert sorted(told) == [f"word row {row} ('낱말{row}'): relative error 1, allowed 0.3" for row in rows]


class TestBatches:
    def test_a_row_that_is_another_in_company_is_named(self, reference: SweepReference) -> None:
        check = swept(reference, times(1.01, lambda ids, _: (np.arange(len(ids)) == 4) & (len(ids) == 5)))
        # batches of five word sequences are wrong as well, and are another part's matter
        told = "row 4 of a batch of 5 differs from itself alone by 0.01, allowed 0.001"
        assert [failure for failure in check.failures if failure.startswith("row ")] == [told]
        assert check.figures["max_batch_deviation"] == pytest.approx(0.01, abs=1e-6)

    def test_many_are_counted(self, reference: SweepReference) -> None:
        check = swept(reference, times(2, lambda ids, _: len(ids) == 5 and ids.shape[1] == 4))
        assert [failure for failure in check.failures if "batch" in failure] == [
            *(f"row {row} of a batch of 5 differs from itself alone by 1, allowed 0.001" for row in (0, 1, 2)),
            "5 rows of batches differ from themselves alone",
        ]

    def test_long_rows_share_a_batch_of_two(self, reference: SweepReference) -> None:
        def second(ids: IntArray, mask: IntArray) -> Any:
            return (np.arange(len(ids)) == 1) & (ids.shape == (2, LONGEST)) & bool(mask.all())

        check = swept(reference, times(1.25, second), PAIRS)
        assert check.failures == (
            "row 1 of a batch of 2 with 24 tokens each differs from itself alone by 0.25, allowed 0.1",
        )
        assert check.figures["max_batch_deviation"] == pytest.approx(0.25)

    def test_without_a_bound_none_is_too_far(self, reference: SweepReference) -> None:
        gate = PAIRS.model_copy(update={"max_batch_deviation": None})
        assert swept(reference, times(1.25, lambda ids, _: len(ids) == 3), gate).failures == ()

    def test_padded_on_the_left_rows_are_as_wide_alone_as_together(self, left: SweepReference) -> None:
        check = swept(left, times(1.25, lambda ids, _: len(ids) == 1 and ids.shape[1] == 4 and ids[0, 0] == 0))
        told = {failure.partition(" differs")[2] for failure in check.failures if failure.startswith("row ")}
        assert told == {" from itself alone by 0.2, allowed 0.001"}


class TestWidths:
    def test_one_that_changes_the_vector_is_named(self, reference: SweepReference) -> None:
        check = swept(reference, times(1.25, lambda ids, mask: ids.shape[1] == 9 and not mask[0, -1]))
        assert check.failures == (
            "padded on the right to width 9 the vector differs from its own without padding by 0.25, allowed 0.001",
        )
        assert rounded(check) == SOUND | {"max_width_deviation": 0.25}

    def test_many_are_counted_the_worst_first(self, reference: SweepReference) -> None:
        def wider(ids: IntArray, mask: IntArray, vectors: Vectors) -> Vectors:
            return vectors * np.float32(1 + max(0, ids.shape[1] - 19) / 4 * (not mask[0, -1] and mask[0, 2]))

        check = swept(reference, wider)
        told = "the vector differs from its own without padding by"
        assert check.failures == (
            f"padded on the right to width 24 {told} 1.2, allowed 0.001",
            f"padded on the right to width 23 {told} 1, allowed 0.001",
            f"padded on the right to width 22 {told} 0.75, allowed 0.001",
            "5 padded widths change the vector",
        )

    def test_padded_on_the_left_the_bound_is_that_of_the_error(self, left: SweepReference) -> None:
        gate = STRICT.model_copy(update={"max_relative_error": 0.2, "max_batch_deviation": 0.5})
        wide = times(1.25, lambda ids, mask: ids.shape[1] == 9 and not mask[0, 0])
        assert swept(left, wide, gate).failures == (
            "padded on the left to width 9 the vector differs from PyTorch's by 0.25, allowed 0.2",
        )


class TestLeaks:
    @staticmethod
    def leak(factor: float) -> Change:
        return times(factor, lambda ids, mask: ids.shape == (1, LONGEST) and mask.sum() == 3 and ids[0, -1] != 0)

    def test_words_behind_the_mask_may_change_nothing(self, reference: SweepReference) -> None:
        check = swept(reference, self.leak(1.0001), PAIRS)
        assert check.failures == (
            "with words behind the mask, at width 24, the vector differs from itself with padding there by 0.0001, "
            "allowed 1e-05",
        )
        assert check.figures["max_padding_influence"] == pytest.approx(1e-4, abs=1e-6)
        assert swept(reference, self.leak(1.000001), PAIRS).failures == ()

    def test_scales_from_the_batch_change_with_it(self, reference: SweepReference) -> None:
        assert swept(reference, self.leak(1.05), PAIRS, precision=Precision.INT8_DYNAMIC).failures == ()
        assert swept(reference, self.leak(1.25), PAIRS, precision=Precision.INT8_DYNAMIC).failures == (
            "with words behind the mask, at width 24, the vector differs from itself with padding there by 0.25, "
            "allowed 0.1",
        )

    def test_the_words_are_those_of_the_text(self, reference: SweepReference) -> None:
        seen = []

        def note(ids: IntArray, mask: IntArray, vectors: Vectors) -> Vectors:
            if ids.shape == (1, LONGEST) and mask.sum() == 3:
                seen.append(ids[0].tolist())
            return vectors

        swept(reference, note)
        padded = [CLS, 4, SEP] + [0] * 21
        assert sorted(seen) == [padded, [CLS, 4, SEP, *range(4, 25)]]


class TestInt8:
    """Its bounds on single words are wider than those on sentences."""

    GATE = Gate(min_cosine=0.97, max_relative_error=0.3, max_batch_deviation=0.05)

    def test_words_may_turn_and_grow_by_more_than_sentences(self, reference: SweepReference) -> None:
        turn = turned(36)  # cosine 0.81, error 0.62
        assert swept(reference, turn, self.GATE, precision=Precision.INT8).failures == ()
        assert swept(reference, times(1.69, everywhere), self.GATE, precision=Precision.INT8).failures == ()

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (turned(38), "cosine 0.788011, at least 0.8 is wanted"),
            (times(1.71, everywhere), "relative error 0.71, allowed 0.7"),
        ],
    )
    def test_and_no_more_than_that(self, reference: SweepReference, change: Change, told: str) -> None:
        failures = swept(reference, change, self.GATE, precision=Precision.INT8).failures
        assert [failure.partition(": ")[2] for failure in failures if ": " in failure] == [told] * 6

    def test_a_bundle_cannot_ask_for_them_by_what_its_gate_states(self, reference: SweepReference) -> None:
        gate = self.GATE.model_copy(update={"max_emulator_ratio": 0.6})
        assert swept(reference, turned(36), gate, precision=Precision.FP16).failures


class TestDistances:
    WANTED = np.array([[3, 4], [0, 0], [1, 0], [2, 0]], np.float32)
    FOUND = np.array([[3, 4.5], [0, 0], [np.inf, 0], [0, 2]], np.float32)

    def test_are_of_each_row_and_not_a_number_where_a_row_is_none(self) -> None:
        found = Distances.between(self.WANTED, self.FOUND, np.array([1.0, 0.0]))
        np.testing.assert_allclose(found.error, [0.1, 0, np.nan, np.sqrt(2)])
        np.testing.assert_allclose(found.cosine, [27 / 5 / np.hypot(3, 4.5), 1, np.nan, 0])
        assert found.centered is not None
        np.testing.assert_allclose(
            found.centered, [22 / np.hypot(2, 4) / np.hypot(2, 4.5), 1, np.nan, -1 / np.hypot(-1, 2)]
        )

    def test_without_a_center_have_no_centered_cosine(self) -> None:
        found = Distances.between(self.WANTED, self.FOUND, None)
        assert found.centered is None
        np.testing.assert_allclose(found.error, [0.1, 0, np.nan, np.sqrt(2)])

    def test_to_a_vector_of_zeros_are_huge(self) -> None:
        found = Distances.between(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32), None)
        np.testing.assert_allclose(found.error, [np.sqrt(2) / 1e-30])

    @pytest.mark.parametrize(
        ("error", "cosine", "centered", "told"),
        [
            (0.25, 0.75, 0.5, None),  # at the bounds
            (np.nan, np.nan, np.nan, "NaN or Inf"),
            (0.26, 0.1, 0.1, "relative error 0.26, allowed 0.25"),
            (0.25, 0.7499999, 0.1, "cosine 0.75, at least 0.75 is wanted"),
            (0.0, 0.123456789, 1.0, "cosine 0.123457, at least 0.75 is wanted"),
            (0.0, 1.0, 0.49, "centered cosine 0.49, at least 0.5 is wanted"),
        ],
    )
    def test_the_first_bound_that_fails_is_told(
        self, error: float, cosine: float, centered: float, told: str | None
    ) -> None:
        distances = Distances(*(np.array([0.0, value]) for value in (error, cosine, centered)))
        gate = Gate(min_cosine=0.75, min_centered_cosine=0.5, max_relative_error=0.25)
        assert distances.complaint(1, gate) == told

    def test_bounds_that_a_gate_does_not_have_are_not_judged(self) -> None:
        distances = Distances(np.array([9.0]), np.array([0.9]), np.array([-1.0]))
        assert distances.complaint(0, Gate(min_cosine=0.75)) is None
        without = Distances(np.array([0.0]), np.array([0.9]), None)
        assert without.complaint(0, Gate(min_cosine=0.75, min_centered_cosine=0.5)) is None

    def test_rows_that_fail_come_worst_first(self) -> None:
        error = np.array([0.3, 0.1, np.nan, 0.5, 0.3])
        distances = Distances(error, np.ones(5), None)
        gate = Gate(min_cosine=0.75, max_relative_error=0.25)
        assert distances.failed(gate) == [2, 3, 0, 4]
        alike = Distances(np.full(40, 0.3), np.ones(40), None)
        assert alike.failed(gate) == [*range(40)]


def test_deviations_are_relative_to_the_second_and_not_a_number_where_either_is_none() -> None:
    first = np.array([[3, 5], [np.inf, 0], [0, 0], [1, 1], [1, 0]], np.float32)
    second = np.array([[3, 4], [np.inf, 0], [np.nan, 0], [1, 1], [0, 0]], np.float32)
    np.testing.assert_allclose(against_itself._deviation(first, second), [0.2, np.nan, np.nan, 0, 1e30])


def test_what_is_too_far_comes_worst_first() -> None:
    deviation = np.array([0.5, 0.123, np.nan, 0.25, 0.3])
    assert list(against_itself._too_far(deviation, 0.25, "itself")) == [
        (2, "is NaN or Inf"),
        (0, "differs from itself by 0.5, allowed 0.25"),
        (4, "differs from itself by 0.3, allowed 0.25"),
    ]
    assert list(against_itself._too_far(deviation, None, "itself")) == [(2, "is NaN or Inf")]
    assert [row for row, _ in against_itself._too_far(np.full(40, 0.3), 0.25, "itself")] == [*range(40)]


@pytest.mark.parametrize(
    ("failures", "told"), [(["a", "b", "c"], ["a", "b", "c"]), (list("abcd"), ["a", "b", "c", "4 are wrong"])]
)
def test_three_sentences_are_enough(failures: list[str], told: list[str]) -> None:
    assert running.shortened(failures, "are wrong") == told


@pytest.mark.parametrize(("sizes", "told"), [((1,), "1"), ((1, 2), "1 and 2"), ((1, 2, 32), "1, 2 and 32")])
def test_sizes_are_listed(sizes: tuple[int, ...], told: str) -> None:
    assert against_itself._listed(sizes) == told


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.25), 0.25),
        (1.5, 1.5),
        (float("nan"), None),
        (np.float32("inf"), None),
        (7, 7),
        ([1, 2], [1, 2]),
        ("left", "left"),
        (None, None),
    ],
)
def test_figures_are_json(value: Any, data: Any) -> None:
    found = parts._json(value)
    assert found == data
    assert type(found) is type(data)


class TestBatchesOfSequences:
    @pytest.mark.parametrize(
        ("rows", "width", "most", "sizes"),
        [
            (70, 3, 100, [32, 32, 6]),
            (7, 3, 5, [5, 2]),
            (5, 1024, 100, [2, 2, 1]),
            (2, 1025, 100, [1, 1]),
            (2, 5000, 100, [1, 1]),
        ],
    )
    def test_are_of_few_rows_and_tokens(self, rows: int, width: int, most: int, sizes: list[int]) -> None:
        seen: list[tuple[int, ...]] = []

        class Encoder:
            def encode_padded(self, input_ids: IntArray, attention_mask: IntArray) -> Vectors:
                seen.append((len(input_ids), len(attention_mask)))
                return (input_ids[:, :1] + attention_mask[:, :1]).astype(np.float32)

        ids = np.arange(rows)[:, None] + np.zeros((1, width), np.int64)
        run: Any = SimpleNamespace(shapes=Shapes(batch=Range(opt=1, max=most)))
        vectors = against_pytorch._in_batches(Encoder(), ids, np.ones_like(ids), run)
        assert vectors[:, 0].tolist() == [*range(1, rows + 1)]
        assert seen == [(size, size) for size in sizes]


def test_a_batch_is_encoded_once_and_another_of_the_same_bytes_is_another() -> None:
    calls: list[tuple[int, ...]] = []

    def encode(ids: IntArray, _mask: IntArray) -> Vectors:
        calls.append(ids.shape)
        return np.full((len(ids), 1), len(calls), np.float32)

    remembering = running.Remembering(encode)
    zeros, ones = np.zeros((2, 2), np.int64), np.ones((2, 2), np.int64)
    batches = [(zeros, ones), (zeros, zeros), (ones, ones), (zeros.reshape(1, 4), ones.reshape(1, 4))]
    first, second = ([remembering.encode_padded(*batch)[0, 0] for batch in batches] for _ in range(2))
    assert first == second == [1, 2, 3, 4]
    assert calls == [(2, 2), (2, 2), (2, 2), (1, 4)]
