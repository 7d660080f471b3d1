"""Lower a graph to an older operator set, for an older ONNX Runtime: what is rewritten, and what is refused.

Every pass of ``LOWERING`` writes one kind of operator in operators that older sets have. ``state_opset`` is the last
one: it refuses an operator that the set does not have in the form in which the graph uses it, and states the set and
the lowest version of the file format that goes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import onnx
import onnx_ir as ir

from exporter.errors import BuildError
from exporter.graph.passes.axes_as_attributes import axes_as_attributes
from exporter.graph.passes.decompose_attention import decompose_attention
from exporter.graph.passes.decompose_gelu import decompose_gelu
from exporter.graph.passes.decompose_rms_normalization import decompose_rms_normalization
from exporter.graph.passes.decompose_rotary_embedding import decompose_rotary_embedding
from exporter.graph.passes.narrow_argmax import narrow_argmax
from exporter.graph.passes.reduce_bool_as_int32 import reduce_bool_as_int32
from exporter.graph.passes.remove_split_count import remove_split_count
from exporter.targets import FOLDED_OPSET, OLDEST_OPSET

Pass = Callable[[ir.Model], int]

# The operator set that has what the pass rewrites, or whose ONNX Runtime has a kernel for it.
# RMSNormalization is written with a reduction, whose axes move last.
LOWERING: tuple[tuple[int, Pass], ...] = (
    (23, decompose_attention),
    (23, decompose_rotary_embedding),
    (23, decompose_rms_normalization),
    (23, narrow_argmax),
    (20, decompose_gelu),
    (20, reduce_bool_as_int32),
    (18, remove_split_count),
    (18, axes_as_attributes),
)


def passes_to_lower(opset: int) -> tuple[Pass, ...]:
    """Return the passes that lower a graph to an operator set; none for the one that graphs are folded in.

    Raises:
        ValueError: No graph is lowered to this set.
    """
    if opset == FOLDED_OPSET:
        return ()
    if not OLDEST_OPSET <= opset < FOLDED_OPSET:
        raise ValueError(f"no graph is lowered to opset {opset}")
    return (*(rewrite for since, rewrite in LOWERING if opset < since), state_opset(opset))


@cache
def state_opset(opset: int) -> Pass:
    """Return the pass that states an operator set. The same one each time: passes are compared.

    The pass raises ``BuildError`` for an operator that the set does not have, or not in the form that is used.
    """

    def state(model: ir.Model) -> int:
        for node in model.graph:
            if not node.domain and not _has(opset, node):
                raise _refusal(node, opset)
        model.graph.opset_imports[""] = opset
        lowest: int = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
        model.ir_version = min(model.ir_version, lowest)
        return 1

    state.__name__ = f"opset_{opset}"
    return state


def _has(opset: int, node: ir.Node) -> bool:
    """Whether an operator set has an operator with the attributes, the inputs and the types of a node."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return False
    inputs = [*node.inputs]
    while inputs and inputs[-1] is None:
        inputs.pop()
    return (
        not schema.deprecated
        and node.attributes.keys() <= schema.attributes.keys()
        and schema.min_input <= len(inputs) <= schema.max_input
        and schema.min_output <= len(node.outputs) <= schema.max_output
        and all(_takes(schema.inputs, index, value) for index, value in enumerate(inputs))
        and all(_takes(schema.outputs, index, value) for index, value in enumerate(node.outputs))
    )


def _takes(parameters: list[onnx.defs.OpSchema.FormalParameter], index: int, value: ir.Value | None) -> bool:
    """Whether an operator may have a value, of the type that it has, as an input or an output."""
    if value is None or value.dtype is None:
        return True
    parameter = parameters[min(index, len(parameters) - 1)]  # the last one may stand for several
    return f"tensor({value.dtype.name.lower()})" in parameter.types


def _refusal(node: ir.Node, opset: int) -> BuildError:
    higher = range(opset + 1, onnx.defs.onnx_opset_version() + 1)
    enough = next((one for one in higher if _has(one, node)), FOLDED_OPSET)
    advice = f"give `opset={enough}`" if enough < FOLDED_OPSET else "leave `opset` out"
    return BuildError(
        f"the graph cannot be lowered to opset {opset}: {node.op_type} ({node.name}) needs opset {enough}",
        next_step=f"{advice}, and run the bundle on an ONNX Runtime that has it",
    )
