"""Store each weight the way it is multiplied.

``torch.nn.Linear`` keeps its weight as (out, in), and where a weight is used more than once the exporter writes
``MatMul(x, Transpose(weight))``. A runtime folds that into a second, transposed copy when it loads. Here::

    MatMul(x, Transpose(W, perm))  ->  MatMul(x, W')        with W' = W permuted, stored once for all its uses

W itself goes when nothing else reads it.
"""

from __future__ import annotations

import onnx_ir as ir

from exporter.graph.surgery import add_constant


def fold_transposes(model: ir.Model) -> int:
    """Replace every transposition of an initializer by a transposed initializer; returns how many were folded."""
    folded: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
    count = 0
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or not source.is_initializer() or source.const_value is None:
            continue
        reverse = range(len(source.const_value.shape))[::-1]
        perm = tuple(node.attributes.get_ints("perm", reverse))
        key = (str(source.name), perm)
        if key not in folded:
            array = source.const_value.numpy().transpose(perm)  # the same memory, read in another order
            folded[key] = add_constant(model, f"{source.name}.transposed", array)
        node.outputs[0].replace_all_uses_with(folded[key], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        count += 1
        if not source.uses():
            model.graph.initializers.pop(str(source.name))
    return count
