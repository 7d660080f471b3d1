"""float16, with what would overflow it kept in float32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.calibration import TokenBatches
from exporter.graph import Graph
from exporter.graph.surgery import DATA_MOVERS
from exporter.precisions import Conversion, ConversionRequest
from exporter.precisions.casting import Cast, any_target
from exporter.precisions.range_audit import (
    FP16_MAX,
    FP16_SMALLEST_NORMAL,
    HEADROOM,
    largest_activations,
)
from exporter.precisions.retype import head_nodes, nodes_named, position_nodes, retype
from exporter.targets import Precision

check = any_target

JSON = "fp16.json"
_WRITTEN = 20  # nodes, of the hundreds of a graph


def prepare(request: ConversionRequest) -> Conversion:
    """Return the conversion, which has one candidate and adds its range audit to the bundle."""
    audits: list[Audit] = []

    def audit_and_cast(graph: Graph, batches: TokenBatches, keep_fp32: tuple[str, ...]) -> Graph:
        audits.append(audit(graph, batches))
        return cast(graph, audits[-1], keep_fp32)

    def files() -> Mapping[str, bytes]:
        return {JSON: json.dumps(audits[-1].to_dict(), indent=1, allow_nan=False).encode() + b"\n"}

    return Cast(request, audit_and_cast, files)


def convert(graph: Graph, batches: TokenBatches, keep_fp32: tuple[str, ...]) -> Graph:
    """Return ``graph`` in float16, after auditing the range of every activation and weight.

    A node that writes or reads an activation above ``65504 / 4``, or that has a weight beyond 65504, stays float32;
    the graph's ``decisions`` say which and why. Nothing is clipped.
    """
    return cast(graph, audit(graph, batches), keep_fp32)


@dataclass(frozen=True)
class Audit:
    """What the activations of a graph reach.

    Attributes:
        largest: Largest absolute value by node name.
        sentences: Over how many.
        text_sha256: SHA-256 over the sentences.
    """

    largest: dict[str, float]
    sentences: int
    text_sha256: str

    @property
    def hot(self) -> dict[str, float]:
        """What comes too near the end of float16."""
        return {name: value for name, value in self.largest.items() if not value <= FP16_MAX / HEADROOM}

    def to_dict(self) -> dict[str, Any]:
        """Return as JSON data what the nodes with the largest values reach. An infinite value becomes null."""
        order = sorted(self.largest, key=lambda name: (-self.largest[name], name))
        hot = self.hot
        return {
            "limit": FP16_MAX,
            "headroom": HEADROOM,
            "sentences": self.sentences,
            "text_sha256": self.text_sha256,
            "nodes": len(order),
            "kept_in_float32": len(hot),
            "largest": [
                {
                    "node": name,
                    "value": float(f"{self.largest[name]:.6g}") if np.isfinite(self.largest[name]) else None,
                    "float32": name in hot,
                }
                for name in order[:_WRITTEN]
            ],
        }


def audit(graph: Graph, batches: TokenBatches) -> Audit:
    """Measure the range of every activation of a float32 graph over real text."""
    return Audit(largest_activations(graph, batches), batches.count, batches.content_hash())


def cast(graph: Graph, audited: Audit, keep_fp32: tuple[str, ...] = ()) -> Graph:
    """Return ``graph`` in float16 but for what an audit, of it or of what it was made from, forbids."""
    model = graph.editable()
    hot = audited.hot
    kept = nodes_named(model, keep_fp32) | head_nodes(model) | position_nodes(model)
    overflowing = _overflowing_weights(model, kept)
    kept |= _nodes_on_hot_edges(model, hot)
    kept |= {node for node in model.graph if any(v is not None and v.name in overflowing for v in node.inputs)}

    decisions = [
        f"largest activation {max(audited.largest.values()):.4g} over {audited.sentences} sentences "
        "(float16 ends at 65504)"
    ]
    limit = FP16_MAX / HEADROOM
    decisions += [f"float32 kept: {name} reaches {value:.4g}, above {limit:.0f}" for name, value in hot.items()]
    decisions += [f"float32 kept: weight {name} reaches {value:.4g}" for name, value in overflowing.items()]
    decisions += _subnormal_weights(model, kept)
    if keep_fp32:
        decisions.append(f"float32 kept by the recipe: {', '.join(keep_fp32)}")
    count = retype(model, ir.DataType.FLOAT16, kept)
    decisions.append(f"{count} nodes compute in float16, {len(kept)} stay float32")
    decisions.append(f"audited text: sha256 {audited.text_sha256}")
    return graph.with_model(model, precision=Precision.FP16, decisions=tuple(decisions))


def _nodes_on_hot_edges(model: ir.Model, hot: dict[str, float]) -> set[ir.Node]:
    """Return what writes a hot edge, what hands it on (a transposition is as large as its input), and what reads it.

    All of them stay float32: cast down anywhere between the two, the value would overflow all the same.
    """
    edges: set[ir.Value] = set()
    nodes: set[ir.Node] = set()
    for node in model.graph:  # in topological order
        reads = any(value in edges for value in node.inputs if value is not None)
        if str(node.name) in hot or (reads and node.op_type in DATA_MOVERS):
            edges.update(node.outputs)
            nodes.add(node)
        elif reads:
            nodes.add(node)
    return nodes


def _weights_to_cast(model: ir.Model, kept: set[ir.Node]) -> dict[str, np.ndarray]:
    """Return the float32 weights that a node outside ``kept`` reads."""
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None and set(value.consumers()) - kept
    }


def _overflowing_weights(model: ir.Model, kept: set[ir.Node]) -> dict[str, float]:
    """Return the largest absolute value of each weight that float16 cannot hold."""
    weights = _weights_to_cast(model, kept)
    # Without a copy of its absolute values, which of a table of word vectors is a gigabyte.
    largest = {name: float(max(array.max(initial=0.0), -array.min(initial=0.0))) for name, array in weights.items()}
    return {name: value for name, value in largest.items() if not value <= FP16_MAX}


def _subnormal_weights(model: ir.Model, kept: set[ir.Node]) -> list[str]:
    """Report weights below float16's smallest normal number: they keep fewer digits, or become zero below 6e-8."""
    small = total = 0
    worst, worst_share = "", 0.0
    for name, array in _weights_to_cast(model, kept).items():
        count = int(np.count_nonzero((np.abs(array) < FP16_SMALLEST_NORMAL) & (array != 0)))
        small, total = small + count, total + array.size
        if array.size and count / array.size > worst_share:
            worst, worst_share = name, count / array.size
    if not small:
        return []
    return [f"{small} of {total} weights are subnormal in float16 (most in {worst}: {worst_share:.2%})"]
