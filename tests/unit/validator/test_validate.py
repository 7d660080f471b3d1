"""validate(): how a candidate is asked, by one that answers as the test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from exporter.recipe import Gate, Gates
from exporter.validator import Reference, validate
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare
from exporter.validator.probes import Probe

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
