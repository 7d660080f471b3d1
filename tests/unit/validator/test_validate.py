"""validate(): how a candidate is asked, by one that answers as the test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from exporter.recipe import Gate, Gates
from exporter.validator import Reference, validate
from exporter.validator.format_loss import FormatLoss
from exporter.validator.gates import Verdict
from exporter.validator.parity import compare
from exporter.validator.probes import Probe
from exporter.validator.report import ParityReport

COUNT = 40
TEXTS = [f"문장 {number}" for number in range(COUNT)]
VECTORS = np.random.default_rng(0).standard_normal((COUNT, 16)).astype(np.float32)
IDS = [[number] * (2 + number) for number in range(COUNT)]
REFERENCE = Reference(tuple(Probe(text, "test") for text in TEXTS), VECTORS, IDS, ())


class Answers:
    """Gives the reference's vectors, and in a batch what ``changed`` makes of place and vector."""

    execution = "by heart"

    def __init__(self, changed: Callable[[int, np.ndarray], np.ndarray] = lambda _, vector: vector) -> None:
        self._changed = changed
        self.batches: list[list[str]] = []

    def encode(self, sentences: Sequence[str], /) -> np.ndarray:
        return np.stack([VECTORS[TEXTS.index(text)] for text in sentences])

    def encode_batch(self, sentences: Sequence[str], /) -> np.ndarray:
        self.batches.append(list(sentences))
        vectors = self.encode(sentences)
        if len(sentences) == 1:
            return vectors
        return np.stack([self._changed(place, vector) for place, vector in enumerate(vectors)])


def test_each_of_eight_sentences_stands_at_each_place_of_a_ragged_batch_once() -> None:
    candidate = Answers()
    assert validate(REFERENCE, candidate, Gates().fp32, "x").batch_deviation == 0
    ragged = [batch for batch in candidate.batches if len(batch) > 1]
    assert len(ragged) == 8
    assert {(place, text) for batch in ragged for place, text in enumerate(batch)} == {
        (place, text) for place in range(8) for text in ragged[0]
    }


@pytest.mark.parametrize("place", range(8))
def test_a_fault_at_one_place_for_one_length_is_seen(place: int) -> None:
    longest = VECTORS[int(0.9 * (COUNT - 1))]

    def changed(at: int, vector: np.ndarray) -> np.ndarray:
        return 2 * vector if at == place and np.array_equal(vector, longest) else vector

    report = validate(REFERENCE, Answers(changed), Gates().fp32, "x")
    assert report.batch_deviation == pytest.approx(1.0)
    assert not report.passed


def test_the_loss_of_the_precision_that_is_judged_is_used_and_no_other() -> None:
    lost = FormatLoss("PyTorch in bfloat16", compare(VECTORS, VECTORS, IDS), VECTORS)
    reference = Reference(REFERENCE.probes, VECTORS, IDS, (), {"bf16": lost})
    gate = Gate(min_cosine=0.999, max_mean_format_ratio=1.5, max_emulator_ratio=0.6)
    names = {verdict.name for verdict in validate(reference, Answers(), gate, "x", "bf16").verdicts}
    assert {"mean relative error against the format", "difference from the emulator"} <= names
    other = validate(reference, Answers(), gate, "x", "fp32")
    assert other.format_loss is None
    assert not {"mean relative error against the format", "difference from the emulator"} & {
        verdict.name for verdict in other.verdicts
    }


def test_rounding_is_emulated_where_the_difference_from_the_emulator_is_too_large_and_only_there() -> None:
    gate = Gate(min_cosine=0.9, max_relative_error=0.3, max_emulator_ratio=0.6, max_rounding_ratio=1.25)
    asked = []

    def again() -> np.ndarray:
        asked.append(1)
        return 1.01 * 0.99 * VECTORS

    lost = FormatLoss("the emulator", compare(VECTORS, 0.99 * VECTORS, IDS), 0.99 * VECTORS, again)
    reference = Reference(REFERENCE.probes, VECTORS, IDS, (), {"int8": lost})

    class Scaled(Answers):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self._factor = factor

        def encode(self, sentences: Sequence[str], /) -> np.ndarray:
            return self._factor * super().encode(sentences)

    def report_on(factor: float) -> ParityReport:
        return validate(reference, Scaled(factor), gate, "x", "int8")

    near = report_on(0.995)
    assert (near.passed, near.emulator_rounding, asked) == (True, None, [])
    rounded = report_on(1.0)
    assert (rounded.passed, len(asked)) == (True, 1)
    assert rounded.emulator_rounding == pytest.approx(0.01, rel=1e-3)
    assert rounded.statistics["emulator_rounding"] == rounded.emulator_rounding
    assert not report_on(1.01).passed


def test_verdicts_and_cause_are_about_the_candidate_and_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are told everything that was measured, and the loss of the very precision that is judged."""
    module = import_module("exporter.validator.validate")
    losses = {
        name: FormatLoss(f"PyTorch in {name}", compare(VECTORS, VECTORS, IDS), VECTORS) for name in ("bf16", "int8")
    }
    reference = Reference(REFERENCE.probes, VECTORS, IDS, (), losses)
    verdicts = (Verdict("by heart", 0.0, 1.0, ">="),)
    calls: list[tuple[Any, ...]] = []

    def judge(*given: Any) -> tuple[Verdict, ...]:
        calls.append(given)
        return verdicts

    def likely_cause(*given: Any) -> str:
        calls.append(given)
        return "a guess"

    monkeypatch.setattr(module, "judge", judge)
    monkeypatch.setattr(module, "likely_cause", likely_cause)
    gate = Gates().int8
    report = validate(reference, Answers(), gate, "the demo in int8", "int8")
    lengths = tuple(range(2, 2 + COUNT))
    assert calls == [
        (report.parity, 0.0, (), gate, losses["int8"], 0.0, None),
        (report.parity, reference.probes, lengths, 0.0, gate, "int8", losses["int8"], None),
    ]
    assert (report.subject, report.execution, report.cause) == ("the demo in int8", "by heart", "a guess")
    assert (report.probes, report.probes_sha256, report.tokens) == (
        reference.probes,
        reference.content_hash(),
        lengths,
    )
    assert (report.batch_deviation, report.sts, report.verdicts) == (0.0, (), verdicts)
    assert (report.format_loss, report.emulator_error) == (losses["int8"], 0.0)


def test_what_could_not_be_compared_is_among_the_checks() -> None:
    unknown = FormatLoss("PyTorch in float16", compare(VECTORS, np.full_like(VECTORS, np.nan), IDS))
    reference = Reference(REFERENCE.probes, VECTORS, IDS, (), {"fp16": unknown})
    (check,) = validate(reference, Answers(), Gates().fp16, "x", "fp16").checks
    assert (check.name, check.coverage[:12]) == ("format", "not compared")
    assert validate(reference, Answers(), Gates().fp32, "x").checks == ()


def test_a_precision_that_is_not_named_is_fp32() -> None:
    losses = {name: FormatLoss(name, compare(VECTORS, VECTORS, IDS)) for name in ("fp32", "bf16")}
    report = validate(Reference(REFERENCE.probes, VECTORS, IDS, (), losses), Answers(), Gates().fp32, "x")
    assert report.format_loss is losses["fp32"]


class TestRounding:
    """A probe that misses a bound of float32 is compared with what float32 itself loses on it."""

    def judged(
        self, error: float, own: float, rows: Sequence[int] = (7,), precision: str = "fp32", gate: Gate | None = None
    ) -> tuple[bool, list[list[int]]]:
        asked = []

        def rounding(beyond: Sequence[int]) -> FormatLoss:
            asked.append(list(beyond))
            exact = np.full_like(VECTORS, np.nan)
            exact[beyond] = VECTORS[beyond] * np.float32(1 + own)
            return FormatLoss("PyTorch in float32", compare(VECTORS, exact, IDS))

        class Off(Answers):
            def encode(self, sentences: Sequence[str], /) -> np.ndarray:
                found = super().encode(sentences)
                if len(sentences) == COUNT:
                    found[list(rows)] *= np.float32(1 + error)
                return found

        bounds = gate or Gates().fp32.model_copy(update={"max_norm_error": None, "max_norm_bias": None})
        report = validate(replace(REFERENCE, rounding=rounding), Off(), bounds, "x", precision)
        return report.passed, asked

    def test_its_bound_is_three_times_that(self) -> None:
        assert self.judged(2.5e-5, own=1e-5) == (True, [[7]])
        assert self.judged(3.5e-5, own=1e-5) == (False, [[7]])

    def test_but_twice_the_fixed_one_at_most(self) -> None:
        assert self.judged(3.8e-5, own=1e-3) == (True, [[7]])
        assert self.judged(4.2e-5, own=1e-3) == (False, [[7]])

    def test_nobody_asks_where_every_bound_is_held_or_very_many_are_missed(self) -> None:
        assert self.judged(1e-5, own=1e-3) == (True, [])
        assert self.judged(2.2e-5, own=1e-3, rows=range(16))[1] == [list(range(16))]
        assert self.judged(2.2e-5, own=1e-3, rows=range(17)) == (False, [])

    def test_the_bound_of_the_mean_is_three_times_what_all_probes_lose(self) -> None:
        everything = list(range(COUNT))
        assert self.judged(1.2e-5, own=5e-6, rows=everything) == (True, [everything])
        assert self.judged(1.6e-5, own=5e-6, rows=everything) == (False, [everything])
        assert self.judged(1.2e-5, own=3e-6, rows=everything) == (False, [everything])

    def test_the_bound_of_the_mean_is_twice_the_fixed_one_at_most(self) -> None:
        everything = list(range(COUNT))
        assert self.judged(1.9e-5, own=1e-3, rows=everything) == (True, [everything])
        assert self.judged(2.1e-5, own=1e-3, rows=everything) == (False, [])
        strict = Gates().fp32.model_copy(update={"max_mean_widening": 1.0})
        assert self.judged(1.2e-5, own=1e-3, rows=everything, gate=strict) == (False, [])

    def test_nobody_asks_for_another_precision_or_by_a_gate_that_does_not_say_how_much(self) -> None:
        assert self.judged(3e-5, own=1e-3, precision="bf16") == (False, [])
        strict = Gates().fp32.model_copy(update={"max_format_ratio": None})
        assert self.judged(3e-5, own=1e-3, gate=strict) == (False, [])


def test_sentences_of_one_length_share_the_batch_in_their_order() -> None:
    candidate = Answers()
    reference = Reference(REFERENCE.probes, VECTORS, [[number] for number in range(COUNT)], ())
    validate(reference, candidate, Gates().fp32, "x")
    assert [batch for batch in candidate.batches if len(batch) == 1] == [
        [TEXTS[place]] for place in (0, 5, 10, 15, 20, 25, 30, 35)
    ]
