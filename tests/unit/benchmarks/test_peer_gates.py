"""The benchmark of other tools' gates: what it counts, and that a judge which breaks down has not passed anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("polygraphy", reason="one of the judges")

from benchmarks.peer_gates import CAUGHT, MISSED, Line, fails, sections, totals

JUDGES = ("strict", "blind")
LINES = [
    Line("demo", "fp32", None, {"strict": MISSED, "blind": MISSED}),
    Line("demo", "fp32", "mask inverted", {"strict": CAUGHT, "blind": MISSED}),
    Line("demo", "fp32", "rows permuted", {"strict": CAUGHT, "blind": CAUGHT}),
    Line("demo", "fp16", None, {"strict": CAUGHT, "blind": MISSED}),
    Line("demo", "fp16", "mask inverted", {"strict": CAUGHT, "blind": MISSED}),
]


def test_faults_and_false_alarms_are_counted_apart() -> None:
    table = totals(LINES, JUDGES)

    assert "| strict | 2 of 2 | 1 of 1, **false alarm** |" in table
    assert "| blind | 1 of 2 | 0 of 1 |" in table


def test_every_candidate_has_its_row() -> None:
    text = "\n".join(sections(LINES, {"polygraphy": "0.53.6"}))

    assert "## demo, fp16" in text
    assert "| mask inverted | caught | missed |" in text
    assert "| none: the sound export | passes | passes |" in text
    assert "| none: the sound export | **false alarm** | passes |" in text
    assert "Judges: polygraphy 0.53.6." in text


def test_a_judge_that_cannot_run_a_candidate_has_not_passed_it() -> None:
    class Broken:
        name = "broken"
        reads_text = False

        def catches(self, candidate: Any, model: Path) -> bool:  # noqa: ARG002
            raise RuntimeError("no such operator")

    assert fails(Broken(), None, Path("candidate.onnx"))  # type: ignore[arg-type]
