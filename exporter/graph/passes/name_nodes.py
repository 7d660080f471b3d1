"""Name nodes and weights after the modules they come from.

``torch.onnx`` calls a node ``node_MatMul_101`` and keeps the module path in metadata, together with stack traces that
hold paths of the machine it ran on. This pass turns ``st.0.model.encoder.layer.3.attention.output.dense`` into the node
name ``layer.3.attention.output.dense/MatMul`` and drops the metadata, so reports can name modules and the same
checkpoint gives the same bytes anywhere.

ALBERT uses one layer several times; its uses are told apart by their order (``layer.0`` to ``layer.5``), because
precision is decided per use.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict

import onnx_ir as ir
from onnx_ir.convenience import create_value_mapping
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

SCOPES = "pkg.torch.onnx.name_scopes"
HEAD = "module."  # how nodes begin that follow the transformer
_LAYER = re.compile(
    r"(?:^|.*?\.)(?:layers?|block|albert_layer_groups\.(?P<group>\d+)\.albert_layers)\.(?P<layer>\d+)(?=\.|$)"
)


def name_nodes(model: ir.Model) -> int:
    """Rename every node and initializer of a freshly exported model; returns how many nodes were renamed."""
    groups: defaultdict[tuple[str, str], list[ir.Node]] = defaultdict(list)
    for node in model.graph:
        groups[_scope(node), node.op_type].append(node)
    uses = _uses_of_shared_layers(model)
    taken: Counter[str] = Counter()
    for (scope, op_type), nodes in groups.items():
        shared = next((prefix for prefix in uses if scope.startswith(prefix)), None)
        per_use = max(1, len(nodes) // uses[shared]) if shared else len(nodes)
        for index, node in enumerate(nodes):
            use, position = divmod(index, per_use)
            module = _short(scope, use if shared else None)
            name = f"{module}/{op_type}" + (f".{position}" if per_use > 1 else "")
            taken[name] += 1
            node.name = name if taken[name] == 1 else f"{name}#{taken[name]}"
    for name, value in list(model.graph.initializers.items()):
        short = _without_wrapper(name)
        if short not in model.graph.initializers:
            value.name = short
    _name_values(model)
    _drop_metadata(model)
    return sum(len(nodes) for nodes in groups.values())


def _name_values(model: ir.Model) -> None:
    """Call each edge after the node it comes from: the exporter's ``val_61`` says nothing in a report."""
    outputs = set(model.graph.outputs)
    for node in model.graph:
        for index, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = f"{node.name}:{index}" if index else f"{node.name}:"


def _drop_metadata(model: ir.Model) -> None:
    """Drop stack traces and the like: they hold paths of the machine that exported."""
    ClearMetadataAndDocStringPass()(model)
    values = create_value_mapping(model.graph, include_subgraphs=False).values()
    holders: list[ir.Model | ir.Value] = [model, *values]  # which the pass leaves out
    for holder in holders:
        holder.metadata_props.clear()
        holder.doc_string = None


def _scope(node: ir.Node) -> str:
    """Return the path of the innermost module a node comes from, without its own name."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "['']"))
    modules = scopes[:-1] or [""]
    return "" if modules[-1].startswith("_") else _without_wrapper(modules[-1])


def _without_wrapper(path: str) -> str:
    """Drop what folding put around the transformer: ``st.0.model.encoder`` -> ``encoder``, ``st.1`` -> ``module.1``."""
    return re.sub(r"^st\.(\d+)", r"module.\1", re.sub(r"^st\.0(\.model)?(\.|$)", "", path))


def _uses_of_shared_layers(model: ir.Model) -> dict[str, int]:
    """Return how often each layer that holds an attention is used, for those used more than once."""
    attention = Counter(_scope(node) for node in model.graph if node.op_type in {"Attention", "Softmax"})
    return {scope.rsplit(".attention", 1)[0]: count for scope, count in attention.items() if count > 1}


def _short(scope: str, use: int | None) -> str:
    match = _LAYER.match(scope)
    if match is None:
        return scope or "inputs"
    number = match["layer"] if use is None else str(use)
    group = (match["group"] or "0", match["layer"]) if match["group"] is not None else ("0", "0")
    # ALBERT with several groups, or several layers in one: each is used by turns.
    where = f"layer.{number}" if group == ("0", "0") else f"group.{group[0]}.{group[1]}.use.{number}"
    return f"{where}{scope[match.end() :]}"
