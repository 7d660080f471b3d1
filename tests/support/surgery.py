"""Edits of a folded or typed graph, for tests that break one on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir

from exporter.graph.passes import remove_unused
from exporter.graph.surgery import Dimension, add_constant, graph_input, make_node

Change = Callable[[np.ndarray], np.ndarray]

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class Surgery:
    """Adds nodes one after another behind a value.

    They are named as the nodes of pooling are, which stay float32 when the graph is typed.
    """

    def __init__(self, model: ir.Model, behind: ir.Value) -> None:
        self._model = model
        self._last = behind.producer()

    def add(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType | None = None,
        shape: Sequence[Dimension] | ir.Shape | None = None,
        *,
        like: ir.Value | None = None,
        **attributes: int,
    ) -> ir.Value:
        """Add a node whose output has ``dtype`` and ``shape``, or those of ``like``; return the output."""
        if like is not None:
            dtype, shape = like.dtype, like.shape
        assert dtype is not None
        node = make_node(op_type, inputs, f"module.fault/{op_type}.{len(self._model.graph)}", dtype, shape, attributes)
        if self._last is None:
            self._model.graph.insert_before(self._model.graph[0], node)
        else:
            self._model.graph.insert_after(self._last, node)
        self._last = node
        return node.outputs[0]


def constant(model: ir.Model, value: object, dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
    """Add a constant to the graph."""
    return add_constant(model, "fault/constant", np.array(value).astype(dtype.numpy()))


def take_place(old: ir.Value, new: ir.Value) -> None:
    """Let everything that read ``old`` read ``new``, which is not computed from ``old``."""
    name = old.name
    is_output = old.is_graph_output()
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if is_output:
        old.name, new.name = f"{name}.sound", name


def put_behind(model: ir.Model, value: ir.Value, op_type: str, other: ir.Value) -> None:
    """Let everything that read ``value`` read ``op_type(value, other)``, which has the type and shape of ``value``."""
    uses = [(use.node, use.idx) for use in value.uses()]
    is_output = value.is_graph_output()
    new = Surgery(model, value).add(op_type, [value, other], like=value)
    for node, index in uses:
        node.replace_input_with(index, new)
    if is_output:
        become_output(model, new)


def become_output(model: ir.Model, new: ir.Value) -> None:
    """Return ``new`` as the sentence vector."""
    (old,) = model.graph.outputs
    name = old.name
    old.name, new.name = f"{name}.sound", name
    model.graph.outputs[0] = new


def stored_array(value: ir.Value | None) -> np.ndarray:
    """Return the numbers of a stored tensor, which must be there."""
    assert value is not None
    assert value.const_value is not None, value
    return value.const_value.numpy()


def dtype_of(value: ir.Value) -> ir.DataType:
    """Return the type of a value, which must be known."""
    assert value.dtype is not None, value
    return value.dtype


def change_stored(value: ir.Value, change: Change) -> None:
    """Change a stored tensor, for all its readers. It keeps its type; a change that changes nothing is an error."""
    value.const_value = ir.tensor(changed(stored_array(value), change), name=value.name)


def change_weight(model: ir.Model, matmul: ir.Node, change: Change, *, may_vanish: bool = False) -> None:
    """Change the weight of one MatMul, for this MatMul alone. In an int8 graph the integers are changed.

    ``may_vanish`` allows a change that rounding undoes.
    """
    weight = matmul.inputs[1]
    assert weight is not None
    dequantize = weight.producer()
    stored = weight if dequantize is None else dequantize.inputs[0]
    other = add_constant(model, "fault/weight", changed(stored_array(stored), change, may_vanish=may_vanish))
    if dequantize is not None:
        read = [other, *(value for value in dequantize.inputs[1:] if value is not None)]
        node = make_node(
            "DequantizeLinear",
            read,
            f"module.fault/Dequantize.{len(model.graph)}",
            dtype_of(weight),
            weight.shape,
            {"axis": 1},
        )
        model.graph.insert_before(matmul, node)
        other = node.outputs[0]
    matmul.replace_input_with(1, other)


def changed(array: np.ndarray, change: Change, *, may_vanish: bool = False) -> np.ndarray:
    """Return ``change(array)`` in the type of ``array``; int8 is rounded and cut off at its ends."""
    result = change(array.astype(np.float32))
    if array.dtype == np.int8:
        result = np.clip(np.rint(result), -127, 127)
    result = result.astype(array.dtype)
    assert may_vanish or not np.array_equal(result, array), "the fault changed nothing"
    return result


def node_named(model: ir.Model, name: str) -> ir.Node:
    """Return the node of this name."""
    return next(node for node in model.graph if node.name == name)


def attention_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the attention of every layer, in order."""
    return [node for node in model.graph if node.op_type == "Attention"]


def layer_nodes(model: ir.Model, layer: int) -> list[ir.Node]:
    """Return the nodes of one layer."""
    return [node for node in model.graph if str(node.name).startswith((f"layer.{layer}.", f"layer.{layer}/"))]


def layer_products(model: ir.Model, layer: int) -> list[ir.Node]:
    """Return the MatMuls of one layer."""
    return [node for node in layer_nodes(model, layer) if node.op_type == "MatMul"]


def layer_output(model: ir.Model, layer: int) -> ir.Value:
    """Return what a layer hands to the next one, which is what its last LayerNorm computes."""
    norms = [node for node in layer_nodes(model, layer) if node.op_type == "LayerNormalization"]
    return norms[-1].outputs[0]


def module_nodes(model: ir.Model, module: int) -> list[ir.Node]:
    """Return the nodes of a module after the transformer."""
    return [node for node in model.graph if str(node.name).startswith((f"module.{module}.", f"module.{module}/"))]


def table_readers(model: ir.Model, table: str) -> list[ir.Node]:
    """Return the nodes that gather rows of ``"word"`` or ``"position"`` vectors: two in int8, for rows and scales."""
    name = f"embeddings.{table}_embeddings/Gather"
    return [node for node in model.graph if node.op_type == "Gather" and str(node.name).startswith(name)]


# --- whole faults, of a graph in any precision -----------------------------------------------------------------------


def gelu_by_tanh(model: ir.Model) -> None:
    """Compute GELU by its tanh approximation."""
    for node in model.graph:
        if node.op_type == "Gelu":
            node.attributes["approximate"] = ir.AttrString("approximate", "tanh")


def epsilon_enlarged(model: ir.Model) -> None:
    """Give every LayerNorm an epsilon of 1e-3."""
    for node in model.graph:
        if node.op_type == "LayerNormalization":
            node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def weights_through_bf16(model: ir.Model) -> None:
    """Round every weight to bfloat16, and store it in the type it had."""
    for value in model.graph.initializers.values():
        if value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and value.const_value is not None:
            array = value.const_value.numpy()
            value.const_value = ir.tensor(array.astype(ml_dtypes.bfloat16).astype(array.dtype), name=value.name)


def head_zeroed(model: ir.Model, output: ir.Value) -> None:
    """Lose what the first attention head says.

    ``output`` is (batch, heads, sequence, head size), or (batch, sequence, heads x head size) of an ``Attention`` that
    splits the heads itself.
    """
    assert output.shape is not None
    node = output.producer()
    if len(output.shape) == 3:
        assert node is not None
        width = output.shape[2]
        assert isinstance(width, int)
        kept = np.ones((1, 1, width))
        kept[..., : width // node.attributes["q_num_heads"].as_int()] = 0
    else:
        heads = output.shape[1]
        assert isinstance(heads, int)
        kept = np.ones((1, heads, 1, 1))
        kept[0, 0] = 0
    put_behind(model, output, "Mul", constant(model, kept, dtype_of(output)))


def module_dropped(model: ir.Model, index: int) -> None:
    """Leave out a module after the transformer."""
    written, read = (module_nodes(model, module)[-1].outputs[0] for module in (index, index - 1))
    take_place(written, read)
    remove_unused(model)


def output_multiplied(model: ir.Model, factor: float | np.ndarray) -> None:
    """Multiply every vector by a number, or by a vector."""
    (output,) = model.graph.outputs
    put_behind(model, output, "Mul", constant(model, factor, dtype_of(output)))


def rows_repeated(model: ir.Model, first: int) -> None:
    """Answer rows ``first`` and above of a batch with the vector of row 0."""
    (output,) = model.graph.outputs
    zero, one, last = (constant(model, number) for number in (0, 1, first))
    first_axis = constant(model, [0])
    surgery = Surgery(model, output)
    extents = surgery.add("Shape", [output], ir.DataType.INT64, [2])
    count = surgery.add("Gather", [extents, zero], ir.DataType.INT64, [], axis=0)
    rows = surgery.add("Range", [zero, count, one], ir.DataType.INT64, ["batch"])
    low = surgery.add("Less", [rows, last], ir.DataType.BOOL, ["batch"])
    chosen = surgery.add("Where", [low, rows, first_axis], ir.DataType.INT64, ["batch"])
    become_output(model, surgery.add("Gather", [output, chosen], like=output, axis=0))


def negated_at_width(model: ir.Model, number: int) -> None:
    """Negate the vectors of a batch that is padded to ``number`` tokens."""
    _negate_at_extent(model, 1, "Equal", number)


def negated_in_batch_of(model: ir.Model, number: int) -> None:
    """Negate the vectors of a batch of ``number`` rows."""
    _negate_at_extent(model, 0, "Equal", number)


def negated_in_batch_above(model: ir.Model, number: int) -> None:
    """Negate the vectors of a batch of more than ``number`` rows."""
    _negate_at_extent(model, 0, "Greater", number)


def _negate_at_extent(model: ir.Model, axis: int, comparison: str, number: int) -> None:
    (output,) = model.graph.outputs
    ids = graph_input(model.graph, "input_ids")
    place, wanted = constant(model, [axis]), constant(model, [number])
    surgery = Surgery(model, output)
    extents = surgery.add("Shape", [ids], ir.DataType.INT64, [2])
    found = surgery.add("Gather", [extents, place], ir.DataType.INT64, [1], axis=0)
    matches = surgery.add(comparison, [found, wanted], ir.DataType.BOOL, [1])
    _negate(model, surgery, matches, [1])


def negated_where_words_meet(model: ir.Model, *words: int) -> None:
    """Negate the vectors of rows that have each of these token ids."""
    (output,) = model.graph.outputs
    ids = graph_input(model.graph, "input_ids")
    along = constant(model, [1])
    surgery = Surgery(model, output)
    has_all: ir.Value | None = None
    for word in words:
        equal = surgery.add("Equal", [ids, constant(model, word)], ir.DataType.BOOL, ids.shape)
        number = surgery.add("Cast", [equal], ir.DataType.INT64, ids.shape, to=ir.DataType.INT64)
        has = surgery.add("ReduceMax", [number, along], ir.DataType.INT64, ["batch", 1], keepdims=1)
        has_all = has if has_all is None else surgery.add("Mul", [has_all, has], like=has)
    assert has_all is not None
    matches = surgery.add("Cast", [has_all], ir.DataType.BOOL, ["batch", 1], to=ir.DataType.BOOL)
    _negate(model, surgery, matches, ["batch", 1])


def negated_where_word_vectors_meet(model: ir.Model, *words: int) -> None:
    """Negate the vectors of rows that have each of these words, which are told by the sums of their vectors."""
    (output,) = model.graph.outputs
    (reader,) = table_readers(model, "word")
    sums = stored_array(reader.inputs[0]).sum(axis=1, dtype=np.float32)
    last, along = constant(model, [-1]), constant(model, [1])
    surgery = Surgery(model, output)
    tokens: list[Dimension] = ["batch", "sequence"]
    total = surgery.add("ReduceSum", [reader.outputs[0], last], ir.DataType.FLOAT, tokens, keepdims=0)
    has_all: ir.Value | None = None
    for word in words:
        wanted = constant(model, sums[word], ir.DataType.FLOAT)
        distance = surgery.add("Abs", [surgery.add("Sub", [total, wanted], like=total)], like=total)
        near = surgery.add("Less", [distance, constant(model, 1e-4, ir.DataType.FLOAT)], ir.DataType.BOOL, tokens)
        numbers = [constant(model, number, ir.DataType.FLOAT) for number in (1, 0)]
        found = surgery.add("Where", [near, *numbers], like=total)
        has = surgery.add("ReduceMax", [found, along], ir.DataType.FLOAT, ["batch", 1], keepdims=1)
        has_all = has if has_all is None else surgery.add("Mul", [has_all, has], like=has)
    assert has_all is not None
    half = constant(model, 0.5, ir.DataType.FLOAT)
    _negate(model, surgery, surgery.add("Greater", [has_all, half], ir.DataType.BOOL, ["batch", 1]), ["batch", 1])


def _negate(model: ir.Model, surgery: Surgery, matches: ir.Value, shape: list[Dimension]) -> None:
    """Negate the sentence vectors where ``matches``, a boolean of ``shape``, is true."""
    (output,) = model.graph.outputs
    signs = [constant(model, [sign], ir.DataType.FLOAT) for sign in (-1, 1)]
    sign = surgery.add("Where", [matches, *signs], ir.DataType.FLOAT, shape)
    become_output(model, surgery.add("Mul", [output, sign], like=output))
