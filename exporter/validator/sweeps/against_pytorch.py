"""Word rows and positions: the candidate's vectors and PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from exporter.checkpoint import TOKEN_BUDGET
from exporter.runtime.tokens import IntArray
from exporter.validator.sweeps.distances import Distances, failed_rows
from exporter.validator.sweeps.inputs import (
    POSITION_TOKENS,
    Rows,
    budget,
    long_rows,
    position_windows,
    word_rows,
    word_sequences,
    words_per_sequence,
)
from exporter.validator.sweeps.running import MOST_NAMED, PaddedEncoder, Part, Run, Vectors, shortened

MOST_ROWS = 32  # rows per batch: batch sizes are another part's matter


def sweep_words(run: Run, rows: Rows) -> Part:
    """Compare sequences of word rows with PyTorch's, and name the row that makes a sequence fail."""
    material = run.reference.material
    used = word_rows(rows, material, run.reference.checkpoint)
    words = words_per_sequence(run.gate, material)
    ids = word_sequences(used, words, material)
    mask = np.ones_like(ids)
    wanted, found = (_in_batches(encoder, ids, mask, run) for encoder in (run.reference, run.candidate))
    center = wanted.astype(np.float64).mean(axis=0)
    distances = Distances.between(wanted, found, center)
    failed = failed_rows(wanted, distances, center, run.gate, partial(_own_vectors, run, ids, mask))
    failures = [_name_the_row(run, ids[row], complaint) for row, complaint in failed[:MOST_NAMED]]
    if len(failed) > MOST_NAMED:
        failures.append(f"{len(failed)} of {len(ids)} sequences of {words} word rows differ from PyTorch's vectors")
    return Part(
        f"{len(used):,} of {material.word_rows:,} word rows",
        failures,
        {
            "rows": len(used),
            "rows_of": material.word_rows,
            "words_per_sequence": words,
            "max_relative_error": np.max(distances.error),
            "min_cosine": np.min(distances.cosine),
            "min_centered_cosine": np.min(distances.centered) if distances.centered is not None else None,
        },
    )


def _name_the_row(run: Run, sequence: IntArray, complaint: str) -> str:
    """Encode each word of a failing sequence alone, and say which of them differs most."""
    material = run.reference.material
    words = np.unique(sequence[len(material.prefix) : len(sequence) - len(material.suffix)])
    ids = word_sequences(words, 1, material)
    mask = np.ones_like(ids)
    wanted, found = (_in_batches(encoder, ids, mask, run) for encoder in (run.reference, run.candidate))
    alone = Distances.between(wanted, found, None)
    failed = alone.failed(run.gate)
    if not failed:
        return f"a sequence of {len(words)} word rows, {int(words[0])} among them: {complaint}"
    word = int(words[failed[0]])
    token = run.reference.checkpoint.tokenizer.id_to_token(word)
    name = f" ({token!r})" if token is not None else ""
    return f"word row {word}{name}: {alone.complaint(failed[0], run.gate)}"


def sweep_positions(run: Run) -> Part:
    """Compare sequences that use every position with PyTorch's.

    Whole sequences of the longest length, where one position weighs little, and windows of few positions, where it
    weighs more. The windows need a mask with a hole, which an engine that takes lengths does not have.
    """
    material, checkpoint = run.reference.material, run.reference.checkpoint
    windows = []
    if not run.right_padding_only:
        words = words_per_sequence(run.gate, material)
        windows = position_windows(material, words, budget(POSITION_TOKENS, checkpoint))
    failures, errors, cosines = [], [], []
    for ids, mask in [long_rows(material, material.longest), *windows]:
        wanted, found = (_in_batches(encoder, ids, mask, run) for encoder in (run.reference, run.candidate))
        distances = Distances.between(wanted, found, None)
        errors.append(np.max(distances.error))
        cosines.append(np.min(distances.cosine))
        failed = failed_rows(wanted, distances, None, run.gate, partial(_own_vectors, run, ids, mask))
        for row, complaint in failed[:1]:
            read = np.flatnonzero(mask[row])
            first = read[0] if len(read) == mask.shape[1] else read[len(material.prefix)]
            failures.append(f"positions {first} to {read[-1]}: {complaint}")
    return Part(
        f"{material.longest} of {material.longest} positions",
        shortened(failures, "ranges of positions differ from PyTorch's vectors"),
        {
            "positions": material.longest,
            "positions_of": material.longest,
            "position_windows": len(windows),
            "position_max_relative_error": np.max(errors),
            "position_min_cosine": np.min(cosines),
        },
    )


def _own_vectors(run: Run, ids: IntArray, mask: IntArray, rows: Sequence[int]) -> Vectors | None:
    """Return PyTorch's vectors of some rows in the candidate's number format, where PyTorch has it."""
    own = run.reference.in_format_of(run.precision)
    return None if own is None else _in_batches(own, ids[rows], mask[rows], run)


def _in_batches(encoder: PaddedEncoder, ids: IntArray, mask: IntArray, run: Run) -> Vectors:
    """Encode equally long sequences in batches of few rows and tokens."""
    size = max(1, min(MOST_ROWS, run.shapes.batch.max, TOKEN_BUDGET // ids.shape[1]))
    parts = [slice(start, start + size) for start in range(0, len(ids), size)]
    return np.concatenate([encoder.encode_padded(ids[part], mask[part]) for part in parts])
