"""The check: every operator of a graph against the rules, then what depends on the padded width at every width."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from exporter.graph import Graph
from exporter.graph.surgery import graph_input
from exporter.runtime.contract import INPUTS
from exporter.validator.check import Check
from exporter.validator.dataflow.counts import unknown_numbers
from exporter.validator.dataflow.kinds import Kind
from exporter.validator.dataflow.rules import kind_of
from exporter.validator.dataflow.widths import differing_widths

_NAMED = 3  # operators that are named


def check_dataflow(graph: Graph, padding_id: int) -> Check:
    """Look up every operator of a float32 graph in the rules, and compare what depends on the padded width alone.

    Args:
        graph: The folded graph, with or without the passes of a target.
        padding_id: The token id of padding.
    """
    model = _with_inferred_shapes(graph.model)
    kinds, failures = _follow(model, padding_id, graph.max_sequence)
    read = _read_across(model, kinds)
    if not failures:  # what is wrong elsewhere may have no numbers
        for value in _counts_read(model, kinds):
            widths = unknown_numbers(model, value, graph.max_sequence)
            if widths:
                failures.append(
                    f"{value.name}, which depends on the attention mask alone, is no number that a pooling needs at "
                    f"{len(widths)} of {graph.max_sequence} widths: {', '.join(map(str, widths[:3]))}"
                )
        for value in read:
            widths = differing_widths(model, value, graph.max_sequence)
            if widths:
                failures.append(
                    f"{value.name}, which depends on the padded width alone, differs at {len(widths)} of "
                    f"{graph.max_sequence} widths: {', '.join(map(str, widths[:3]))}"
                )
    operators = len(model.graph)
    coverage = f"{operators} operators: rows of a batch are apart, token ids only find word vectors"
    if read:
        coverage += f", {_tensors(len(read))} of positions agree at all {graph.max_sequence} widths"
    if failures:
        coverage = f"{operators} operators"
    named = failures[:_NAMED] + ([f"and {len(failures) - _NAMED} more"] if len(failures) > _NAMED else [])
    figures = {"operators": operators, "position_tensors": len(read), "widths": graph.max_sequence if read else 0}
    return Check("dataflow", coverage, tuple(named), figures)


def _with_inferred_shapes(model: ir.Model) -> ir.Model:
    """Return a copy whose shapes follow from inputs, stored tensors and operators; those it came with may be wrong."""
    copy = model.clone()
    computed = [value for node in copy.graph for value in node.outputs]
    for value in (*copy.graph.initializers.values(), *computed):
        value.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False)(copy)
    return copy


def _follow(model: ir.Model, padding_id: int, longest: int) -> tuple[dict[ir.Value, Kind], list[str]]:
    """Return what each value was computed from, and one sentence per operator that no rule allows."""
    ids, mask = (graph_input(model.graph, name) for name in INPUTS)
    kinds = {ids: Kind.IDS, mask: Kind.MASK}
    kinds |= dict.fromkeys(model.graph.initializers.values(), Kind.STORED)
    failures = []
    tables = 0
    for node in model.graph:
        reads = [Kind.NOTHING if value is None else kinds.get(value, Kind.REFUSED) for value in node.inputs]
        while reads and reads[-1] is Kind.NOTHING:
            reads.pop()
        found = kind_of(node, reads, padding_id, longest)
        if found is None and Kind.REFUSED not in reads:
            seen = " and ".join(dict.fromkeys(kind for kind in reads if kind is not Kind.NOTHING)) or Kind.NOTHING
            failures.append(f"{node.op_type} {node.name} reads {seen}, and no rule allows that")
        kinds |= dict.fromkeys(node.outputs, found or Kind.REFUSED)
        tables += node.op_type == "Gather" and Kind.IDS in reads
    (output,) = model.graph.outputs
    if not failures and kinds.get(output) is not Kind.HIDDEN:
        failures.append(f"the sentence vectors are {kinds.get(output, Kind.NOTHING)}, not computed from hidden states")
    if tables != 1:
        failures.append(f"{_tensors(tables)} looked up by token ids, and one was expected")
    return kinds, failures


def _read_across(model: ir.Model, kinds: dict[ir.Value, Kind]) -> list[ir.Value]:
    """Return what depends on the padded width alone and is read by an operator that reads more than that."""
    found: dict[ir.Value, None] = {}
    for node in model.graph:
        if kinds[node.outputs[0]] is not Kind.POSITION:
            found |= dict.fromkeys(
                value for value in node.inputs if value is not None and kinds.get(value) is Kind.POSITION
            )
    return list(found)


def _counts_read(model: ir.Model, kinds: dict[ir.Value, Kind]) -> list[ir.Value]:
    """Return the numbers from the attention mask that hidden states are computed with."""
    return list(
        dict.fromkeys(
            value
            for node in model.graph
            if kinds[node.outputs[0]] is Kind.HIDDEN
            for value in node.inputs
            if value is not None and kinds.get(value) in (Kind.COUNT, Kind.WEIGHT)
        )
    )


def _tensors(count: int) -> str:
    return f"{count} tensor" if count == 1 else f"{count} tensors"
