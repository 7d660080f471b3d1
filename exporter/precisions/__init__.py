"""Graph -> Graph in another number format, one module or package per precision.

``PRECISIONS`` maps a name to its module, which is imported on use; ``PrecisionModule`` is what each one has.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.recipe import Recipe
from exporter.stages import Stages
from exporter.targets import Precision, Target

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from exporter.bundle import QuantizationFacts
    from exporter.runtime.runner import Runner
    from exporter.validator import Reference
    from exporter.validator.format_loss import FormatLoss

PRECISIONS = {
    Precision.FP32: "exporter.precisions.fp32",
    Precision.FP16: "exporter.precisions.fp16",
    Precision.BF16: "exporter.precisions.bf16",
    Precision.INT8: "exporter.precisions.int8.static",
    Precision.INT8_DYNAMIC: "exporter.precisions.int8.dynamic",
}


@dataclass(frozen=True)
class ConversionRequest:
    """What a precision is asked for, and what it may look at.

    Attributes:
        graph: The folded float32 graph.
        target: Precision, backend and device.
        recipe: Its gates, and its options of the precision.
        text: Sentences for an audit of activations, as token batches.
        probes: Texts of the probes, without the prompt. No choice may look at them.
        tokenizer: The checkpoint's, which truncates by itself.
        prompt: Text that is put before every sentence.
        calibration: The user's file of calibration text (default: the sentences that ship).
        ledger: File for results of a search, so that an interrupted export can resume (default: none).
        stages: Who is told about progress.
    """

    graph: Graph
    target: Target
    recipe: Recipe
    text: TokenBatches
    probes: tuple[str, ...]
    tokenizer: Tokenizer
    prompt: str = ""
    calibration: Path | None = None
    ledger: Path | None = None
    stages: Stages = field(default_factory=Stages)

    @property
    def subject(self) -> str:
        """What is exported, for messages."""
        return f"{self.recipe.name} {self.target}"


@dataclass(frozen=True)
class Candidate:
    """One graph to build an engine from.

    Attributes:
        convert: Returns the graph in the precision.
        compare: Compares the vectors of its engine with the float32 graph's on held-out text, and returns the result in
            one line. None where there is nothing to choose between.
    """

    convert: Callable[[], Graph]
    compare: Callable[[Runner], str] | None = None


@dataclass(frozen=True)
class ConversionReport:
    """What a precision adds to a bundle.

    Attributes:
        files: Contents by file name.
        quantization: For the manifest.
        modules: Markdown for the model card: the precision of each module.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    quantization: QuantizationFacts | None = None
    modules: str = ""


class Conversion(Protocol):
    """A precision prepared for one graph."""

    @property
    def hint(self) -> str:
        """What the user can do when every candidate has failed."""
        ...

    def candidates(self) -> Iterator[Candidate]:
        """Yield the candidates in the order to try them. The last one is published if it passes its gate.

        Raises:
            GateError: No candidate is close enough on held-out text.
        """
        ...

    def format_loss(self, reference: Reference) -> FormatLoss | None:
        """Return what the last candidate should lose on the probes by an emulation of it, where there is one."""
        ...

    def explain(self) -> str:
        """Return what was tried, for the message of a failed gate: further lines, or nothing."""
        ...

    def report(self) -> ConversionReport:
        """Return what the last candidate adds to a bundle."""
        ...


class PrecisionModule(Protocol):
    """What a module of ``PRECISIONS`` offers."""

    def check(self, target: Target) -> None:
        """Refuse a target that the precision cannot be built for, before any work.

        Raises:
            BuildError: The target has no kernels for it.
            MissingDependencyError: A package is missing.
        """
        ...

    def prepare(self, request: ConversionRequest) -> Conversion:
        """Prepare a graph's conversion: calibrate and search, where the precision needs it."""
        ...


def precision_of(precision: str) -> PrecisionModule:
    """Import the module of a precision (a key of ``PRECISIONS``)."""
    return cast(PrecisionModule, importlib.import_module(PRECISIONS[Precision(precision)]))


def cast_graph(graph: Graph, precision: str, text: TokenBatches) -> Graph:
    """Return a float32 graph in a floating-point precision; its output stays float32.

    Args:
        graph: The folded float32 graph.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        text: Sentences for an audit of activations (fp16).
    """
    converted: Graph = importlib.import_module(PRECISIONS[Precision(precision)]).convert(graph, text, ())
    return converted.with_model(converted.model, precision=Precision(precision))
