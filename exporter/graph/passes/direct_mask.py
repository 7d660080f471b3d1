"""Build the attention mask directly from ``attention_mask``.

transformers builds its mask by indexing: positions are spread into (batch, 1, query, key) coordinates and the exporter
writes that as ``GatherND`` over ranges, some sixteen nodes that no engine fuses. For a bidirectional encoder all of it
equals::

    mask[b, h, q, k] = attention_mask[b, k] != 0        Expand(Unsqueeze(Cast(attention_mask, bool), axes=[1, 2]))

Where attention is causal, or sees the neighbors of a token alone, it equals that and a band::

    ... and k - q <= ahead and q - k <= behind          And(mask, the band by the positions of query and key)

(The operator's text allows a mask of (batch, 1, 1, sequence); ONNX Runtime 1.31 wants the query axis spelled out.)
MPNet, which has no ``Attention`` operator, chooses between 0 and the lowest number by the same mask.

Whether it does is not guessed from the shape of the subgraph but computed: the subgraph is cut out and evaluated on
masks with padding on either side, holes and the longest sequence (a sliding window only shows there). The band is read
from a sequence without padding. Where the mask differs anywhere, it stays as it was exported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from exporter.graph.surgery import add_constant, graph_input, make_node

TRIALS = ((1, 1), (1, 5), (3, 17), (2, 64))
LONGEST_TRIAL = 2048  # tokens: the evaluation grows with the square


@dataclass(frozen=True)
class Band:
    """Which keys a query sees.

    Attributes:
        ahead: How many tokens after its own; None for all.
        behind: How many tokens before its own; None for all.
    """

    ahead: int | None
    behind: int | None

    def allowed(self, width: int) -> npt.NDArray[np.bool_]:
        """Return (query, key) for a sequence of ``width`` tokens."""
        apart = np.arange(width)[None, :] - np.arange(width)[:, None]
        seen = np.ones((width, width), dtype=bool)
        if self.ahead is not None:
            seen &= apart <= self.ahead
        if self.behind is not None:
            seen &= apart >= -self.behind
        return seen


EVERYTHING = Band(None, None)


def direct_mask(model: ir.Model) -> int:
    """Replace the mask of every attention where it is padding, with or without a band; returns how many were."""
    attention_mask = graph_input(model.graph, "attention_mask")
    longest = _longest_trial(model)
    written: dict[Band, ir.Value] = {}
    bands: dict[ir.Value, Band | None] = {}
    count = 0
    for node in list(model.graph):
        index = _mask_input(node)
        mask = node.inputs[index] if index is not None else None
        if index is None or mask is None or mask.dtype != ir.DataType.BOOL:
            continue
        if mask not in bands:
            bands[mask] = _band_of(model, mask, longest)
        band = bands[mask]
        if band is None:
            continue
        if EVERYTHING not in written:
            written[EVERYTHING] = _insert(model, attention_mask)
        if band not in written:
            written[band] = _insert_band(model, written[EVERYTHING], band, len(written))
        node.replace_input_with(index, written[band])
        count += 1
    return count


def _mask_input(node: ir.Node) -> int | None:
    """Return which input of a node may be an attention mask; None for other nodes.

    That is an input of ``Attention``, or what chooses between numbers that are added to scores (MPNet, T5).
    """
    if node.op_type == "Attention" and len(node.inputs) > 3:
        return 3
    stored = [value.const_value if value is not None else None for value in node.inputs[1:]]
    is_choice = node.op_type == "Where" and all(number is not None and number.size == 1 for number in stored)
    return 0 if is_choice or _is_bias(node) else None


def _is_bias(node: ir.Node) -> bool:
    """Whether a node chooses what every ``Attention`` that reads it adds to the scores."""
    readers = list(node.outputs[0].consumers())
    return (
        node.op_type == "Where"
        and len(readers) > 0
        and all(reader.op_type == "Attention" and reader.inputs.index(node.outputs[0]) == 3 for reader in readers)
    )


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


def _insert_band(model: ir.Model, padding: ir.Value, band: Band, number: int) -> ir.Value:
    """Write a band over the mask of padding, (batch, 1, sequence, sequence) bool, and return both together."""
    name = "mask/band" if number == 1 else f"mask/band.{number}"
    integer, boolean = ir.DataType.INT64, ir.DataType.BOOL
    length = next(node for node in model.graph if node.name == "mask/Shape").outputs[0]
    zero, one = (add_constant(model, f"{name}/{word}", np.array(n, np.int64)) for n, word in enumerate(("zero", "one")))
    inside = add_constant(model, f"{name}/axes", np.array([0, 1, 2], dtype=np.int64))
    above = add_constant(model, f"{name}/axes.key", np.array([0, 1, 3], dtype=np.int64))
    batch, _, sequence, _ = padding.shape or (None, None, None, None)
    scalar = make_node("Squeeze", [length], f"{name}/Squeeze", integer, [])
    places = make_node("Range", [zero, scalar.outputs[0], one], f"{name}/Range", integer, [sequence])
    key = make_node("Unsqueeze", [places.outputs[0], inside], f"{name}/Unsqueeze.key", integer, [1, 1, 1, sequence])
    query = make_node("Unsqueeze", [places.outputs[0], above], f"{name}/Unsqueeze.query", integer, [1, 1, sequence, 1])
    square = [1, 1, sequence, sequence]
    apart = make_node("Sub", [key.outputs[0], query.outputs[0]], f"{name}/Sub", integer, square)
    nodes, masks = [scalar, places, key, query, apart], [padding]
    for operator, limit in (("LessOrEqual", band.ahead), ("GreaterOrEqual", band.behind)):
        if limit is not None:
            signed = limit if operator == "LessOrEqual" else -limit
            stored = add_constant(model, f"{name}/{operator}.limit", np.array(signed, dtype=np.int64))
            nodes.append(make_node(operator, [apart.outputs[0], stored], f"{name}/{operator}", boolean, square))
            masks.append(nodes[-1].outputs[0])
    whole = [batch, 1, sequence, sequence]
    for index, mask in enumerate(masks[1:]):
        nodes.append(make_node("And", [masks[0], mask], f"{name}/And.{index}", boolean, whole))
        masks[0] = nodes[-1].outputs[0]
    before = next(node for node in model.graph if node.outputs[0] is padding)
    model.graph.insert_after(before, nodes)
    return masks[0]


def _band_of(model: ir.Model, mask: ir.Value, longest: int) -> Band | None:
    """Return the band that the mask behind ``mask`` allows beside padding; None where it is another mask.

    The subgraph is evaluated without padding at the longest sequence, which tells the band, and then on masks.
    """
    evaluator = _cut_out(model, mask, longest)
    if evaluator is None:
        return None
    seen = _evaluated(evaluator, np.ones((1, longest), dtype=np.int64))
    if seen is None:
        return None
    ahead, behind = int(seen[0, 0, 0].sum()) - 1, int(seen[0, 0, -1].sum()) - 1
    band = Band(*(None if reach == longest - 1 else reach for reach in (ahead, behind)))
    rng = np.random.default_rng(0)
    for batch, sequence in (*TRIALS, (1, longest)):
        attention = (rng.random((batch, sequence)) < 0.7).astype(np.int64)
        attention[-1] = batch == 1  # an empty row, where there is another
        computed = _evaluated(evaluator, attention)
        wanted = attention.astype(bool)[:, None, None, :] & band.allowed(sequence)
        if computed is None or not np.array_equal(computed, wanted):
            return None
    return band


def _evaluated(evaluator: ReferenceEvaluator, attention: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_] | None:
    """Return the mask (batch, 1, sequence, sequence) for an ``attention_mask``; None where that is not its shape."""
    batch, sequence = attention.shape
    feeds = dict.fromkeys(evaluator.input_names, attention)
    try:
        (computed,) = evaluator.run(None, feeds)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # an operator it does not know
        return None
    try:
        return np.broadcast_to(computed, (batch, 1, sequence, sequence))
    except ValueError:  # shapes that do not broadcast: per-head masks and the like
        return None


def _cut_out(model: ir.Model, mask: ir.Value, longest: int) -> ReferenceEvaluator | None:
    """Return an evaluator of the nodes behind ``mask``.

    None if they read more of the ids than their shape, or if a number in them may limit what no trial is long enough
    to show.
    """
    graph = ir.convenience.extract(model.graph, model.graph.inputs, [mask])
    if any(reader.op_type != "Shape" for reader in graph_input(graph, "input_ids").consumers()):
        return None
    if any(longest <= abs(number) < _max_sequence(model) for number in _numbers(graph)):
        return None
    return ReferenceEvaluator(ir.to_proto(ir.Model(graph, ir_version=model.ir_version)))


def _numbers(graph: ir.Graph) -> list[float]:
    """Return the single numbers that are stored in a graph."""
    stored = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    stored += [constant.as_tensor() for node in graph if (constant := node.attributes.get("value")) is not None]
    found = [float(tensor.numpy().reshape(())) for tensor in stored if tensor.size == 1]
    return found + [node.attributes.get_int("value_int", 0) for node in graph if node.op_type == "Constant"]


def _longest_trial(model: ir.Model) -> int:
    return min(LONGEST_TRIAL, _max_sequence(model))


def _max_sequence(model: ir.Model) -> int:
    """Return the length that the model was folded for."""
    return int(model.metadata_props.get("max_sequence", "512"))
