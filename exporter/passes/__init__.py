"""Graph rewrites, one per file, and the order in which they run.

A pass takes an ``onnx_ir.Model``, changes it in place and returns how many places it changed. ``FOLDING`` runs once,
right after the exporter; ``TARGETS`` says what each backend asks for on top.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

from exporter.passes.decompose_attention import decompose_attention
from exporter.passes.direct_mask import direct_mask
from exporter.passes.fold_token_types import fold_token_types
from exporter.passes.fold_transposes import fold_transposes
from exporter.passes.limit_sequence import limit_sequence

Pass = Callable[[ir.Model], int]


def remove_unused(model: ir.Model) -> int:
    """Remove nodes and initializers that no output depends on; returns how many nodes went."""
    before = len(model.graph)
    RemoveUnusedNodesPass()(model)
    return before - len(model.graph)


def store_once(model: ir.Model) -> int:
    """Keep one of each set of equal initializers; returns how many went.

    The exporter transposes weights below some 8,000 numbers by itself, once for every use.
    """
    before = len(model.graph.initializers)
    DeduplicateInitializersPass(size_limit=2**62)(model)
    return before - len(model.graph.initializers)


FOLDING: tuple[Pass, ...] = (
    fold_token_types,
    direct_mask,
    fold_transposes,
    store_once,
    remove_unused,
    limit_sequence,
)

TARGETS: dict[str, tuple[Pass, ...]] = {
    "onnxruntime": (),
    "openvino": (decompose_attention,),
}


def run_passes(model: ir.Model, passes: tuple[Pass, ...]) -> dict[str, int]:
    """Run ``passes`` in order; returns the number of changes by the name of the pass."""
    return {rewrite.__name__: rewrite(model) for rewrite in passes}
