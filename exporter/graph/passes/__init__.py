"""Graph rewrites, one per file, and the order in which they run.

A pass takes an ``onnx_ir.Model``, changes it in place and returns how many places it changed. ``FOLDING`` runs once,
right after the exporter; ``TARGETS`` says what each target asks for on top, the form of attention above all, which is
decided nowhere else. ``lowering.py`` has what an older operator set asks for.
"""

from __future__ import annotations

from collections.abc import Set
from fnmatch import fnmatch

import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

from exporter.graph.passes.attention_lengths import attention_lengths
from exporter.graph.passes.decompose_attention import decompose_attention
from exporter.graph.passes.direct_mask import direct_mask
from exporter.graph.passes.first_token import first_token
from exporter.graph.passes.fold_token_types import fold_token_types
from exporter.graph.passes.fold_transposes import fold_transposes
from exporter.graph.passes.limit_sequence import limit_sequence
from exporter.graph.passes.lowering import Pass, passes_to_lower
from exporter.graph.passes.rotary_caches import rotary_caches
from exporter.graph.passes.split_heads_inside import split_heads_inside
from exporter.targets import FOLDED_OPSET

__all__ = ["FOLDING", "TARGETS", "Pass", "passes_for", "remove_unused", "run_passes", "store_once"]


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
    rotary_caches,
    store_once,
    remove_unused,
    limit_sequence,
)

# (backend, device, precision) -> passes; the first line that fits counts. As folded, attention is one operator with a
# mask.
TARGETS: dict[tuple[str, str, str], tuple[Pass, ...]] = {
    ("onnxruntime", "cpu", "*"): (),
    # Flash Attention takes half precision and lengths; float32 has a kernel for the mask and none that is faster.
    ("onnxruntime", "cuda", "fp32"): (first_token,),
    ("onnxruntime", "cuda", "*"): (attention_lengths, split_heads_inside, first_token),
    ("openvino", "*", "*"): (decompose_attention,),
    ("tensorrt*", "cuda", "fp32"): (decompose_attention,),  # no kernel for attention in float32
    # A mask that is no length (causal, of neighbors, biased) has no kernel either.
    ("tensorrt*", "cuda", "*"): (attention_lengths, decompose_attention),
}


def passes_for(
    backend: str,
    device: str,
    precision: str,
    *,
    padding: str = "right",
    missing: Set[str] = frozenset(),
    opset: int = FOLDED_OPSET,
) -> tuple[Pass, ...]:
    """Return what a target asks for on top of the folded graph, and the removal of what that leaves without a use.

    Args:
        backend: Name of the backend.
        device: Where its engine will run, ``"cpu"`` or ``"cuda"``.
        precision: Number format of the graph.
        padding: The side on which the checkpoint's tokenizer pads. A graph for one that pads left keeps its mask.
        missing: Operators, or inputs of them, that the engine cannot build (``Backend.missing_operators``).
        opset: The operator set that the graph is lowered to.

    Raises:
        KeyError: No such target.
    """
    if "Attention" in missing:
        return (decompose_attention, remove_unused)
    target = (backend, device, precision)
    for pattern, passes in TARGETS.items():
        if all(fnmatch(part, wanted) for part, wanted in zip(target, pattern, strict=True)):
            padded_left = padding != "right"
            unsound: dict[Pass, bool] = {
                attention_lengths: padded_left or "nonpad_kv_seqlen" in missing,
                decompose_attention: "nonpad_kv_seqlen" in missing and attention_lengths in passes,
                first_token: padded_left,
            }
            kept = tuple(rewrite for rewrite in passes if not unsound.get(rewrite))
            kept = (*kept, *passes_to_lower(opset))
            return (*kept, remove_unused) if kept else ()
    raise KeyError(target)


def run_passes(model: ir.Model, passes: tuple[Pass, ...]) -> dict[str, int]:
    """Run ``passes`` in order; returns the number of changes by the name of the pass."""
    return {rewrite.__name__: rewrite(model) for rewrite in passes}
