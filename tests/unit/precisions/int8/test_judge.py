from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporter.precisions.int8.judge import Ledger, Loss, loss_between
from exporter.recipe import Gate

GATE = Gate(
    min_cosine=0.97,
    p01_cosine=0.98,
    mean_cosine=0.99,
    mean_neighbor_overlap=0.8,
    max_relative_error=0.2,
    max_norm_error=0.1,
)
LOSS = Loss(0.985, 0.99, 0.995, 1.0, 0.0, 0.0)
NOTHING = Loss(1.0, 1.0, 1.0, 1.0, 0.0, 0.0)


def test_the_budget_used_is_the_largest_share_of_what_a_gate_allows() -> None:
    assert LOSS.budget_used(GATE) == pytest.approx(0.5)
    assert replace(LOSS, p01_cosine=0.984).budget_used(GATE) == pytest.approx(0.8)
    assert replace(LOSS, min_cosine=0.95).budget_used(GATE) > 1


@pytest.mark.parametrize(
    ("loss", "share"),
    [
        (replace(NOTHING, neighbor_overlap=0.9), 0.25),
        (replace(NOTHING, neighbor_overlap=0.78), 1.21),
        (replace(NOTHING, max_relative_error=0.1), 0.25),
        (replace(NOTHING, max_norm_error=0.05), 0.25),
        (replace(NOTHING, max_norm_error=0.11), 1.21),
    ],
)
def test_every_bound_of_the_gate_has_a_share_of_squared_distances(loss: Loss, share: float) -> None:
    assert loss.budget_used(GATE) == pytest.approx(share)
    assert loss.budget_used(Gate(min_cosine=0.9)) == 0  # a gate that does not bound it


def test_a_neighbor_is_not_all_or_nothing() -> None:
    """One neighbor more or less is luck: it may not decide between two assignments of nearly the same loss."""
    one_lost = replace(LOSS, neighbor_overlap=0.999)
    assert one_lost.budget_used(GATE) == LOSS.budget_used(GATE)


def test_what_passes_leaves_a_fifth_of_what_the_gate_allows() -> None:
    assert replace(NOTHING, min_cosine=1 - 0.79 * 0.03).passes(GATE)
    assert not replace(NOTHING, min_cosine=1 - 0.81 * 0.03).passes(GATE)


def test_what_is_not_finite_counts_as_opposite() -> None:
    vectors = np.eye(3, dtype=np.float32)
    broken = vectors.copy()
    broken[1, 1] = np.nan
    loss = loss_between(vectors, broken, [[1], [2], [3]])
    assert loss.min_cosine == -1
    assert loss.max_relative_error == loss.max_norm_error == 2
    assert loss.neighbor_overlap < 1
    assert loss.budget_used(GATE) > 1


def test_a_loss_is_measured_between_two_sets_of_vectors() -> None:
    reference = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    ids = [[row] for row in range(30)]
    assert loss_between(reference, reference, ids).budget_used(GATE) == pytest.approx(0, abs=1e-9)
    loss = loss_between(reference, 1.05 * reference, ids)
    assert loss.min_cosine == pytest.approx(1)
    assert loss.max_relative_error == pytest.approx(0.05)
    assert loss.max_norm_error == pytest.approx(0.05)


def test_a_ledger_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    Ledger(path, "same").put("a", LOSS)
    again = Ledger(path, "same")
    assert again.resumed == 1
    assert again.get("a") == LOSS
    assert again.get("b") is None


def test_a_ledger_of_other_inputs_or_half_written_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    Ledger(path, "one").put("a", LOSS)
    other = Ledger(path, "other")
    assert other.get("a") is None
    assert not other.damaged
    assert not path.exists()  # Ctrl-C would say that it can be resumed
    Ledger(path, "one").put("a", LOSS)
    path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")
    half = Ledger(path, "one")
    assert half.resumed == 0
    assert half.damaged
