"""Fold the token types, which are zero for single sentences, into one constant row.

::

    Add(e, Gather(T, Expand(0, shape)))  ->  Add(e, T[0])        T is the table of token types (types, width)

The sum is the same number for number: every token gathered the same row.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.graph.surgery import add_constant, chain_above


def fold_token_types(model: ir.Model) -> int:
    """Replace gathers by a constant index from a constant table; returns how many were replaced.

    A gather by anything but one expanded scalar, along another axis than the first, or that anything reads but a sum
    with a (batch, sequence, width) value, is left alone.
    """
    count = 0
    for node in list(model.graph):
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            continue
        table, index = node.inputs[0], _expanded_scalar(node.inputs[1])
        if table is None or index is None or not table.is_initializer() or table.const_value is None:
            continue
        if not all(_adds_to_three_axes(user, node.outputs[0]) for user in node.outputs[0].consumers()):
            continue
        row = np.ascontiguousarray(table.const_value.numpy()[index])
        node.outputs[0].replace_all_uses_with(add_constant(model, f"{table.name}.row{index}", row))
        model.graph.remove(node, safe=True)
        count += 1
    return count


def _adds_to_three_axes(user: ir.Node, value: ir.Value) -> bool:
    """Whether ``user`` is a sum whose other term has all three axes, so that a row broadcasts to the same result."""
    others = [term for term in user.inputs if term is not None and term is not value]
    return user.op_type == "Add" and len(others) == 1 and others[0].shape is not None and len(others[0].shape) == 3


def _expanded_scalar(value: ir.Value | None) -> int | None:
    """Return the integer that ``value`` holds everywhere, or None where it is not one expanded constant."""
    chain = chain_above(value, "Expand")
    source = chain[0].inputs[0] if chain is not None else None
    if source is None or source.const_value is None or source.const_value.size != 1:
        return None
    return int(source.const_value.numpy().reshape(()))
