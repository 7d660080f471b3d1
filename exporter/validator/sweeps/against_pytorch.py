"""Word rows and positions: the candidate's vectors and PyTorch's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.checkpoint import TOKEN_BUDGET
from exporter.recipe import Gate
from exporter.runtime.tokens import IntArray
from exporter.validator.parity import row_cosine
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
from exporter.validator.sweeps.running import MOST_NAMED, Matrix, PaddedEncoder, Part, Run, Vectors, shortened

MOST_ROWS = 32  # rows per batch: batch sizes are another part's matter


@dataclass(frozen=True)
class _Distances:
    """How far vectors are from PyTorch's, per row. Of a row with NaN or Inf every figure is NaN.

    Attributes:
        error: ``|candidate - reference| / |reference|``.
        cosine: Cosine of both.
        centered: The same after the mean reference vector is taken from both. None where rows are too few for a mean.
    """

    error: Matrix
    cosine: Matrix
    centered: Matrix | None

    @classmethod
    def between(cls, wanted: Vectors, found: Vectors, center: Matrix | None) -> _Distances:
        reference, vectors = wanted.astype(np.float64), found.astype(np.float64)
        finite = np.logical_and.reduce(np.isfinite(vectors), axis=1)
        vectors = np.where(finite[:, None], vectors, 0.0)
        columns = [
            np.linalg.norm(vectors - reference, axis=1) / np.maximum(np.linalg.norm(reference, axis=1), 1e-30),
            row_cosine(reference, vectors),
        ]
        if center is not None:
            columns.append(row_cosine(reference - center, vectors - center))
        for column in columns:
            column[~finite] = np.nan
        return cls(columns[0], columns[1], columns[2] if center is not None else None)

    def complaint(self, row: int, gate: Gate) -> str | None:
        """Return what is wrong with a row, in words, or None."""
        if np.isnan(self.error[row]):
            return "NaN or Inf"
        if gate.max_relative_error is not None and self.error[row] > gate.max_relative_error:
            return f"relative error {self.error[row]:.2g}, allowed {gate.max_relative_error:g}"
        if self.cosine[row] < gate.min_cosine:
            return f"cosine {self.cosine[row]:.6g}, at least {gate.min_cosine:g} is wanted"
        centered = gate.min_centered_cosine
        if self.centered is not None and centered is not None and self.centered[row] < centered:
            return f"centered cosine {self.centered[row]:.6g}, at least {centered:g} is wanted"
        return None

    def failed(self, gate: Gate) -> list[int]:
        """Return the rows that fail a bound, worst first."""
        order = np.argsort(-np.nan_to_num(self.error, nan=np.inf), kind="stable")
        return [int(row) for row in order if self.complaint(int(row), gate) is not None]


def sweep_words(run: Run, rows: Rows) -> Part:
    """Compare sequences of word rows with PyTorch's, and name the row that makes a sequence fail."""
    material = run.reference.material
    used = word_rows(rows, material, run.reference.checkpoint)
    words = words_per_sequence(run.gate, material)
    ids = word_sequences(used, words, material)
    mask = np.ones_like(ids)
    wanted, found = (_in_batches(encoder, ids, mask, run) for encoder in (run.reference, run.candidate))
    center = wanted.astype(np.float64).mean(axis=0)
    distances = _Distances.between(wanted, found, center)
    failed = distances.failed(run.gate)
    failures = [_name_the_row(run, ids[row], distances.complaint(row, run.gate)) for row in failed[:MOST_NAMED]]
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


def _name_the_row(run: Run, sequence: IntArray, complaint: str | None) -> str:
    """Encode each word of a failing sequence alone, and say which of them differs most."""
    material = run.reference.material
    words = np.unique(sequence[len(material.prefix) : len(sequence) - len(material.suffix)])
    ids = word_sequences(words, 1, material)
    mask = np.ones_like(ids)
    wanted, found = (_in_batches(encoder, ids, mask, run) for encoder in (run.reference, run.candidate))
    alone = _Distances.between(wanted, found, None)
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
        distances = _Distances.between(wanted, found, None)
        errors.append(np.max(distances.error))
        cosines.append(np.min(distances.cosine))
        for row in distances.failed(run.gate)[:1]:
            read = np.flatnonzero(mask[row])
            first = read[0] if len(read) == mask.shape[1] else read[len(material.prefix)]
            failures.append(f"positions {first} to {read[-1]}: {distances.complaint(row, run.gate)}")
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


def _in_batches(encoder: PaddedEncoder, ids: IntArray, mask: IntArray, run: Run) -> Vectors:
    """Encode equally long sequences in batches of few rows and tokens."""
    size = max(1, min(MOST_ROWS, run.shapes.batch.max, TOKEN_BUDGET // ids.shape[1]))
    parts = [slice(start, start + size) for start in range(0, len(ids), size)]
    return np.concatenate([encoder.encode_padded(ids[part], mask[part]) for part in parts])
