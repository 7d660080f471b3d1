"""float32: the folded graph as it is."""

from __future__ import annotations

from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.precisions import Conversion, ConversionRequest
from exporter.precisions.casting import Cast, any_target

check = any_target


def prepare(request: ConversionRequest) -> Conversion:
    """Return the conversion, which has one candidate."""
    return Cast(request, convert)


def convert(graph: Graph, batches: TokenBatches, keep_fp32: tuple[str, ...]) -> Graph:  # noqa: ARG001
    """Return ``graph`` unchanged."""
    return graph
