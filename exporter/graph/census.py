"""Census: which operators compute a sentence vector, from the vectors of its words on.

Passes rewrite masks, positions and stored tensors. What is computed from word vectors is what torch traced, and stays:
a pass that adds an operator there, or takes one away, is wrong, or ``REWRITTEN`` or ``_with_heads_outside`` knows it.
So the fold counts the operators before its first pass, and a check counts them again in the graph that it judges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from exporter.graph.surgery import graph_input

REWRITTEN: Mapping[str, Mapping[str, int]] = {
    "Attention": {"Mul": 1, "Transpose": 1, "MatMul": 2, "Add": 1, "Softmax": 1},  # decompose_attention
    "GatherElements": {"Gather": 1},  # first_token
    "Gelu": {"Div": 1, "Erf": 1, "Add": 1, "Mul": 2},  # decompose_gelu
    "Gelu approximate=tanh": {"Mul": 6, "Add": 2, "Tanh": 1},
    # decompose_rms_normalization, decompose_rotary_embedding
    "RMSNormalization": {"Mul": 2, "ReduceMean": 1, "Add": 1, "Sqrt": 1, "Div": 1},
    "RotaryEmbedding": {"Slice": 2, "Mul": 4, "Sub": 1, "Add": 1, "Concat": 1},
}
"""What a pass for a target writes for an operator on hidden states: operators and how many of each.

The operator is named by its type, or by its whole description where its attributes decide what is written.
"""
HEADS_INSIDE = ("kv_num_heads", "q_num_heads")
"""Attributes that ``split_heads_inside`` writes: how many heads an ``Attention`` splits by itself."""
_HEAD_SWAP, _HEAD_SWAPS = "Transpose perm=(0, 2, 1, 3)", 4  # queries, keys, values and answers: removed by that pass
_SMALL = 8  # numbers that a stored tensor may have to be part of an operator's description


def operators_on_words(graph: ir.Graph) -> Counter[str]:
    """Return how many operators of each description a graph computes from word vectors.

    A description is the operator's type, its attributes and its small stored inputs.

    Args:
        graph: A float32 graph with the input ``input_ids`` and one output.
    """
    needed = _needed(graph)
    ids = {graph_input(graph, "input_ids")}
    words: set[ir.Value] = set()
    found: Counter[str] = Counter()
    for node in graph:
        read = {value for value in node.inputs if value is not None}
        if node.op_type == "Reshape" and node.inputs[0] in ids:
            ids.add(node.outputs[0])
        elif node.op_type == "Gather" and node.inputs[1] in ids:
            words.add(node.outputs[0])
        elif read & words and node.op_type != "Shape":
            words.update(node.outputs)
            found[_description(node)] += node in needed
    return +found


def differences(traced: Mapping[str, int], graph: ir.Graph) -> list[str]:
    """Return one sentence for each operator on word vectors that a trace and a graph do not have in common.

    What passes for a target rewrite is allowed.

    Args:
        traced: From ``operators_on_words``, before the first pass.
        graph: The graph after all passes.
    """
    before, after = Counter(traced), operators_on_words(graph)
    after = _with_heads_outside(before, after)
    added, removed = after - before, before - after
    allowed: Counter[str] = Counter()
    for description in list(removed):
        rewritten = REWRITTEN.get(description, REWRITTEN.get(_operator(description)))
        if rewritten is not None:
            count = removed.pop(description)
            allowed.update({written: each * count for written, each in rewritten.items()})
    kinds: Counter[str] = Counter()
    for description, count in added.items():
        kinds[_operator(description)] += count
    unexplained = {operator for operator in kinds.keys() | allowed.keys() if kinds[operator] != allowed[operator]}
    failures = [
        f"{count} more {description} than torch traced"
        for description, count in sorted(added.items())
        if _operator(description) in unexplained
    ]
    failures += [f"{count} fewer {description} than torch traced" for description, count in sorted(removed.items())]
    failures += [
        f"{allowed[operator]} {operator} were to be written by passes and are not there"
        for operator in sorted(unexplained)
        if not kinds[operator]
    ]
    return failures


def _with_heads_outside(before: Counter[str], after: Counter[str]) -> Counter[str]:
    """Return the operators ``after`` as they were before ``split_heads_inside``, where it has taken what it may."""
    words = {description: description.split(" ") for description in after - before}
    inside = {d: w for d, w in words.items() if w[0] == "Attention" and any(x.startswith(HEADS_INSIDE) for x in w)}
    if not inside:
        return after
    found = +after
    for description, own in inside.items():
        plain = " ".join(word for word in own if not word.startswith(HEADS_INSIDE))
        found[plain] += found.pop(description)
    swaps = _HEAD_SWAPS * sum(after[description] for description in inside)
    reshapes = Counter({d: count for d, count in (before - after).items() if _operator(d) == "Reshape"})
    if reshapes.total() == swaps:  # whatever shape they were given: a Reshape moves no number
        found += reshapes
    found[_HEAD_SWAP] += swaps
    return found


def _needed(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that the output is computed from."""
    needed: set[ir.Node] = set()
    frontier = [value.producer() for value in graph.outputs]
    while frontier:
        node = frontier.pop()
        if node is not None and node not in needed:
            needed.add(node)
            frontier.extend(value.producer() for value in node.inputs if value is not None)
    return needed


def _description(node: ir.Node) -> str:
    stated = dict(sorted(node.attributes.items()))
    # An attribute below opset 18, and an input from there on: axes_as_attributes changes nothing else.
    axes = stated.pop("axes", None)
    if axes is not None or len(node.inputs) > 1:
        stated.pop("noop_with_empty_axes", None)
    stated.pop("num_outputs", None)  # remove_split_count removes it; what a Split has is counted instead
    attributes = [f"{name}={attribute.value}" for name, attribute in stated.items()]
    attributes += [f"outputs={len(node.outputs)}"] if node.op_type == "Split" else []
    small = [
        str(value.const_value.numpy().tolist())
        for value in node.inputs
        if value is not None and value.const_value is not None and value.const_value.size <= _SMALL
    ]
    small += [] if axes is None else [str(list(axes.value))]
    return " ".join([node.op_type, *attributes, *small])


def _operator(description: str) -> str:
    return description.partition(" ")[0]
