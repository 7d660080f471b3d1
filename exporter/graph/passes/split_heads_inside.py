"""Let attention split the heads, and spare the transposes around it.

The exporter writes the split of queries, keys and values into heads, and the way back, as nodes of the graph. The ONNX
operator takes rows of tokens as well, and is told how many heads there are::

    Attention(T(R(q)), T(R(k)), T(R(v)))  ->  Attention<q_num_heads, kv_num_heads>(q, k, v)
    R'(T(...))                            ->  ...

where ``R`` reshapes (batch, sequence, heads x size) to (batch, sequence, heads, size), ``T`` swaps the two axes in the
middle, and ``R'`` undoes ``R``. ONNX Runtime's Flash Attention reads the tokens in this order: with heads first it
transposes once more inside.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph.surgery import chain_above

_SWAP = (0, 2, 1, 3)


def split_heads_inside(model: ir.Model) -> int:
    """Give every ``Attention`` whose heads are split and joined by nodes its rows of tokens; returns how many."""
    count = 0
    for node in model.graph:
        if node.op_type != "Attention" or len(node.outputs) != 1 or any(v is not None for v in node.inputs[4:6]):
            continue
        split = [_split(value) for value in node.inputs[:3]]
        joined = _joined(node)
        if joined is None or None in split:
            continue
        (_, heads), (_, kv_heads), (_, value_heads) = found = [pair for pair in split if pair is not None]
        if kv_heads != value_heads:
            continue
        for index, (rows, _) in enumerate(found):
            node.replace_input_with(index, rows)
        node.attributes["q_num_heads"] = ir.AttrInt64("q_num_heads", heads)
        node.attributes["kv_num_heads"] = ir.AttrInt64("kv_num_heads", kv_heads)
        node.outputs[0].shape = joined.shape
        joined.replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
        count += 1
    return count


def _split(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """Return the rows of tokens that a value has split into heads, and how many heads; None if it is something else."""
    chain = chain_above(value, "Transpose", "Reshape")
    if chain is None or tuple(chain[0].attributes.get_ints("perm", ())) != _SWAP:
        return None
    rows, heads = chain[1].inputs[0], chain[1].outputs[0].shape
    if rows is None or rows.shape is None or heads is None or (len(rows.shape), len(heads)) != (3, 4):
        return None
    number = heads[2]
    return (rows, number) if isinstance(number, int) and _is_split(rows.shape, heads) else None


def _joined(node: ir.Node) -> ir.Value | None:
    """Return the rows of tokens that the answer of an attention is joined into, and nothing else reads; or None."""
    value = node.outputs[0]
    for op_type in ("Transpose", "Reshape"):
        readers = list(value.consumers())
        if len(readers) != 1 or readers[0].op_type != op_type or value.is_graph_output():
            return None
        if op_type == "Transpose" and tuple(readers[0].attributes.get_ints("perm", ())) != _SWAP:
            return None
        heads, value = value, readers[0].outputs[0]
    if heads.shape is None or value.shape is None or (len(heads.shape), len(value.shape)) != (4, 3):
        return None
    return value if _is_split(value.shape, heads.shape) else None


def _is_split(rows: ir.Shape, heads: ir.Shape) -> bool:
    """Whether (batch, sequence, heads, size) are the same tokens as (batch, sequence, heads x size)."""
    width, number, size = rows[2], heads[2], heads[3]
    whole = isinstance(number, int) and isinstance(size, int) and width == number * size
    return whole and rows[:2] == heads[:2]
