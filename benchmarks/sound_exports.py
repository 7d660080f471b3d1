"""What sound exports lose, by every statistic that a gate bounds: the measurements behind ``exporter/recipe/gates.py``.

    python -m benchmarks.sound_exports --size small

Every model is exported at every floating-point precision and engine of a CPU, and judged by the default gates over all
probes. What is reported is the worst value of all exports of a precision, beside its bound.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exporter
from benchmarks.results import arguments, publish, table, twin, twin_recipe, work_folder
from exporter.recipe import Recipe, find_recipe, load_recipe
from exporter.validator.gates import significant
from tests.support.faults import DENSE, MINILM, source_of
from tests.support.twins import MEASURED

EXPORTS = (
    ("fp32", "onnxruntime"),
    ("fp32", "openvino"),
    ("fp16", "onnxruntime"),
    ("fp16", "openvino"),
    ("bf16", "openvino"),
)
PRECISIONS = tuple(dict.fromkeys(precision for precision, _ in EXPORTS))
REAL = ("demo", DENSE, MINILM)
RATIOS = {"mean": "mean error, times PyTorch's in that format", "max": "largest error, times PyTorch's in that format"}


@dataclass(frozen=True)
class Measured:
    """One statistic of one export.

    Attributes:
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        statistic: In the gate's words.
        value: What was measured.
        bound: What the gate allows.
        at_least: Whether the bound is a lower one.
        subject: Model and engine.
    """

    precision: str
    statistic: str
    value: float
    bound: float
    at_least: bool
    subject: str

    @property
    def used(self) -> float:
        """The share of what the gate allows that is used up."""
        ideal = 1.0 if self.at_least else 0.0
        allowed = abs(ideal - self.bound)
        return abs(ideal - self.value) / allowed if allowed else float(self.value != self.bound)


def main() -> None:
    """Export everything, collect what the gates measured, and write ``sound_exports``."""
    parser = arguments(str(__doc__).splitlines()[0])
    models = (*REAL, *MEASURED)
    parser.add_argument("--model", choices=models, action="append", help="only this one; may be given several times")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="only this one")
    options = parser.parse_args()
    exports = [export for export in EXPORTS if export[0] in (options.precision or PRECISIONS)]
    chosen = options.model or models
    with work_folder(options.work) as work:
        found = [one for name in chosen for one in measure(name, options.size, work, exports)]
    name = "sound_exports" if options.size == "small" else "sound_exports-full"
    publish(
        name, options.results, {"measured": [vars(one) for one in found]}, _sections(found, chosen, options.size), ()
    )


def measure(name: str, size: str, work: Path, exports: Sequence[tuple[str, str]]) -> Iterator[Measured]:
    """Export one model in given precisions and for given engines, and yield what its gates measured."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        scratch = Path(folder)
        recipe, checkpoint = _model(name, size, work, scratch)
        for precision, backend in exports:
            out = scratch / "bundles"
            bundle = exporter.export(recipe, checkpoint=checkpoint, precision=precision, backend=backend, out=out)
            report = json.loads((bundle.folder / "parity.json").read_text(encoding="utf-8"))
            yield from statistics_of(report, precision, f"{name} on {backend}")
            print(f"{name}, {precision} on {backend}: passed", flush=True)


def statistics_of(report: Mapping[str, Any], precision: str, subject: str) -> Iterator[Measured]:
    """Yield every statistic of a report (``parity.json``), and the ratios to what PyTorch loses in the format."""
    for verdict in report["verdicts"]:
        if "against the format" not in verdict["name"]:
            statistic, _, _ = verdict["name"].partition(", widened")
            at_least = verdict["relation"] == ">="
            yield Measured(precision, statistic, verdict["value"], verdict["bound"], at_least, subject)
            continue
        kind = verdict["name"].split()[0]
        lost = report["format"][f"{kind}_relative_error"]
        yield Measured(precision, RATIOS[kind], verdict["value"] / lost, verdict["bound"] / lost, False, subject)


def worst(found: Sequence[Measured]) -> dict[tuple[str, str], Measured]:
    """Return the measurement that uses up most of its bound, for each statistic and precision."""
    most: dict[tuple[str, str], Measured] = {}
    for one in found:
        key = (one.statistic, one.precision)
        if key not in most or one.used > most[key].used:
            most[key] = one
    return most


def _model(name: str, size: str, work: Path, scratch: Path) -> tuple[Recipe, Path | None]:
    if name in REAL:
        return find_recipe(str(source_of(name, scratch / "checkpoint"))), None
    return load_recipe(twin_recipe(name, size, scratch)), twin(name, size, work)


def _sections(found: Sequence[Measured], models: Sequence[str], size: str) -> tuple[str, ...]:
    most = worst(found)
    precisions = list(dict.fromkeys(one.precision for one in found))
    statistics = list(dict.fromkeys(one.statistic for one in found))
    rows = []
    for statistic in statistics:
        cells = [statistic]
        for precision in precisions:
            one = most.get((statistic, precision))
            cells += ["", ""] if one is None else [_shown(one.value, one), _shown(one.bound, one)]
        rows.append(cells)
    header = ["", *(cell for precision in precisions for cell in (f"{precision}, worst", "allowed"))]
    exports = len({(one.subject, one.precision) for one in found})
    engines = dict.fromkeys(one.subject.rpartition(" on ")[2] for one in found)
    conditions = (
        f"{exports} exports of {', '.join(models)} ({size} twins), all probes, {' and '.join(engines)} on the CPU. "
        "Every export passed. Of each statistic, the value that uses up most of its bound; similarities and overlaps "
        "are given by their distance from 1. A bound that was widened for a probe is shown as widened. Sizes of seeded "
        "faults are in `tests/FAULTS.md`."
    )
    return "# What sound exports lose, and what the gates allow", conditions, table(header, rows)


def _shown(value: float, one: Measured) -> str:
    return f"{1 - value:.2g}" if one.at_least else significant(value) if value > 1 else f"{value:.2g}"


if __name__ == "__main__":
    main()
