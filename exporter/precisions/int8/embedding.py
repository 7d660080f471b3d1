"""Tables of word and position vectors in int8, one scale per row: with a large vocabulary they are most of the file.

::

    Gather(W, ids)  ->  Cast(Gather(W', ids)) * Gather(s, ids) + m      W'[i] = round((W[i] - m) / s[i])

with ``m`` the mean row and ``s[i] = max|W[i] - m| / 127``. What all words share is often larger than what tells them
apart, and ``m`` takes it out of every row's range. The cast comes after the gather, so a runtime has nothing
constant to fold back into float32, and reads the rows it needs and no more.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.passes import remove_unused
from exporter.graph.surgery import add_constant, input_of, make_node

FEWEST_ROWS = 256  # below, the scales and four nodes are not worth it
_ROWS = 4096  # at a time


def quantize_tables(model: ir.Model) -> int:
    """Store every large table of row vectors that is only gathered from in int8; returns how many."""
    count = 0
    for node in list(model.graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or table.const_value is None or table.dtype != ir.DataType.FLOAT or len(table.uses()) > 1:
            continue
        array = table.const_value.numpy()
        if array.ndim != 2 or len(array) < FEWEST_ROWS or node.attributes.get_int("axis", 0) != 0:
            continue
        _replace(model, node, array)
        count += 1
    remove_unused(model)
    return count


def _replace(model: ir.Model, node: ir.Node, table: np.ndarray) -> None:
    mean = table.mean(axis=0)
    scales = np.empty((len(table), 1), np.float32)
    values = np.empty(table.shape, np.int8)
    for start in range(0, len(table), _ROWS):  # a large table four times over in float32 would be most of the memory
        block = slice(start, start + _ROWS)
        rest = table[block] - mean
        scales[block] = np.maximum(np.abs(rest).max(axis=1, keepdims=True), 1e-12) / 127
        values[block] = np.clip(np.rint(rest / scales[block]), -127, 127)
    name, ids, output = str(node.name), input_of(node, 1), node.outputs[0]
    if output.shape is None:
        raise ValueError(f"{name}: a Gather without a shape")
    shape = list(output.shape)
    rows = add_constant(model, f"{input_of(node).name}.int8", values)
    factors = add_constant(model, f"{rows.name}.scales", scales)
    gathered = make_node("Gather", [rows, ids], f"{name}.rows", ir.DataType.INT8, shape, {"axis": 0})
    factor = make_node("Gather", [factors, ids], f"{name}.scales", ir.DataType.FLOAT, [*shape[:-1], 1], {"axis": 0})
    cast = make_node("Cast", [gathered.outputs[0]], f"{name}/Cast", ir.DataType.FLOAT, shape, {"to": ir.DataType.FLOAT})
    product = make_node("Mul", [cast.outputs[0], factor.outputs[0]], f"{name}/Mul", ir.DataType.FLOAT, shape)
    shared = add_constant(model, f"{rows.name}.mean", mean.astype(np.float32))
    total = make_node("Add", [product.outputs[0], shared], f"{name}/Add", ir.DataType.FLOAT, shape)
    model.graph.insert_before(node, [gathered, factor, cast, product, total])
    output.replace_all_uses_with(total.outputs[0], replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
