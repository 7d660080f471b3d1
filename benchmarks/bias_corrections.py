"""How far int8 moves the biases of sound exports: the measurements behind ``exporter/validator/provenance/bias.py``.

    python -m benchmarks.bias_corrections

Every subject is quantized with every way to choose ranges, with smoothing and without. What is reported is the largest
difference of a stored bias from the checkpoint's, in units of the root of the sum of squares that rounding explains. A
bias that is filled with zeros is the fault that the check has to see: once behind one MatMul, once behind all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import onnx_ir as ir

from benchmarks.results import arguments, publish, table
from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.precisions.int8.ranges import METHODS, Method
from exporter.validator.provenance import check_weights, read_onnx
from exporter.validator.provenance.bias import FACTOR
from tests.support.published import MINILM, SENTENCES, Subject, Target, for_target, quantized, subject_named
from tests.support.surgery import stored_array

SUBJECTS = ("demo", MINILM, "ko-sbert-sts", "albert-small", "moco-distilbert")
TARGETS = (Target("int8"), Target("int8_dynamic"))


@dataclass(frozen=True)
class Measured:
    """The biases of one quantized graph.

    Attributes:
        subject: The model; twins are the small ones.
        target: Precision and engine.
        method: How ranges were chosen.
        smoothed: Whether activations could be smoothed.
        needed: The factor that this sound export needs.
        unseen: Behind how many MatMuls a bias of zeros alone is within the bound.
        biases: How many there are.
        zeros: The factor that zeros in all biases would need.
    """

    subject: str
    target: str
    method: str
    smoothed: bool
    needed: float
    unseen: int
    biases: int
    zeros: float


def main() -> None:
    """Measure everything and write ``bias_corrections``."""
    parser = arguments(str(__doc__).splitlines()[0])
    options = parser.parse_args()
    found = [one for name in SUBJECTS for one in measure(name)]
    header = ("model", "target", "ranges", "smoothing", "sound: factor", "a bias of zeros passes", "all zeros: factor")
    rows = [
        (
            one.subject,
            one.target,
            one.method,
            "yes" if one.smoothed else "no",
            f"{one.needed:.2f}",
            f"{one.unseen} of {one.biases}",
            f"{one.zeros:.1f}",
        )
        for one in found
    ]
    conditions = (
        f"The check allows a factor of {FACTOR:g}. Twins are small, calibration text is {len(SENTENCES)} sentences, "
        "the first MatMul is excluded. Dynamic quantization has no calibrated ranges."
    )
    sections = ("# Biases of sound int8 exports, and of biases filled with zeros", conditions, table(header, rows))
    publish("bias_corrections", options.results, {"measured": [asdict(one) for one in found]}, sections, ())


def measure(name: str) -> Iterator[Measured]:
    """Yield what is measured of one subject, for every target, method and choice of smoothing."""
    subject = subject_named(name)
    batches = TokenBatches(SENTENCES, subject.checkpoint.tokenizer)
    for target in TARGETS:
        methods: tuple[Method, ...] = METHODS if target.precision == "int8" else ("minmax",)
        for method in methods:
            for smooth in (True, False):
                graph = for_target(quantized(subject.graph, target, batches, method, smooth=smooth), target)
                one = _measured(subject, target, method, smooth, graph)
                print(one, flush=True)
                yield one


def _measured(subject: Subject, target: Target, method: str, smooth: bool, graph: Graph) -> Measured:
    names = [name for name in graph.model.graph.initializers if ".bias.int8" in name]
    alone = [_factor(subject, target, _with_zeros(graph, [name])) for name in names]
    return Measured(
        subject.name,
        str(target),
        method,
        smooth,
        _factor(subject, target, graph),
        sum(factor <= FACTOR for factor in alone),
        len(names),
        _factor(subject, target, _with_zeros(graph, names)),
    )


def _with_zeros(graph: Graph, names: list[str]) -> Graph:
    model = graph.editable()
    for name in names:
        value = model.graph.initializers[name]
        value.const_value = ir.tensor(np.zeros_like(stored_array(value)), name=name)
    return graph.with_model(model)


def _factor(subject: Subject, target: Target, graph: Graph) -> float:
    """Return the factor that the biases of a graph would need to pass."""
    figures = check_weights(subject.parameters, read_onnx(graph.to_bytes()), target.precision).figures
    return FACTOR * float(figures["largest_bias_correction_of_allowed"])


if __name__ == "__main__":
    main()
