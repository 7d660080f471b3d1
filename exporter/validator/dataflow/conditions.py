"""Conditions: what must hold of a node besides what it reads, and the shapes that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Condition = Callable[[ir.Node], bool]

INSIDE = (1, 2, 3, -1)
"""Every axis but the batch's. The last one is never the batch: no tensor with a batch has a single axis."""
TOKENS = (1,)
"""The axis of the tokens."""

_SMALLEST_DIVISOR = 1e-6  # below every count and norm
_LOWEST_END = -(2**31)  # below every position: a slice that ends there, backwards, leaves no token out
_MASKED = -1e30  # beyond every score: in float32, softmax gives exactly 0 for a key with this one
_HEAD_AXES = 4  # batch, head, token and size; or query and key of a mask: ONNX reads one of two axes so
_CACHE_AXES = 3  # batch, token and half of the size
_EXACT = (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE)


def rank_of(value: ir.Value | None) -> int | None:
    """Return the number of axes of a value, None where it is not known."""
    return None if value is None or value.shape is None else len(value.shape)


def length_of(value: ir.Value | None) -> int | None:
    """Return how many numbers a list has, None where it is not known."""
    if value is None or value.shape is None or len(value.shape) != 1:
        return None
    (length,) = value.shape
    return length if isinstance(length, int) else None


def stored_numbers(node: ir.Node, index: int) -> npt.NDArray[Any] | None:
    """Return the numbers of an input that is a stored tensor; None for any other."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def always(_: ir.Node) -> bool:
    """Whether nothing else must hold: yes."""
    return True


def stored_are(index: int, wanted: int) -> Condition:
    """Whether all numbers of a stored input are ``wanted``."""

    def condition(node: ir.Node) -> bool:
        numbers = stored_numbers(node, index)
        return numbers is not None and bool(np.all(numbers == wanted))

    return condition


def axis(*allowed: int, default: int = 0) -> Condition:
    """Whether the attribute ``axis`` is one of these."""

    def condition(node: ir.Node) -> bool:
        return node.attributes.get_int("axis", default) in allowed

    return condition


def axes(*allowed: int) -> Condition:
    """Whether the axes, a stored second input or below opset 18 an attribute, are among these."""

    def condition(node: ir.Node) -> bool:
        stated = node.attributes.get_ints("axes", ())
        numbers = np.array(stated) if stated else stored_numbers(node, 1)
        return numbers is not None and numbers.size > 0 and bool(np.isin(numbers, allowed).all())

    return condition


def keeps_rows(node: ir.Node) -> bool:
    """Whether a ``Transpose`` leaves the first axis where it is."""
    order = node.attributes.get_ints("perm", ())
    return len(order) > 0 and order[0] == 0


def one_row_each(node: ir.Node) -> bool:
    """Whether a ``Reshape`` by stored numbers keeps the first axis: of its size, or of what is left."""
    numbers = stored_numbers(node, 1)
    return (
        numbers is not None
        and numbers.ndim == 1
        and numbers.size > 0
        and bool(numbers[0] == -1)
        and bool(np.all(numbers[1:] == 1))
    )


def scalars(*indices: int) -> Condition:
    """Whether these inputs are single stored numbers, where they are given."""

    def condition(node: ir.Node) -> bool:
        given = (index for index in indices if node.inputs[index] is not None)
        return all((found := stored_numbers(node, index)) is not None and found.size == 1 for index in given)

    return condition


def masks_out(index: int) -> Condition:
    """Whether a stored input is one number that is below every score: -30 is not, for a text with lower scores."""

    def condition(node: ir.Node) -> bool:
        numbers = stored_numbers(node, index)
        return numbers is not None and numbers.size == 1 and bool(np.all(numbers <= _MASKED))

    return condition


def reverses_tokens(node: ir.Node) -> bool:
    """Whether a ``Slice`` reverses the order of the tokens, as pooling by the last token does."""
    ends = stored_numbers(node, 2)
    wanted = {1: -1, 3: 1, 4: -1}  # starts, axes, steps
    return (
        ends is not None
        and bool(np.all(ends <= _LOWEST_END))
        and all(stored_are(index, number)(node) for index, number in wanted.items())
    )


def inside(index: int) -> Condition:
    """Whether the axes that a stored input names are not the first of the tensor that is cut or squeezed."""

    def condition(node: ir.Node) -> bool:
        numbers, rank = stored_numbers(node, index), rank_of(node.inputs[0])
        return numbers is not None and numbers.size > 0 and bool(rank) and bool(np.all(numbers % rank > 0))

    return condition


def splits_inside(node: ir.Node) -> bool:
    """Whether a ``Split`` parts an axis that is not the first."""
    rank = rank_of(node.inputs[0])
    return rank is not None and node.attributes.get_int("axis", 0) % rank > 0


def keeps_divisor_finite(node: ir.Node) -> bool:
    """Whether the lower bound of a ``Clip`` is below every count and norm."""
    numbers = stored_numbers(node, 1)
    return numbers is not None and bool(np.all(numbers <= _SMALLEST_DIVISOR))


def rows_of_the_left(node: ir.Node) -> bool:
    """Whether a ``Gemm`` gives one row for each row of its first input."""
    return node.attributes.get_int("transA", 0) == 0


def has_all_axes(node: ir.Node) -> bool:
    """Whether the mask of an ``Attention`` has the axes batch, head, query and key."""
    return rank_of(node.inputs[3]) == _HEAD_AXES


def has_heads(node: ir.Node) -> bool:
    """Whether the output has the axes batch, head, token and size."""
    return rank_of(node.outputs[0]) == _HEAD_AXES


def rotates_each_row(node: ir.Node) -> bool:
    """Whether a ``RotaryEmbedding`` has queries or keys by head, and cosines and sines for every row and token."""
    head_axes = {rank_of(node.inputs[0]), rank_of(node.outputs[0])}
    return head_axes == {_HEAD_AXES} and all(rank_of(cache) == _CACHE_AXES for cache in node.inputs[1:3])


def begins_the_shape(node: ir.Node) -> bool:
    """Whether an ``Expand`` has as many axes as its shape has numbers: then the first of them is the first axis."""
    numbers = length_of(node.inputs[1])
    return numbers is not None and rank_of(node.outputs[0]) == numbers


def counts_exactly(node: ir.Node) -> bool:
    """Whether a ``Cast`` keeps whole numbers as large as a sequence."""
    return node.attributes.get_int("to", 0) in _EXACT


def is_truth(node: ir.Node) -> bool:
    """Whether a ``Cast`` asks what is not 0."""
    return node.attributes.get_int("to", 0) == ir.DataType.BOOL


def is_float(node: ir.Node) -> bool:
    """Whether a ``Cast`` gives float32 or float64."""
    return node.attributes.get_int("to", 0) in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
