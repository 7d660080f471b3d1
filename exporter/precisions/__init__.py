"""Graph -> Graph in another number format, one file per precision.

The table maps a name to the module that converts; the module is imported on use. Every module has::

    convert(graph: Graph, batches: TokenBatches, keep_fp32: tuple[str, ...]) -> Graph
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from exporter.calibration import TokenBatches
from exporter.graph import Graph

PRECISIONS = {
    "fp32": "exporter.precisions.fp32",
    "fp16": "exporter.precisions.fp16",
    "bf16": "exporter.precisions.bf16",
}


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
