"""Graph -> Graph in another number format, one file per precision.

The table maps a name to the module that converts; the module is imported on use. Every module has::

    convert(graph: Graph, batches: TokenBatches, keep_fp32: tuple[str, ...]) -> Graph

What is no cast but a quantization wants more than that, and has a table of its own::

    convert(plan: Plan, assignment: Assignment, batches: TokenBatches) -> Graph
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from exporter.calibration import TokenBatches
from exporter.graph import Graph

if TYPE_CHECKING:
    from exporter.precisions.int8.plan import Plan
    from exporter.precisions.int8.search import Assignment

PRECISIONS = {
    "fp32": "exporter.precisions.fp32",
    "fp16": "exporter.precisions.fp16",
    "bf16": "exporter.precisions.bf16",
}
QUANTIZATIONS = {
    "int8": "exporter.precisions.int8.static",
    "int8_dynamic": "exporter.precisions.int8.dynamic",
}


class QuantizedPrecision(Protocol):
    """What a module of ``QUANTIZATIONS`` offers."""

    def convert(self, plan: Plan, assignment: Assignment, batches: TokenBatches) -> Graph:
        """Return the plan's graph with ``assignment`` in int8; float32 output.

        Args:
            plan: Scales and products, from ``exporter.precisions.int8``.
            assignment: Which products take them.
            batches: Real text, for precisions of the remainder that look at activations.
        """
        ...


class Precision(Protocol):
    """What a module of this package offers."""

    def convert(self, graph: Graph, batches: TokenBatches, keep_fp32: tuple[str, ...]) -> Graph:
        """Return ``graph`` (float32) in this precision; float32 output either way.

        Args:
            graph: The folded float32 graph.
            batches: Real text as token batches, for precisions that look at activations.
            keep_fp32: Beginnings of node names that stay float32.
        """
        ...


def precision_of(name: str) -> Precision:
    """Import the module of a precision (a key of ``PRECISIONS``)."""
    return cast(Precision, importlib.import_module(PRECISIONS[name]))


def quantization_of(name: str) -> QuantizedPrecision:
    """Import the module of an integer precision (a key of ``QUANTIZATIONS``)."""
    return cast(QuantizedPrecision, importlib.import_module(QUANTIZATIONS[name]))
