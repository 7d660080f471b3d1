"""Build the attention mask directly from ``attention_mask``.

transformers builds its mask by indexing: positions are spread into (batch, 1, query, key) coordinates and the exporter
writes that as ``GatherND`` over ranges, some sixteen nodes that no engine fuses. For a bidirectional encoder all of it
equals::

    mask[b, h, q, k] = attention_mask[b, k] != 0        Expand(Unsqueeze(Cast(attention_mask, bool), axes=[1, 2]))

(The operator's text allows a mask of (batch, 1, 1, sequence); ONNX Runtime 1.31 wants the query axis spelled out.)
MPNet, which has no ``Attention`` operator, chooses between 0 and the lowest number by the same mask.

Whether it does is not guessed from the shape of the subgraph but computed: the subgraph is cut out and evaluated on
masks with padding on either side, holes and the longest sequence (a sliding window only shows there). Where it differs
anywhere, the mask stays as it was exported.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from exporter.graph.surgery import add_constant, graph_input, make_node

TRIALS = ((1, 1), (1, 5), (3, 17), (2, 64))


def direct_mask(model: ir.Model) -> int:
    """Replace the mask of every attention where it is a plain padding mask; returns how many were."""
    attention_mask = graph_input(model.graph, "attention_mask")
    longest = _longest_sequence(model)
    direct: ir.Value | None = None
    equal: dict[ir.Value, bool] = {}
    count = 0
    for node in list(model.graph):
        index = _mask_input(node)
        mask = node.inputs[index] if index is not None else None
        if index is None or mask is None or mask.dtype != ir.DataType.BOOL:
            continue
        if mask not in equal:
            equal[mask] = _is_padding_mask(model, mask, longest)
        if not equal[mask]:
            continue
        if direct is None:
            direct = _insert(model, attention_mask)
        node.replace_input_with(index, direct)
        count += 1
    return count


def _mask_input(node: ir.Node) -> int | None:
    """Return which input of a node may be an attention mask; None for other nodes.

    That is an input of ``Attention``, or what chooses between two numbers that are added to scores (MPNet).
    """
    if node.op_type == "Attention" and len(node.inputs) > 3:
        return 3
    stored = [value.const_value if value is not None else None for value in node.inputs[1:]]
    is_choice = node.op_type == "Where" and all(number is not None and number.size == 1 for number in stored)
    return 0 if is_choice else None


def _insert(model: ir.Model, attention_mask: ir.Value) -> ir.Value:
    """Write the mask (batch, 1, sequence, sequence) bool at the head of the graph and return it."""
    axes = add_constant(model, "mask/axes", np.array([1, 2], dtype=np.int64))
    one = add_constant(model, "mask/one", np.array([1], dtype=np.int64))
    batch, sequence = attention_mask.shape or (None, None)
    boolean, integer = ir.DataType.BOOL, ir.DataType.INT64
    cast = make_node("Cast", [attention_mask], "mask/Cast", boolean, [batch, sequence], {"to": boolean})
    row = make_node("Unsqueeze", [cast.outputs[0], axes], "mask/Unsqueeze", boolean, [batch, 1, 1, sequence])
    length = make_node("Shape", [attention_mask], "mask/Shape", integer, [1], {"start": 1, "end": 2})
    square = make_node("Concat", [one, one, length.outputs[0], one], "mask/Concat", integer, [4], {"axis": 0})
    inputs = [row.outputs[0], square.outputs[0]]
    expand = make_node("Expand", inputs, "mask/Expand", boolean, [batch, 1, sequence, sequence])
    model.graph.insert_before(model.graph[0], [cast, row, length, square, expand])
    return expand.outputs[0]


def _is_padding_mask(model: ir.Model, mask: ir.Value, longest: int) -> bool:
    """Evaluate the subgraph behind ``mask`` and compare it with ``attention_mask`` broadcast over queries."""
    evaluator = _cut_out(model, mask)
    if evaluator is None:
        return False
    rng = np.random.default_rng(0)
    for batch, sequence in (*TRIALS, (1, longest)):
        attention = (rng.random((batch, sequence)) < 0.7).astype(np.int64)
        attention[-1] = batch == 1  # an empty row, where there is another
        feeds = dict.fromkeys(evaluator.input_names, attention)
        try:
            (computed,) = evaluator.run(None, feeds)
        except (RuntimeError, NotImplementedError, TypeError, ValueError):  # an operator it does not know
            return False
        wanted = np.broadcast_to(attention.astype(bool)[:, None, None, :], (batch, 1, sequence, sequence))
        try:
            if not np.array_equal(np.broadcast_to(computed, wanted.shape), wanted):
                return False
        except ValueError:  # shapes that do not broadcast: per-head masks and the like
            return False
    return True


def _cut_out(model: ir.Model, mask: ir.Value) -> ReferenceEvaluator | None:
    """Return an evaluator of the nodes behind ``mask``, or None if they read more of the ids than their shape."""
    graph = ir.convenience.extract(model.graph, model.graph.inputs, [mask])
    if any(reader.op_type != "Shape" for reader in graph_input(graph, "input_ids").consumers()):
        return None
    return ReferenceEvaluator(ir.to_proto(ir.Model(graph, ir_version=model.ir_version)))


def _longest_sequence(model: ir.Model) -> int:
    """Return the length the model was folded for, at most 512: the evaluation grows with its square."""
    return min(512, int(model.metadata_props.get("max_sequence", "512")))
