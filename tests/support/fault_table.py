"""The table of faults and verdicts: one row per model and fault, written to ``tests/FAULTS.md`` and read from it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path

from exporter.recipe import Gate, Gates
from exporter.validator.gates import significant

FILE = Path(__file__).parents[1] / "FAULTS.md"
WRITE = "KORSBERT_WRITE_FAULTS"
PROPERTY = "seeded fault"  # under which a test hands its row to the process that prints the table

SOUND = "none: the sound export"
CAUGHT, REFUSED, SLIPS, PASSES = "caught", "refused", "**slips through**", "passes"


@dataclass(frozen=True)
class Row:
    """What became of one fault in one model, as text: rows travel between test processes.

    Attributes:
        model: The subject.
        fault: The fault's name.
        fp32: What the fp32 gate said to it: caught, refused, slips through, or n/a and why.
        fp16: What the fp16 gate said to the fault in the float16 graph.
        min_cosine: Smallest cosine of the faulty float32 graph.
        max_relative_error: Its largest relative error.
    """

    model: str
    fault: str
    fp32: str
    fp16: str
    min_cosine: str
    max_relative_error: str

    @classmethod
    def of(cls, model: str, fault: str, fp32: str, fp16: str, sizes: tuple[float, float] | None) -> Row:
        """Make a row; ``sizes`` are smallest cosine and largest relative error, where the candidate gave vectors."""
        if sizes is None:
            return cls(model, fault, fp32, fp16, "", "")
        # A NaN is all there is to say; a sound export's last digits are the machine's.
        cosine = significant(sizes[0]) if abs(1 - sizes[0]) > 1e-9 or math.isnan(sizes[0]) else "1 - 1e-9"
        return cls(model, fault, fp32, fp16, cosine, f"{sizes[1]:.1e}")

    def agrees(self, other: Row) -> bool:
        """Whether two runs say the same: equal verdicts, and sizes that another machine's rounding explains."""
        if (self.fp32, self.fp16) != (other.fp32, other.fp16):
            return False
        distances = [1 - _number(row.min_cosine) for row in (self, other)]
        errors = [_number(row.max_relative_error) for row in (self, other)]
        return _near(*distances, floor=1e-9, factor=2) and _near(*errors, floor=2e-5, factor=1.5)


def _number(text: str) -> float:
    return {"": math.nan, "1 - 1e-9": 1.0}[text] if text in ("", "1 - 1e-9") else float(text)


def _near(first: float, second: float, *, floor: float, factor: float) -> bool:
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) and math.isnan(second)
    low, high = sorted((max(first, floor), max(second, floor)))
    return high <= factor * low


def read_table(path: Path = FILE) -> list[Row]:
    """Return the rows of a written table, none where there is no file."""
    rows: list[Row] = []
    model = ""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if line.startswith("### "):
            model = line.removeprefix("### ")
        elif model and line.startswith("| ") and not line.startswith(("| fault |", "| ---")):
            rows.append(Row(model, *(cell.strip() for cell in line.strip("|").split("|"))))
    return rows


def render(rows: Iterable[Row]) -> str:
    """Return the file: how to read it, the bounds, what slips through the fp16 gate, and one table per model."""
    rows = list(rows)
    slips = [row for row in rows if row.fp16 == SLIPS]
    lines = [
        "# Can the validator fail?",
        "",
        "Every row is a mistake made on purpose in a sound export (`tests/support/faults.py`), and what the default",
        "gates say to it. `tests/integration/test_faults.py` repeats it all and holds the outcome against this file,",
        "which",
        "",
        f"    {WRITE}=1 python -m pytest tests/integration/test_faults.py",
        "",
        "writes. Sizes are those of the fault alone, in float32, over one in sixteen of the shipped probes and all",
        "edge cases. The fp16 gate judges the fault in the float16 graph where its relative error is below 0.1, and in",
        "the float32 graph where it is so large that rounding is nothing beside it. *refused*: the encoder or the",
        "engine stopped with an error before there was anything to judge.",
        "",
        "## The bounds",
        "",
        "| gate | " + " | ".join(_bounds(Gates().fp32)) + " |",
        "| --- | " + " | ".join("---" for _ in _bounds(Gates().fp32)) + " |",
    ]
    lines += [f"| {name} | " + " | ".join(_bounds(Gates().of(name)).values()) + " |" for name in Gates.model_fields]
    lines += ["", "## What slips through the fp16 gate", ""]
    lines += [
        f"- {row.model}: {row.fault} (min cosine {row.min_cosine}, max relative error {row.max_relative_error})"
        for row in slips
    ]
    lines += [] if slips else ["Nothing."]
    lines += ["", "The fp32 gate, which every export passes first, catches all of them.", "", "## All of it"]
    for model, group in groupby(rows, key=lambda row: row.model):
        lines += ["", f"### {model}", ""]
        lines += [
            "| fault | fp32 gate | fp16 gate | min cosine | max relative error |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += ["| " + " | ".join(astuple(row)[1:]) + " |" for row in group]
    return "\n".join(lines) + "\n"


def _bounds(gate: Gate) -> dict[str, str]:
    return {name: f"{value:.9g}" for name, value in gate.model_dump(exclude_none=True).items()}


def plain(rows: Iterable[Row]) -> list[str]:
    """Return the rows as aligned text, for a terminal."""
    header = Row("model", "fault", "fp32 gate", "fp16 gate", "min cosine", "max relative error")
    cells = [[cell.replace("**", "") for cell in astuple(row)] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def report(rows: Iterable[Row]) -> list[str]:
    """Return what to print at the end of a run; write the file too, where that is asked for."""
    unique = list({(row.model, row.fault): row for row in rows}.values())  # a row comes with each phase of its test
    found = [row for model in dict.fromkeys(row.model for row in unique) for row in unique if row.model == model]
    lines = plain(found)
    if os.environ.get(WRITE):
        FILE.write_text(render(found), encoding="utf-8")
        lines.append(f"{FILE.name} written: {len(found)} rows")
    return lines
