"""The check compares every operator of a graph with the rules, with torch's trace, and at every padded width."""

from __future__ import annotations

from collections.abc import Callable, Set

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from exporter.graph import Graph
from exporter.graph.census import HEADS_INSIDE, differences
from exporter.graph.surgery import graph_input
from exporter.runtime.contract import INPUTS
from exporter.validator.check import Check
from exporter.validator.dataflow.counts import unknown_numbers
from exporter.validator.dataflow.kinds import Kind
from exporter.validator.dataflow.rules import kind_of
from exporter.validator.dataflow.widths import Compared, differing_widths

_NAMED = 3  # operators that are named


def check_dataflow(graph: Graph, padding_id: int, heads: int) -> Check:
    """Compare every operator of a float32 graph with the rules of what it may read.

    The operators on word vectors must also be those that torch traced. What depends on the padded width alone is
    computed at every width; for thousands of tokens at every n-th, and the coverage says at how many.

    Args:
        graph: The folded graph, with or without the passes of a target.
        padding_id: The token id of padding.
        heads: Attention heads of the model. Operators that split the heads themselves must split so many.

    Returns:
        The check. Its figures count the operators, those on word vectors, and the tensors compared at every width.
    """
    model = _with_inferred_shapes(graph.model)
    kinds, failures = _follow(model, padding_id, graph.max_sequence)
    failures += differences(graph.traced, model.graph) + _wrong_heads(model, heads)
    positions, counts = _positions_read(model, kinds), _counts_read(model, kinds)
    compared: list[Compared] = []
    if not failures:  # a graph that was refused may not run
        compared_counts = [unknown_numbers(model, value, graph.max_sequence) for value in counts]
        compared_positions = [differing_widths(model, value, graph.max_sequence) for value in positions]
        failures += _wrong_counts(counts, compared_counts)
        failures += _wrong_positions(positions, compared_positions)
        compared = [*compared_counts, *compared_positions]
    widths = min((one.widths for one in compared), default=0)
    operators, traced = len(model.graph), sum(graph.traced.values())
    coverage = f"{operators} operators"
    if not failures:
        coverage += (
            ": rows of a batch are apart, token ids only find word vectors, "
            f"the {traced} that torch traced on word vectors are unchanged"
        )
        if positions or counts:
            parts = [
                _tensors(len(found), of) for found, of in ((positions, "positions"), (counts, "token counts")) if found
            ]
            coverage += f", {' and '.join(parts)} right at {_share(widths, graph.max_sequence)} widths"
    named = failures[:_NAMED] + ([f"and {len(failures) - _NAMED} more"] if len(failures) > _NAMED else [])
    figures = {
        "operators": operators,
        "traced_on_words": traced,
        "position_tensors": len(positions),
        "count_tensors": len(counts),
        "widths": widths,
    }
    return Check("dataflow", coverage, tuple(named), figures)


def _with_inferred_shapes(model: ir.Model) -> ir.Model:
    """Return a copy with shapes inferred from inputs, stored tensors and operators; stated ones are not trusted."""
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


def _positions_read(model: ir.Model, kinds: dict[ir.Value, Kind]) -> list[ir.Value]:
    """Return what depends on the padded width alone and is read by an operator that reads more than that."""
    return _read_by(model, kinds, lambda kind: kind is not Kind.POSITION, {Kind.POSITION})


def _counts_read(model: ir.Model, kinds: dict[ir.Value, Kind]) -> list[ir.Value]:
    """Return the numbers from the attention mask that hidden states are computed with."""
    return _read_by(model, kinds, lambda kind: kind is Kind.HIDDEN, {Kind.COUNT, Kind.WEIGHT})


def _read_by(
    model: ir.Model, kinds: dict[ir.Value, Kind], reader: Callable[[Kind], bool], read: Set[Kind]
) -> list[ir.Value]:
    """Return the values of some kinds that operators of other kinds read, each once, in the order of the graph."""
    values = (value for node in model.graph if reader(kinds[node.outputs[0]]) for value in node.inputs)
    return list(dict.fromkeys(value for value in values if value is not None and kinds.get(value) in read))


def _wrong_counts(counts: list[ir.Value], compared: list[Compared]) -> list[str]:
    return [
        f"{value.name}, which depends on the attention mask alone, is no number that a pooling needs at {_named(found)}"
        for value, found in zip(counts, compared, strict=True)
        if found.wrong
    ]


def _wrong_positions(positions: list[ir.Value], compared: list[Compared]) -> list[str]:
    return [
        f"{value.name}, which depends on the padded width alone, differs at {_named(found)}"
        for value, found in zip(positions, compared, strict=True)
        if found.wrong
    ]


def _named(found: Compared) -> str:
    return f"{len(found.wrong)} of {found.widths} widths: {', '.join(map(str, found.wrong[:3]))}"


def _share(widths: int, longest: int) -> str:
    return f"all {longest}" if widths == longest else f"{widths} of {longest}"


def _wrong_heads(model: ir.Model, heads: int) -> list[str]:
    return [
        f"{node.name} splits into {found} heads, and the model has {heads}"
        for node in model.graph
        for name in HEADS_INSIDE
        if (found := node.attributes.get_int(name, heads)) != heads
    ]


def _tensors(count: int, of: str = "") -> str:
    noun = "tensor" if count == 1 else "tensors"
    return f"{count} {noun} of {of}" if of else f"{count} {noun}"
