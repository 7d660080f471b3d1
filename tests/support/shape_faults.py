"""Seeded faults that real sentences do not reach: rows, positions, batch sizes and widths that no probe has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from exporter.checkpoint import Checkpoint
from exporter.passes.building import add_constant
from exporter.tokens import TextTokenizer
from exporter.validator.probes import probes_for
from tests.support.faults import (
    Candidate,
    NotApplicableError,
    _attention_nodes,
    _become_output,
    _Surgery,
)

WORDS, POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"


def unused_words(checkpoint: Checkpoint) -> list[int]:
    """Return the word rows that no probe uses."""
    texts = [probe.text for probe in probes_for(checkpoint.tokenizer, checkpoint.max_seq_length, checkpoint.prompt)]
    used = {token for row in TextTokenizer(checkpoint.tokenizer).ids(texts) for token in row}
    size = checkpoint.model[0].auto_model.embeddings.word_embeddings.num_embeddings
    return [row for row in range(size) if row not in used]


def unused_words_noised(candidate: Candidate) -> None:
    """Replace all word rows that no probe uses by noise of the table's own spread."""
    rows = unused_words(candidate.subject.checkpoint)
    _noise_rows(candidate, rows)


def one_word_noised(row: int) -> Callable[[Candidate], None]:
    """Replace one word row by noise of the table's own spread."""
    return lambda candidate: _noise_rows(candidate, [row])


def word_is_nan(row: int) -> Callable[[Candidate], None]:
    """Replace one word row by NaN."""
    return lambda candidate: _edit(candidate.model, WORDS, lambda table: table[row].fill(np.nan))


def _noise_rows(candidate: Candidate, rows: list[int]) -> None:
    def noised(table: np.ndarray) -> None:
        table[rows] = np.random.default_rng(5).normal(table.mean(), table.std(), (len(rows), table.shape[1]))

    _edit(candidate.model, WORDS, noised)


def last_position_zeroed(candidate: Candidate) -> None:
    """Replace the row of the last position by zeros."""
    checkpoint = candidate.subject.checkpoint
    last = checkpoint.max_seq_length - 1 + _first_position(checkpoint)
    _edit(candidate.model, POSITIONS, lambda table: table[last].fill(0))


def positions_restart(at: int) -> Callable[[Candidate], None]:
    """Give token ``at`` the first position again, as an engine does that was built for ``at`` tokens."""

    def apply(candidate: Candidate) -> None:
        checkpoint = candidate.subject.checkpoint
        if checkpoint.max_seq_length <= at:
            raise NotApplicableError(f"no sequence has more than {at} tokens")
        gathers = [  # of an int8 graph: one of numbers, and one of scales
            node
            for node in candidate.model.graph
            if node.op_type == "Gather" and str(node.name).startswith("embeddings.position_embeddings")
        ]
        positions = gathers[0].inputs[1]
        offset, period = (
            add_constant(candidate.model, f"fault/{name}", np.array(value, dtype=np.int64))
            for name, value in (("offset", _first_position(checkpoint)), ("period", at))
        )
        surgery = _Surgery(candidate.model, positions)
        counted = surgery.add("Sub", [positions, offset], like=positions)
        again = surgery.add("Mod", [counted, period], like=positions)
        restarted = surgery.add("Add", [again, offset], like=positions)
        for gather in gathers:
            gather.replace_input_with(1, restarted)

    return apply


def rows_answered_with_row_0(first: int) -> Callable[[Candidate], None]:
    """Answer row ``first`` of a batch and all after it with row 0's vector."""

    def apply(candidate: Candidate) -> None:
        model = candidate.model
        (output,) = model.graph.outputs
        surgery = _Surgery(model, output)
        zero, one, limit = (
            add_constant(model, f"fault/{name}", np.array(value, dtype=np.int64))
            for name, value in (("zero", 0), ("one", 1), ("limit", first))
        )
        count = surgery.add("Shape", [output], ir.DataType.INT64, [1], start=0, end=1)
        rows = surgery.add("Squeeze", [count], ir.DataType.INT64, [])
        numbers = surgery.add("Range", [zero, rows, one], ir.DataType.INT64, ["batch"])
        kept = surgery.add("Less", [numbers, limit], ir.DataType.BOOL, ["batch"])
        taken = surgery.add("Where", [kept, numbers, zero], ir.DataType.INT64, ["batch"])
        _become_output(model, surgery.add("Gather", [output, taken], like=output, axis=0))

    return apply


def negated_at_width(width: int) -> Callable[[Candidate], None]:
    """Negate the vectors of a batch that is padded to one width."""

    def apply(candidate: Candidate) -> None:
        model = candidate.model
        (output,) = model.graph.outputs
        surgery = _Surgery(model, output)
        ids = next(value for value in model.graph.inputs if value.name == "input_ids")
        wrong = add_constant(model, "fault/width", np.array([width], dtype=np.int64))
        signs = [add_constant(model, f"fault/{sign}", np.array([sign], dtype=np.float32)) for sign in (-1, 1)]
        length = surgery.add("Shape", [ids], ir.DataType.INT64, [1], start=1, end=2)
        met = surgery.add("Equal", [length, wrong], ir.DataType.BOOL, [1])
        sign = surgery.add("Where", [met, *signs], ir.DataType.FLOAT, [1])
        _become_output(model, surgery.add("Mul", [output, sign], like=output))

    return apply


def mask_adds(value: float) -> Callable[[Candidate], None]:
    """Add ``value`` to the scores of padding, where the lowest number there is would be right."""

    def apply(candidate: Candidate) -> None:
        model = candidate.model
        mask = _attention_nodes(model)[0].inputs[3]
        nothing, added = (
            add_constant(model, f"fault/{name}", np.array(number, dtype=np.float32))
            for name, number in (("nothing", 0.0), ("added", value))
        )
        soft = _Surgery(model, mask).add("Where", [mask, nothing, added], ir.DataType.FLOAT, mask.shape)
        for node in _attention_nodes(model):
            node.replace_input_with(3, soft)

    return apply


def _first_position(checkpoint: Checkpoint) -> int:
    """Return the position of the first token: RoBERTa and its kin begin behind the row that pads."""
    padding = checkpoint.model[0].auto_model.embeddings.position_embeddings.padding_idx
    return 0 if padding is None else padding + 1


def _edit(model: ir.Model, name: str, change: Callable[[np.ndarray], None]) -> None:
    """Change a copy of an initializer in place."""
    value = model.graph.initializers[name]
    array = value.const_value.numpy().copy()
    change(array)
    value.const_value = ir.tensor(array, name=value.name)
