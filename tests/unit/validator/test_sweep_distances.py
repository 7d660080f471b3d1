"""Rows of a sweep that miss a bound, against what the number format itself loses on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from exporter.checkpoint import load_checkpoint
from exporter.recipe import Gate, find_recipe
from exporter.targets import Precision
from exporter.validator.sweeps import SweepReference, Vectors
from exporter.validator.sweeps.distances import Distances, failed_rows
from tests.support.checkpoints import save_checkpoint

ROWS = 40
WANTED = np.random.default_rng(0).standard_normal((ROWS, 16)).astype(np.float32)
GATE = Gate(min_cosine=0.5, max_relative_error=0.1, max_format_ratio=3.0, max_widening=2.0)


@dataclass
class Own:
    """The format's own vectors: longer than PyTorch's by a share, on every row."""

    share: float
    asked: list[list[int]] = field(default_factory=list)

    def vectors(self, rows: Sequence[int]) -> Vectors | None:
        self.asked.append(list(rows))
        return None if np.isinf(self.share) else WANTED[rows] * np.float32(1 + self.share)


def failed(errors: dict[int, float], own: Own, gate: Gate = GATE) -> list[tuple[int, str]]:
    found = WANTED.copy()
    for row, error in errors.items():
        found[row] *= np.float32(1 + error)
    return failed_rows(WANTED, Distances.between(WANTED, found, None), None, gate, own.vectors)


def test_nobody_asks_where_all_bounds_hold() -> None:
    own = Own(1.0)
    assert failed({3: 0.09}, own) == []
    assert own.asked == []


def test_the_bound_is_so_many_times_what_the_format_loses() -> None:
    own = Own(0.05)
    assert failed({3: 0.14}, own) == []
    assert failed({3: 0.16, 4: 0.14, 5: 0.17}, own) == [
        (5, "relative error 0.17, allowed 0.15"),
        (3, "relative error 0.16, allowed 0.15"),
    ]
    assert own.asked == [[3], [5, 3, 4]]


def test_the_bound_is_widened_to_its_limit_at_most() -> None:
    assert failed({3: 0.19}, Own(1.0)) == []
    assert failed({3: 0.21}, Own(1.0)) == [(3, "relative error 0.21, allowed 0.2")]


@pytest.mark.parametrize("share", [0.0, 0.03, np.nan, np.inf], ids=str)
def test_a_format_that_loses_less_or_that_is_unknown_widens_nothing(share: float) -> None:
    assert failed({3: 0.11}, Own(share)) == [(3, "relative error 0.11, allowed 0.1")]


def test_rows_that_are_not_finite_fail_whatever_the_format_loses() -> None:
    assert failed({3: np.inf}, Own(1.0)) == [(3, "NaN or Inf")]


def test_nobody_asks_where_very_many_rows_fail_or_the_gate_widens_nothing() -> None:
    own = Own(1.0)
    assert len(failed(dict.fromkeys(range(17), 0.15), own)) == 17
    assert own.asked == []
    assert failed(dict.fromkeys(range(16), 0.15), own) == []
    own.asked.clear()
    assert len(failed({3: 0.15}, own, GATE.model_copy(update={"max_widening": 1.0}))) == 1
    assert own.asked == []


def test_cosines_are_widened_by_the_square_of_the_ratio() -> None:
    gate = Gate(min_cosine=0.9, min_centered_cosine=0.8, max_format_ratio=3.0, max_widening=2.0)
    lost = Distances(np.array([0.1, 0.1]), np.array([0.985, 0.9]), np.array([0.97, 0.7]))
    wider = lost.widened(0, gate)
    assert (wider.min_cosine, wider.min_centered_cosine) == pytest.approx((0.865, 0.73))
    most = lost.widened(1, gate)
    assert (most.min_cosine, most.min_centered_cosine) == pytest.approx((0.8, 0.6))
    assert Distances(lost.error, lost.cosine, None).widened(1, gate).min_centered_cosine == 0.8


def test_pytorch_in_the_format_of_a_precision(tmp_path: Path) -> None:
    reference = SweepReference(load_checkpoint(find_recipe(str(save_checkpoint(tmp_path, "bert")))))
    ids = np.array([reference.material.short[0]])
    mask = np.ones_like(ids)
    wanted = reference.encode_padded(ids, mask).astype(np.float64)

    def loss(precision: Precision) -> float:
        own = reference.in_format_of(precision)
        assert own is not None
        return float(np.linalg.norm(own.encode_padded(ids, mask) - wanted) / np.linalg.norm(wanted))

    assert 0 < loss(Precision.FP32) < 1e-5
    assert 1e-4 < loss(Precision.BF16) < 0.1
    assert reference.in_format_of(Precision.FP16) is None
    assert reference.in_format_of(Precision.INT8) is None
    assert reference.checkpoint.model[0].auto_model.dtype.itemsize == 4
