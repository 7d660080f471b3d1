"""The table of seeded faults: what it says can be read back, and two runs agree where a machine's rounding allows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fault_table import Row, read_table, render, sizes, slip

ROW = Row(
    "demo", "GELU by its tanh form", "folding", "gate", slip(8.2e-4), slip(0.01), "n/a", *sizes(0.99999983, 6.8e-4)
)
UNTRIED = Row("twin", "ids rotated", "tokenizer", slip(0.0), slip(0.0), "weights", "", *sizes(1.0, 3e-7))


def test_what_is_written_can_be_read_back(tmp_path: Path) -> None:
    file = tmp_path / "FAULTS.md"
    file.write_text(render([ROW, UNTRIED], ["gate", "weights"]), encoding="utf-8")

    assert read_table(file) == [ROW, UNTRIED]


def test_what_slips_is_listed_with_its_size() -> None:
    text = render([ROW, UNTRIED], ["gate"])

    assert "- fp16, demo: GELU by its tanh form (8.2e-04)\n" in text
    assert "- fp32, twin: ids rotated (no probe moves)\n" in text
    assert "- fp32, demo" not in text


def test_bounds_stand_under_their_own_names() -> None:
    lines = render([ROW], ["gate"]).splitlines()
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "|" in line
    }

    header, mean, relative = rows["bound"], rows["mean_cosine"], rows["max_relative_error"]
    assert mean[header.index("int8")] == "0.99"
    assert mean[header.index("fp32")] == ""
    assert relative[header.index("fp16")] == "0.015"


@pytest.mark.parametrize(
    ("other", "agree"),
    [
        (replace(ROW, fp16=slip(1.1e-3)), True),
        (replace(ROW, fp16=slip(9e-3)), False),
        (replace(ROW, fp16=slip(0.0)), False),
        (replace(ROW, fp32="sweep"), True),
        (replace(ROW, fp32=slip(9e-3)), False),
        (replace(ROW, max_relative_error="7.0e-04"), True),
        (replace(ROW, max_relative_error="1.4e-03"), False),
        (replace(ROW, min_cosine="0.999998"), False),
    ],
)
def test_two_runs_agree_up_to_rounding(other: Row, agree: bool) -> None:
    assert ROW.agrees(other) is agree


def test_a_column_that_cannot_be_compared_is_left_out() -> None:
    other = replace(ROW, bf16="gate")

    assert not ROW.agrees(other)
    assert not other.agrees(ROW)
    assert ROW.agrees(other, ("fp32", "fp16", "int8"))
