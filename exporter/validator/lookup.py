"""Lookup: every token id finds its own row of the table of word vectors, in the graph itself.

The weights check compares the table, and a sweep compares sentences of some of its rows with PyTorch's vectors. What
lies between an id and its row, arithmetic on the ids, would go unnoticed where it is wrong for rows that are not swept.
So the graph is cut after the lookup, and that part of it is run on every id: seconds, whatever the size of the model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.validator.check import Check
from exporter.validator.evaluation import Evaluate, evaluator_of

IDS_AT_ONCE = 8192


def check_lookup(model: ir.Model, table: npt.NDArray[np.float32], max_sequence: int) -> Check:
    """Look up every row with the graph, and compare it with the checkpoint's, bit for bit.

    Args:
        model: The folded float32 graph.
        table: (words, width) float32, the checkpoint's word vectors.
        max_sequence: Longest sequence that the graph takes.
    """
    readers = [node for node in model.graph if _reads(node, table)]
    if len(readers) != 1:
        return Check("lookup", "not run", (f"{len(readers)} nodes look up word vectors, and one was expected",))
    evaluate = evaluator_of(model, readers[0].outputs[0])
    wrong = [number for ids in _ids(len(table), max_sequence) for number in _wrong(evaluate, ids, table)]
    told = (
        f"{len(wrong):,} of {len(table):,} ids find another row of the word vectors, {', '.join(map(str, wrong[:3]))}"
    )
    return Check(
        "lookup",
        f"{len(table):,} of {len(table):,} ids find their own row of the word vectors" if not wrong else told,
        (told,) if wrong else (),
        {"ids": len(table), "wrong": len(wrong)},
    )


def _reads(node: ir.Node, table: npt.NDArray[np.float32]) -> bool:
    stored = node.inputs[0].const_value if node.op_type == "Gather" and node.inputs[0] is not None else None
    return stored is not None and tuple(stored.shape.numpy()) == table.shape and np.array_equal(stored.numpy(), table)


def _ids(words: int, max_sequence: int) -> list[npt.NDArray[np.int64]]:
    """Return batches (rows, sequence) int64 that hold every id; the last one repeats some."""
    width = min(max_sequence, words)
    rows = max(1, IDS_AT_ONCE // width)
    count = -(-words // width)
    table = np.resize(np.arange(words, dtype=np.int64), (count, width))
    return [table[start : start + rows] for start in range(0, count, rows)]


def _wrong(evaluate: Evaluate, ids: npt.NDArray[np.int64], table: npt.NDArray[np.float32]) -> list[int]:
    equal = (evaluate(ids, np.ones_like(ids)) == table[ids]).all(axis=-1)
    return sorted(set(ids[~equal].tolist()))
