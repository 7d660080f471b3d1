"""The reference that judges: which texts are encoded, task sets included, and what a report keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from exporter.recipe import Gate
from exporter.runtime.tokens import TextTokenizer
from exporter.validator import Reference, validate
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare
from exporter.validator.probes import probes_for, shipped_probes
from exporter.validator.reference import reference_of

PAIRS = [("물이 차다", "물이 차갑다", 4.5), ("산이 높다", "밥이 달다", 0.5), ("길이 멀다", "길이 길다", 3.0)]
GATE = Gate(min_cosine=0.999, max_spearman_drop=1.0)


def vectors_of(sentences: Sequence[str]) -> np.ndarray:
    """Return a vector of its own for every text."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in sentences]
    return np.stack([np.random.default_rng(seed).standard_normal(12) for seed in seeds]).astype(np.float32)


class Model:
    """What a checkpoint is to the reference."""

    facts = SimpleNamespace(max_seq_length=16, prompt="글: ")

    def __init__(self) -> None:
        words = sorted({word for probe in shipped_probes() for word in probe.text.split()})
        self.tokenizer = Tokenizer(
            models.WordLevel({word: number for number, word in enumerate(["?", "글:", *words])}, unk_token="?")
        )
        self.tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer.enable_truncation(self.facts.max_seq_length)

    def encode(self, sentences: list[str]) -> np.ndarray:
        assert isinstance(sentences, list)
        return vectors_of(sentences)


class Answers:
    """A candidate that answers as the model does, and wrongly where it is told to."""

    execution = "by heart"

    def __init__(self, wrong: Sequence[str] = ()) -> None:
        self.wrong = set(wrong)

    def encode(self, sentences: Sequence[str], /) -> np.ndarray:
        vectors = vectors_of(sentences)
        for row, text in enumerate(sentences):
            if text in self.wrong:
                vectors[row] *= -1
        return vectors

    encode_batch = encode


@pytest.fixture(scope="module")
def model() -> Any:
    return Model()


@pytest.fixture
def sts(tmp_path: Path) -> Path:
    path = tmp_path / "set.csv"
    path.write_text("".join(f"{first},{second},{score}\n" for first, second, score in PAIRS), encoding="utf-8")
    return path


def test_it_holds_the_probes_their_vectors_and_their_tokens_with_the_prompt(model: Any) -> None:
    found = reference_of(model)
    assert found.probes == tuple(probes_for(model.tokenizer, 16, "글: "))
    assert found.texts == [probe.text for probe in found.probes]
    np.testing.assert_array_equal(found.vectors, vectors_of(found.texts))
    assert found.token_ids == TextTokenizer(model.tokenizer).ids([f"글: {text}" for text in found.texts])
    assert max(map(len, found.token_ids)) == 16
    assert (found.sts, dict(found.format_losses)) == ((), {})
    assert found.content_hash() == hashlib.sha256("\n".join(found.texts).encode()).hexdigest()


def test_both_sentences_of_every_pair_are_encoded(model: Any, sts: Path) -> None:
    ((found, first, second),) = reference_of(model, [sts]).sts
    assert found.name == "set.csv"
    np.testing.assert_array_equal(first, vectors_of([pair[0] for pair in PAIRS]))
    np.testing.assert_array_equal(second, vectors_of([pair[1] for pair in PAIRS]))


def test_what_the_precision_itself_loses_is_kept_under_its_name(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def format_loss_of(
        checkpoint: object, precision: str, texts: Sequence[str], vectors: np.ndarray, ids: list[list[int]]
    ) -> FormatLoss | None:
        asked.append((checkpoint, precision, list(texts), len(vectors), ids))
        return FormatLoss("by heart", compare(vectors, vectors, ids)) if precision == "bf16" else None

    monkeypatch.setattr(import_module("exporter.validator.reference"), "format_loss_of", format_loss_of)
    plain, typed = reference_of(model), reference_of(model, precisions=("fp32", "bf16"))
    assert dict(plain.format_losses) == {}
    assert [*typed.format_losses] == ["bf16"]
    expected = [(model, name, plain.texts, len(plain.texts), plain.token_ids) for name in ("fp32", "fp32", "bf16")]
    assert asked == expected


class TestReports:
    @pytest.fixture
    def reference(self, model: Any, sts: Path) -> Reference:
        return reference_of(model, [sts])

    def test_of_a_sound_candidate(self, reference: Reference) -> None:
        report = validate(reference, Answers(), GATE, "demo fp32 on onnxruntime")
        assert report.passed, report.failure()
        assert (report.subject, report.execution, report.cause) == ("demo fp32 on onnxruntime", "by heart", None)
        assert report.probes == reference.probes
        assert report.probes_sha256 == reference.content_hash()
        assert report.tokens == tuple(len(row) for row in reference.token_ids)
        assert report.parity.cosine.shape == (len(reference.probes),)
        assert (report.batch_deviation, report.format_loss, report.emulator_error) == (0, None, None)
        (score,) = report.sts
        assert (score.name, score.pairs, score.spearman_drop) == ("set.csv", 3, 0)

    def test_of_one_that_is_wrong_on_a_probe(self, reference: Reference) -> None:
        report = validate(reference, Answers([reference.texts[3]]), GATE, "x")
        assert not report.passed
        assert report.worst == 3
        assert report.cause

    def test_of_one_that_is_wrong_on_a_task_alone(self, reference: Reference) -> None:
        report = validate(reference, Answers([first for first, *_ in PAIRS]), GATE, "x")
        assert [verdict.name for verdict in report.verdicts if not verdict.passed] == ["Spearman drop on set.csv"]
        assert report.sts[0].candidate_spearman == pytest.approx(-report.sts[0].reference_spearman)

    def test_of_one_that_is_no_number_in_a_batch(self, reference: Reference) -> None:
        class Broken(Answers):
            def encode_batch(self, sentences: Sequence[str], /) -> np.ndarray:
                return self.encode(sentences) * (np.nan if len(sentences) > 1 else 1)

        report = validate(reference, Broken(), GATE.model_copy(update={"max_batch_deviation": 0.1}), "x")
        assert np.isnan(report.batch_deviation)
        assert [verdict.name for verdict in report.verdicts if not verdict.passed] == ["batch deviation"]
