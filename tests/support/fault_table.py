"""The table of faults and what catches them: a row per model and fault, in ``tests/FAULTS.md``."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path

from exporter.recipe import Gate, Gates
from exporter.validator.gates import significant

FILE = Path(__file__).parents[1] / "FAULTS.md"
WRITE = "KORSBERT_WRITE_FAULTS"
PROPERTY = "seeded fault"  # under which a test hands its row to the process that prints the table

SOUND = "none: the sound export"
REFUSED, SLIPS, PASSES, NOT_TRIED, GATE_1 = "refused", "slips", "passes", "", "gate 1"
NOT_APPLICABLE = "n/a: "

UNMOVED, LEAST_SIZE = "no probe moves", 1e-9

COLUMNS = ("fp32", "fp16", "bf16", "int8")
_HEADER = ("fault", "stage", *COLUMNS, "min cosine", "max relative error")
_INTRODUCTION = """\
# Can the validator fail?

Each row is a mistake made on purpose in a sound export (`tests/support/faults.py`). The column of a precision names
what finds it there: every check for the demo, the first one for the other models. This file is written by

    {write}=1 KORSBERT_FAULT_SUBJECTS=all python -m pytest tests/integration/test_faults.py

with `-n 2 --dist load` in about half an hour on two cores. Without the variables, the same tests try the demo, and the
demo with Dense and Normalize. They require that every fault is caught, and compare what is caught, what slips, and the
sizes with this file. Which check finds a fault first may differ between machines, where a value lies close to a bound.

- Checks are asked in this order: {checks}. The gate compares the vectors of
  one in sixteen of the shipped probes and of all edge cases with the checkpoint's, within the default bounds.
- Stage *folding* is a mistake in the float32 graph. Every export judges that graph before it types it (gate 1), so in
  the other columns such a mistake is found by what column fp32 says: *gate 1*. Stage *typing* is a mistake in the graph
  that is published; *tokenizer* is a mistake outside of the graph.
- The graph check needs a proven graph to compare with. In column fp32 there is none: the gate judges that very graph,
  and so do the checks dataflow and lookup, which read float32 graphs only.
- *refused*: the encoder or the engine stops with an error. **slips**: no check finds the fault; in parentheses, by how
  much it moves a probe's vector (relative to its length, from the sound graph's of the same precision). *n/a*: there
  is nothing that the fault could spoil. Empty: not tried; int8 is searched for the two models with real weights only.
- fp32, fp16 and int8 run on ONNX Runtime, bf16 on OpenVINO. The two columns on the right are what the fault does to
  the vectors of the float32 graph.
"""

_SLIP = re.compile(r"\*\*slips\*\* \((.+)\)")


def slip(size: float) -> str:
    """Return the cell of a fault that nothing catches and that moves a vector by ``size``, relative to its length."""
    return f"**{SLIPS}** ({UNMOVED if size < LEAST_SIZE else f'{size:.1e}'})"


def slipped_by(cell: str) -> float:
    """Return the size in the cell of a fault that slips."""
    match = _SLIP.fullmatch(cell)
    if match is None:
        raise ValueError(f"{cell!r} is no slip")
    return 0.0 if match.group(1) == UNMOVED else float(match.group(1))


@dataclass(frozen=True)
class Row:
    """What became of one fault in one model, as text: rows travel between test processes.

    Attributes:
        model: The subject.
        fault: The fault's name.
        stage: Where it is made.
        fp32: What catches it in the float32 graph: names of checks, refused, slips and by how much, n/a and why, or
            nothing where it was not tried.
        fp16: The same in the float16 graph.
        bf16: The same in the bfloat16 graph.
        int8: The same in the int8 graph.
        min_cosine: Smallest cosine of the faulty float32 graph.
        max_relative_error: Its largest relative error.
    """

    model: str
    fault: str
    stage: str
    fp32: str
    fp16: str
    bf16: str
    int8: str
    min_cosine: str = ""
    max_relative_error: str = ""

    def agrees(self, other: Row, columns: Sequence[str] = COLUMNS) -> bool:
        """Whether two runs catch the same in ``columns``. Sizes and the names of checks may differ."""
        if not all(_alike(getattr(self, name), getattr(other, name)) for name in columns):
            return False
        distances = [1 - _number(row.min_cosine) for row in (self, other)]
        errors = [_number(row.max_relative_error) for row in (self, other)]
        return _near(*distances, floor=1e-9, factor=2) and _near(*errors, floor=2e-5, factor=1.5)


def sizes(min_cosine: float, max_relative_error: float) -> tuple[str, str]:
    """Return the two sizes of a row as text. The last digits of a sound export are the machine's."""
    exact = abs(1 - min_cosine) <= 1e-9
    return "1 - 1e-9" if exact else significant(min_cosine), f"{max_relative_error:.1e}"


def _alike(first: str, second: str) -> bool:
    """Whether two cells say the same. What slips by in the noise of a precision has a size of that noise."""
    if _is_caught(first) and _is_caught(second):
        return True
    slips = [_SLIP.fullmatch(cell) for cell in (first, second)]
    if slips[0] is None or slips[1] is None:
        return first == second
    said = [match.group(1) for match in slips if match]
    if UNMOVED in said:
        return said == [UNMOVED, UNMOVED]
    return _near(*(float(size) for size in said), floor=1e-3, factor=2)


def _is_caught(cell: str) -> bool:
    """Whether a cell names checks."""
    return cell not in (NOT_TRIED, PASSES, "n/a") and not cell.startswith((NOT_APPLICABLE, "**"))


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


def render(rows: Iterable[Row], checks: Sequence[str]) -> str:
    """Return the file: how to read it, the bounds, what slips, and one table per model.

    Args:
        rows: All of them.
        checks: Names of the checks that were asked, in order.
    """
    rows = list(rows)
    lines = [
        *_INTRODUCTION.format(write=WRITE, checks=", ".join(checks)).splitlines(),
        "",
        "## The bounds",
        "",
        *_bounds(),
        "",
        "## What slips",
        "",
        *(_slips(rows) or ["Nothing."]),
        "",
        "## All of it",
    ]
    for model, group in groupby(rows, key=lambda row: row.model):
        lines += ["", f"### {model}", ""]
        lines += _markdown(_HEADER, [astuple(row)[1:] for row in group])
    return "\n".join(lines) + "\n"


def _bounds() -> list[str]:
    """Return a table of every bound that any gate has. A cell is empty where a gate does not judge it."""
    gates = {name: Gates().of(name).model_dump() for name in Gates.model_fields}
    bounds = [name for name in Gate.model_fields if any(gate[name] is not None for gate in gates.values())]
    rows = [
        (bound, *("" if gate[bound] is None else f"{gate[bound]:.9g}" for gate in gates.values())) for bound in bounds
    ]
    return _markdown(("bound", *gates), rows)


def _slips(rows: Iterable[Row]) -> list[str]:
    found = [
        (name, row, match.group(1))
        for name in COLUMNS
        for row in rows
        if (match := _SLIP.fullmatch(getattr(row, name))) is not None
    ]
    return [f"- {name}, {row.model}: {row.fault} ({size})" for name, row, size in found]


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def plain(rows: Iterable[Row]) -> list[str]:
    """Return the rows as aligned text, for a terminal."""
    cells = [("model", *_HEADER), *([cell.replace("**", "") for cell in astuple(row)] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def report(rows: Iterable[Row]) -> list[str]:
    """Return what to print at the end of a run; write the file too, where that is asked for."""
    from tests.support.fault_checks import CHECKS
    from tests.support.faults import SUBJECTS, faults_of

    tried = {(row.model, row.fault): row for row in rows}  # a row comes with each phase of its test
    order = [(name, fault) for name in SUBJECTS for fault in (SOUND, *(fault.name for fault in faults_of(name)))]
    found = [tried[key] for key in order if key in tried]
    lines = plain(found)
    if os.environ.get(WRITE):
        FILE.write_text(render(found, [check.__name__ for check in CHECKS]), encoding="utf-8")
        lines.append(f"{FILE.name} written: {len(found)} rows")
    return lines
