from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporter.quantization.judge import Ledger, Loss, loss_between
from exporter.recipe import Gate

GATE = Gate(min_cosine=0.97, p01_cosine=0.98, mean_cosine=0.99)
LOSS = Loss(0.985, 0.99, 0.995, 1.0)


def test_a_strain_is_the_largest_share_of_what_a_gate_allows() -> None:
    assert LOSS.strain(GATE) == pytest.approx(0.5)
    assert Loss(0.985, 0.984, 0.995, 1.0).strain(GATE) == pytest.approx(0.8)
    assert Loss(0.95, 0.99, 0.995, 1.0).strain(GATE) > 1


def test_a_lost_neighbour_fails_whatever_the_cosines_are() -> None:
    assert Loss(1.0, 1.0, 1.0, 0.99).strain(GATE) >= 1


def test_nan_counts_as_opposite() -> None:
    vectors = np.eye(3, dtype=np.float32)
    broken = vectors.copy()
    broken[1, 1] = np.nan
    loss = loss_between(vectors, broken, [[1], [2], [3]])
    assert loss.min_cosine == -1
    assert loss.neighbor_identity < 1
    assert loss.strain(GATE) > 1


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
    path.write_text(path.read_text(encoding="utf-8")[:40], encoding="utf-8")
    half = Ledger(path, "one")
    assert half.resumed == 0
    assert half.damaged
