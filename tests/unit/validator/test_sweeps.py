"""Sweeps catch what sentences do not reach, name the culprit, and let sound exports pass."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from exporter.checkpoint import TOKEN_BUDGET, Checkpoint, load_checkpoint
from exporter.graph.folding import fold
from exporter.graph.surgery import input_of
from exporter.recipe import Gate, Gates, Range, Shapes, find_recipe
from exporter.runtime.encoder import Encoder
from exporter.runtime.tokens import IntArray, TextTokenizer
from exporter.targets import Precision
from exporter.validator.check import Check
from exporter.validator.probes import probes_for
from exporter.validator.sweeps import SweepReference, Vectors, parts, sweep
from tests.support.checkpoints import save_checkpoint
from tests.support.faults import (
    Candidate,
    Subject,
    candidate_of,
    encoder_of,
    last_position_zeroed,
    mask_adds,
    negated_at_one_width,
    positions_restart,
    reference_on,
    rows_repeated,
    subject_named,
    unused_words_replaced,
)
from tests.support.surgery import change_stored, table_readers

NAME = "albert-small (small twin)"
SHAPES = Shapes(batch=Range(opt=32, max=64))
GATES = Gates()
LEAK = r"^with words behind the mask, at width 256, the vector differs from itself with padding there by [\de.-]+"

Change = Callable[[IntArray, IntArray, Vectors], Vectors]


def nothing(_: Candidate) -> None:
    """The sound export."""


def sound(subject: Subject, precision: str = "fp32") -> Candidate:
    """Return a sound candidate, also of a subject that has no name in the table of faults."""
    if precision == "fp32":
        return Candidate(subject, precision, subject.graph.editable(), subject.checkpoint.tokenizer)
    return candidate_of(subject, precision)


def bounded(gate: Gate, max_batch_deviation: float | None) -> Gate:
    return gate.model_copy(update={"max_batch_deviation": max_batch_deviation})


def unused_words(checkpoint: Checkpoint) -> list[int]:
    """Return the word rows that no probe uses."""
    texts = [
        probe.text
        for probe in probes_for(checkpoint.tokenizer, checkpoint.facts.max_seq_length, checkpoint.facts.prompt)
    ]
    used = {token for row in TextTokenizer(checkpoint.tokenizer).ids(texts) for token in row}
    size = checkpoint.model[0].auto_model.embeddings.word_embeddings.num_embeddings
    return [row for row in range(size) if row not in used]


def one_word_is(row: int, value: float) -> Callable[[Candidate], None]:
    """Replace one word row by a constant."""

    def change(table: np.ndarray) -> np.ndarray:
        table[row] = value
        return table

    return lambda candidate: change_stored(input_of(table_readers(candidate.model, "word")[0]), change)


def unchanged(_ids: IntArray, _mask: IntArray, vectors: Vectors) -> Vectors:
    return vectors


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_named(NAME)


@pytest.fixture(scope="module")
def reference(subject: Subject) -> SweepReference:
    return SweepReference(subject.checkpoint)


@pytest.fixture(scope="module")
def encoder(subject: Subject) -> Iterator[Encoder]:
    with encoder_of(sound(subject)) as opened:
        yield opened


class Altered:
    """A sound encoder whose answers are changed, and which remembers what it was given."""

    def __init__(self, encoder: Encoder, change: Change = unchanged) -> None:
        self._encoder, self._change = encoder, change
        self.masks: list[IntArray] = []

    def encode_padded(self, input_ids: IntArray, attention_mask: IntArray) -> Vectors:
        self.masks.append(attention_mask)
        return self._change(input_ids, attention_mask, self._encoder.encode_padded(input_ids, attention_mask).copy())


def swept(
    subject: Subject, reference: SweepReference, fault: Callable[[Candidate], None], precision: str, **options: Any
) -> Check:
    candidate = sound(subject, precision)
    fault(candidate)
    with encoder_of(candidate) as encoder:
        return sweep(reference, encoder, SHAPES, GATES.of(precision), **options)


class TestSoundExports:
    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    @pytest.mark.parametrize("name", [NAME, "klue-sroberta (small twin)", "ko-sbert-multitask (small twin)"])
    def test_pass(self, name: str, precision: str) -> None:
        subject = subject_named(name)
        check = swept(subject, SweepReference(subject.checkpoint), nothing, precision)
        assert check.failures == ()
        assert check.name == "sweep"

    def test_coverage_is_stated_in_words_and_figures(self, reference: SweepReference, encoder: Encoder) -> None:
        check = sweep(reference, encoder, SHAPES, GATES.fp32)
        assert check.coverage == (
            "2,000 of 2,000 word rows, 256 of 256 positions, batches of 1, 2, 32 and 64, "
            "254 of 254 padded widths (3 to 256), words in place of padding at width 256"
        )
        figures = check.figures
        assert (figures["rows"], figures["rows_of"]) == (2000, 2000)
        assert (figures["positions"], figures["positions_of"]) == (256, 256)
        assert (figures["batches"], figures["widths"], figures["widths_of"]) == ([1, 2, 32, 64], 254, 254)
        assert 0 < figures["max_relative_error"] < 2e-5
        assert figures["max_batch_deviation"] < 2e-5
        assert json.loads(json.dumps(check.to_dict(), allow_nan=False))["passed"] is True

    def test_a_sample_says_so(self, reference: SweepReference, encoder: Encoder) -> None:
        check = sweep(reference, encoder, SHAPES, GATES.fp32, rows=300)
        assert re.match(r"30\d of 2,000 word rows", check.coverage)

    def test_few_widths_are_counted_as_few(self, reference: SweepReference, encoder: Encoder) -> None:
        check = sweep(reference, encoder, SHAPES, GATES.fp32, width_tokens=0)
        assert re.search(r"\b(2\d|3\d) of 254 padded widths", check.coverage)
        assert check.figures["widths"] < 40


class TestSeededFaults:
    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            (unused_words_replaced, r"^word row \d+ \('\S+'\): relative error [\d.]+, allowed"),
            (rows_repeated, r"^row \d\d of a batch of 64 differs from itself alone by [\d.]+"),
            (
                negated_at_one_width,
                r"^padded on the right to width 203 the vector differs from its own without padding by 2, allowed",
            ),
            (last_position_zeroed, r"^positions \d+ to 255: relative error"),
            (positions_restart, r"^positions \d+ to \d+: relative error"),
            (
                mask_adds(-10),
                LEAK,
            ),
            (
                mask_adds(-6),
                LEAK,
            ),
        ],
    )
    def test_is_caught(
        self,
        subject: Subject,
        reference: SweepReference,
        fault: Callable[[Candidate], None],
        precision: str,
        told: str,
    ) -> None:
        failures = swept(subject, reference, fault, precision).failures
        assert any(re.search(told, failure) for failure in failures), failures

    def test_the_mask_is_judged_alike_where_a_gate_bounds_no_deviation(
        self, subject: Subject, reference: SweepReference
    ) -> None:
        candidate = sound(subject)
        mask_adds(-6)(candidate)
        with encoder_of(candidate) as encoder:
            check = sweep(reference, encoder, SHAPES, GATES.int8)
        assert any(failure.startswith("with words behind the mask") for failure in check.failures)

    def test_bounds_of_int8_keep_their_distance_from_those_on_text(self) -> None:
        own = GATES.int8
        cases: list[tuple[dict[str, float | None], float, float]] = [
            ({}, 0.8, 0.7),
            ({"min_cosine": 0.985, "max_relative_error": 0.06}, 0.9, 0.14),
            ({"min_cosine": 0.5, "max_relative_error": None}, 0.8, 0.7),
            ({"min_cosine": 1.0}, 1.0, 0.7),
        ]
        for given, cosine, error in cases:
            found = parts._gate_of_int8(own.model_copy(update=given))
            assert (found.min_cosine, found.max_relative_error) == pytest.approx((cosine, error))

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_one_wrong_word_is_named_and_no_other(
        self, subject: Subject, reference: SweepReference, precision: str
    ) -> None:
        word = unused_words(subject.checkpoint)[-1]
        (failure,) = swept(subject, reference, one_word_is(word, 1.0), precision).failures
        token = subject.checkpoint.tokenizer.id_to_token(word)
        assert failure.startswith(f"word row {word} ({token!r}): relative error ")

    def test_a_row_that_is_no_number_fails(self, subject: Subject, reference: SweepReference) -> None:
        word = unused_words(subject.checkpoint)[0]
        check = swept(subject, reference, one_word_is(word, np.nan), "fp32")
        assert check.failures[0].endswith(": NaN or Inf")
        assert check.failures[0].startswith(f"word row {word} (")
        assert check.figures["max_relative_error"] is None


class TestTheEngineAndItself:
    def test_no_number_in_a_batch(self, reference: SweepReference, encoder: Encoder) -> None:
        def change(ids: IntArray, _mask: IntArray, vectors: Vectors) -> Vectors:
            if len(ids) == 64:
                vectors[37, 0] = np.nan
            return vectors

        check = sweep(reference, Altered(encoder, change), SHAPES, GATES.int8)
        assert check.failures == ("row 37 of a batch of 64 is NaN or Inf",)
        assert check.figures["max_batch_deviation"] is None

    def test_no_number_at_a_width(self, reference: SweepReference, encoder: Encoder) -> None:
        def change(ids: IntArray, mask: IntArray, vectors: Vectors) -> Vectors:
            return vectors * np.float32(np.nan if ids.shape[1] == 77 and not mask[0, -1] else 1)

        check = sweep(reference, Altered(encoder, change), SHAPES, GATES.int8)
        assert check.failures == ("padded on the right to width 77 the vector is NaN or Inf",)
        assert check.figures["max_width_deviation"] is None

    @pytest.mark.parametrize("size", [2, 32, 64])
    def test_the_last_row_of_every_batch_is_looked_at(
        self, reference: SweepReference, encoder: Encoder, size: int
    ) -> None:
        def change(ids: IntArray, _mask: IntArray, vectors: Vectors) -> Vectors:
            if len(ids) == size and ids.shape[1] < 16:
                vectors[-1] *= 1.1
            return vectors

        check = sweep(reference, Altered(encoder, change), SHAPES, GATES.fp16)
        assert check.failures == (
            f"row {size - 1} of a batch of {size} differs from itself alone by 0.1, allowed 0.01",
        )

    def test_long_rows_in_one_batch(self, reference: SweepReference, encoder: Encoder) -> None:
        def change(ids: IntArray, _mask: IntArray, vectors: Vectors) -> Vectors:
            if ids.shape == (2, 256):
                vectors[1] *= 1.005
            return vectors

        check = sweep(reference, Altered(encoder, change), SHAPES, bounded(GATES.fp16, 1e-3))
        assert check.failures == (
            "row 1 of a batch of 2 with 256 tokens each differs from itself alone by 0.005, allowed 0.001",
        )

    def test_a_gate_without_a_bound_on_the_batch_deviation_judges_none(
        self, reference: SweepReference, encoder: Encoder
    ) -> None:
        def change(ids: IntArray, mask: IntArray, vectors: Vectors) -> Vectors:
            return vectors * np.float32(1 + 0.1 * (ids.shape[1] == 100 and not mask[0, -1]))

        candidate = Altered(encoder, change)
        assert sweep(reference, candidate, SHAPES, bounded(GATES.int8, None)).passed
        assert sweep(reference, candidate, SHAPES, bounded(GATES.int8, 0.2)).passed
        (failure,) = sweep(reference, candidate, SHAPES, bounded(GATES.int8, 0.05)).failures
        assert failure == (
            "padded on the right to width 100 the vector differs from its own without padding by 0.1, allowed 0.05"
        )

    def test_many_failures_become_a_few_sentences_and_a_number(
        self, reference: SweepReference, encoder: Encoder
    ) -> None:
        def change(ids: IntArray, mask: IntArray, vectors: Vectors) -> Vectors:
            return vectors * np.float32(1 + 0.1 * (ids.shape[1] > 100 and not mask.all() and mask[0, :3].all()))

        failures = sweep(reference, Altered(encoder, change), SHAPES, GATES.fp16).failures
        assert len(failures) == 4
        assert failures[3] == "156 padded widths change the vector"

    def test_engines_with_scales_from_each_batch_are_judged_by_the_batch_deviation(
        self, reference: SweepReference, encoder: Encoder
    ) -> None:
        def change(ids: IntArray, mask: IntArray, vectors: Vectors) -> Vectors:
            return vectors * np.float32(1 + 0.02 * (mask.shape == (1, 256) and ids[0, -1] != 0 and not mask[0, -1]))

        candidate, dynamic = Altered(encoder, change), Precision.INT8_DYNAMIC
        assert not sweep(reference, candidate, SHAPES, GATES.int8).passed
        assert sweep(reference, candidate, SHAPES, bounded(GATES.int8, 0.1), precision=dynamic).passed
        assert not sweep(reference, candidate, SHAPES, bounded(GATES.int8, 0.01), precision=dynamic).passed

    def test_an_engine_that_takes_lengths_sees_padding_on_the_right_only(
        self, reference: SweepReference, encoder: Encoder
    ) -> None:
        candidate = Altered(encoder)
        sweep(reference, candidate, SHAPES, GATES.fp32)
        assert any((np.diff(mask, axis=1) > 0).any() for mask in candidate.masks)
        candidate = Altered(encoder)
        check = sweep(reference, candidate, SHAPES, GATES.fp32, right_padding_only=True)
        assert not any((np.diff(mask, axis=1) > 0).any() for mask in candidate.masks)
        assert "256 of 256 positions" in check.coverage


class TestTheReference:
    def test_what_pytorch_has_answered_it_is_not_asked_again(
        self, subject: Subject, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[int, ...]] = []
        encode = Checkpoint.encode_tokens

        def counted(self: Checkpoint, ids: IntArray, mask: IntArray) -> Vectors:
            asked.append(ids.shape)
            return encode(self, ids, mask)

        monkeypatch.setattr(Checkpoint, "encode_tokens", counted)
        reference = SweepReference(subject.checkpoint)
        first = sweep(reference, encoder, SHAPES, GATES.fp16)
        assert asked
        assert max(rows * width for rows, width in asked) <= TOKEN_BUDGET
        asked.clear()
        assert sweep(reference, encoder, SHAPES, GATES.fp16) == first
        assert asked == []

    @pytest.mark.parametrize("name", ["demo", "klue-sroberta (small twin)", "moco-distilbert (small twin)"])
    def test_token_ids_give_the_vectors_of_their_sentences(self, name: str) -> None:
        checkpoint = subject_named(name).checkpoint
        sentences = ["비가 오면 창가에 앉아 책을 읽는다.", "짧다", ""]
        reference = SweepReference(checkpoint)
        padded = reference.tokenizer.pad(reference.tokenizer.ids(sentences), 40)
        np.testing.assert_allclose(
            checkpoint.encode_tokens(*padded), checkpoint.encode(sentences), rtol=1e-4, atol=1e-5
        )


@pytest.fixture(scope="module", params=["bert", "roberta"])
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model whose tokenizer pads on the left: BERT then counts positions from the padding, RoBERTa does not."""
    folder = save_checkpoint(tmp_path_factory.mktemp("left"), request.param)
    (path,) = folder.rglob("tokenizer_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": "left"}))
    checkpoint = load_checkpoint(find_recipe(str(folder)))
    return Subject(request.param, checkpoint, reference_on(checkpoint, 100), fold(checkpoint))


class TestLeftPadding:
    def test_a_sound_export_passes(self, left: Subject) -> None:
        check = swept(left, SweepReference(left.checkpoint), nothing, "fp32")
        assert check.failures == ()
        assert check.figures["padding"] == "left"
        assert check.coverage.endswith("words in place of padding not compared: the tokenizer pads on the left")

    def test_a_wrong_width_is_caught(self, left: Subject) -> None:
        (failure,) = swept(left, SweepReference(left.checkpoint), negated_at_one_width, "fp32").failures
        assert failure.startswith("padded on the left to width 43 the vector differs from PyTorch's by 2, allowed")


def test_a_gate_without_a_bound_on_the_error_judges_the_cosine(reference: SweepReference, encoder: Encoder) -> None:
    gate = Gate(min_cosine=0.97)
    word = 1234

    def turned(ids: IntArray, _mask: IntArray, vectors: Vectors) -> Vectors:
        rows = (ids == word).any(axis=1)
        vectors[rows] = -vectors[rows]
        return vectors

    failures = sweep(reference, Altered(encoder, turned), SHAPES, gate).failures
    assert re.match(r"word row 1234 \(.*\): cosine -1, at least 0.97 is wanted", failures[0])
