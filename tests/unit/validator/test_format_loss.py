"""What a number format loses by itself, by PyTorch, on the demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.recipe import find_recipe
from exporter.runtime.tokens import TextTokenizer
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare
from exporter.validator.reference import SAMPLED, format_loss_of, rounding_loss_of
from tests.support.checkpoints import ARCHITECTURES, save_checkpoint

TEXTS = [f"{number}번 버스는 {number * 7}분 뒤에 옵니다." for number in range(2 * SAMPLED + 3)]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(find_recipe("demo"))


def loss_of(checkpoint: Checkpoint, precision: str) -> FormatLoss | None:
    token_ids = TextTokenizer(checkpoint.tokenizer).ids(TEXTS)
    return format_loss_of(checkpoint, precision, TEXTS, checkpoint.encode(TEXTS), token_ids)


def test_bfloat16_is_known_of_every_probe_and_loses_more_than_float16(checkpoint: Checkpoint) -> None:
    half, brain = loss_of(checkpoint, "fp16"), loss_of(checkpoint, "bf16")
    assert half is not None
    assert brain is not None
    assert (half.source, brain.source) == ("PyTorch in float16", "PyTorch in bfloat16")
    assert brain.rows.all()
    assert np.flatnonzero(half.rows).tolist() == [0, SAMPLED, 2 * SAMPLED]
    assert 1e-4 < half.mean_relative_error < 0.25 * brain.mean_relative_error < 0.02
    assert half.max_relative_error >= half.mean_relative_error
    assert half.to_dict()["probes"] == 3


def test_the_reference_stays_float32(checkpoint: Checkpoint) -> None:
    loss_of(checkpoint, "bf16")
    assert {parameter.dtype for parameter in checkpoint.model.parameters()} == {torch.float32}


def test_other_precisions_are_not_pytorch_s(checkpoint: Checkpoint) -> None:
    assert loss_of(checkpoint, "fp32") is None
    assert loss_of(checkpoint, "int8") is None


def test_float32_is_compared_with_float64_on_the_probes_that_are_asked_for(checkpoint: Checkpoint) -> None:
    token_ids = TextTokenizer(checkpoint.tokenizer).ids(TEXTS)
    loss = rounding_loss_of(checkpoint, TEXTS, checkpoint.encode(TEXTS), token_ids, [3, 30])
    assert loss.source == "PyTorch in float32"
    assert np.flatnonzero(loss.rows).tolist() == [3, 30]
    assert (loss.parity.relative_error[[3, 30]] > 1e-8).all()
    assert loss.max_relative_error < 5e-6
    assert {parameter.dtype for parameter in checkpoint.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("architecture", [name for name in ("gemma3_text", "mpnet", "t5") if name in ARCHITECTURES])
def test_float64_runs_through_code_that_casts_inside(architecture: str, tmp_path: Path) -> None:
    loaded = load_checkpoint(find_recipe(str(save_checkpoint(tmp_path, architecture))))
    ids = TextTokenizer(loaded.tokenizer).ids(TEXTS[:2])
    loss = rounding_loss_of(loaded, TEXTS[:2], loaded.encode(TEXTS[:2]), ids, [1])
    assert 0 < loss.max_relative_error < 5e-6


def test_what_is_not_finite_is_not_known() -> None:
    reference = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    vectors = 1.5 * reference
    vectors[1] = np.nan
    vectors[3, 2] = np.inf
    loss = FormatLoss("PyTorch", compare(reference, vectors, [[row] for row in range(5)]))
    assert loss.rows.tolist() == [True, False, True, False, True]
    assert loss.mean_relative_error == pytest.approx(0.5)
    assert loss.max_relative_error == pytest.approx(0.5)
    nothing = FormatLoss("PyTorch", compare(reference, np.full((5, 8), np.nan), [[row] for row in range(5)]))
    assert np.isnan(nothing.mean_relative_error)
    assert nothing.to_dict()["mean_relative_error"] is None
    assert nothing.to_dict()["probes"] == 0


def test_the_difference_from_the_emulator_is_relative_and_a_mean() -> None:
    reference = np.array([[2.0, 0.0], [0.0, 4.0]], np.float32)
    parity = compare(reference, reference, [[0], [1]])
    assert FormatLoss("PyTorch", parity).emulator_error(reference) is None
    emulated = FormatLoss("the emulator", parity, reference)
    assert emulated.emulator_error(reference) == 0
    assert emulated.emulator_error(np.array([[2.0, 1.0], [0.0, 4.0]], np.float32)) == pytest.approx(0.25)
    of_nan = emulated.emulator_error(np.array([[2.0, np.nan], [0.0, 4.0]], np.float32))
    assert of_nan is not None
    assert np.isnan(of_nan)
