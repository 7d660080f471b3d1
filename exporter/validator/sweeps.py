"""Sweeps: from token ids to vectors, over the word rows, positions, batch sizes and widths that sentences do not reach.

Word rows and positions are compared with PyTorch. Batch sizes and padded widths are compared with the engine's own
answer to the same row, alone and without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from exporter.checkpoint import TOKEN_BUDGET, Checkpoint
from exporter.recipe import Gate, Shapes
from exporter.runtime.tokens import IntArray, TextTokenizer
from exporter.validator.check import Check
from exporter.validator.parity import row_cosine
from exporter.validator.sweep_inputs import (
    POSITION_TOKENS,
    WIDTH_TOKENS,
    Rows,
    batch_sizes,
    boundaries_of,
    budget,
    long_rows,
    material_of,
    padded_widths,
    position_windows,
    short_rows,
    word_rows,
    word_sequences,
    words_per_sequence,
)

# int8 is calibrated on text, and loses more on a few words in no order or at few positions: sound all-MiniLM-L6-v2
# comes to cosine 0.928 and relative error 0.38 there, the demo to 0.991 and 0.14. These bounds allow two to three
# times the larger loss; the weights check proves each row to half a step at int8.
_BOUNDS_OF_INT8 = {"min_cosine": 0.8, "max_relative_error": 0.7}
LEAK = 1e-5
"""Largest relative change of a vector when only the ids behind the mask change. Nothing at all is expected."""
MOST_ROWS = 32  # rows per batch where rows or positions are swept: batch sizes are another part's matter
MOST_NAMED = 3  # sentences per part about what is wrong

Vectors = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


class PaddedEncoder(Protocol):
    """Whatever turns padded token ids into vectors: ``Encoder.encode_padded``."""

    def encode_padded(self, input_ids: IntArray, attention_mask: IntArray) -> Vectors:
        """Encode (batch, sequence) int64 ids and mask as one batch: (batch, dimension) float32."""
        ...


class _Remembering:
    """Runs each batch of token ids once, and answers from memory when it is asked again."""

    def __init__(self, encode: Callable[[IntArray, IntArray], Vectors]) -> None:
        self._encode = encode
        self._known: dict[tuple[bytes, bytes, int], Vectors] = {}

    def encode_padded(self, input_ids: IntArray, attention_mask: IntArray) -> Vectors:
        """Return the vectors (batch, dimension) float32."""
        key = (input_ids.tobytes(), attention_mask.tobytes(), len(input_ids))
        if key not in self._known:
            self._known[key] = self._encode(input_ids, attention_mask)
        return self._known[key]


class SweepReference(_Remembering):
    """The PyTorch model's vectors of token ids. What was computed once serves every further sweep of an export."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.encode_tokens)
        self.checkpoint = checkpoint
        self.material = material_of(checkpoint)
        self.tokenizer = TextTokenizer(checkpoint.tokenizer)


@dataclass(frozen=True)
class _Run:
    """What the parts of one sweep share."""

    reference: SweepReference
    candidate: PaddedEncoder
    shapes: Shapes
    gate: Gate
    batch_bound: float | None
    leak_bound: float | None
    right_padding_only: bool
    width_tokens: int


@dataclass(frozen=True)
class _Part:
    """What one part covered, what is wrong, and the same in figures."""

    coverage: str
    failures: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def sweep(
    reference: SweepReference,
    candidate: PaddedEncoder,
    shapes: Shapes,
    gate: Gate,
    *,
    rows: Rows = "all",
    width_tokens: int = WIDTH_TOKENS,
    scales_from_batch: bool = False,
    right_padding_only: bool = False,
) -> Check:
    """Sweep a candidate, from token ids to vectors.

    Args:
        reference: The PyTorch model.
        candidate: An encoder with the candidate's engine.
        shapes: Batch and sequence extents that the engine must serve.
        gate: Bounds of the candidate's precision. Where it bounds no batch deviation, that is measured and not judged.
        rows: Rows of the table of word embeddings to use: ``"all"``; how many, spread evenly, where the table is proven
            by other means; or ``"sample"``, as many as cost little: 2,000, and more of a small model.
        width_tokens: Tokens of all padded widths together; a model smaller than half of BERT-base gets more, up to
            every width. The widths around boundaries are always taken.
        scales_from_batch: Whether the engine takes scales from each batch, as dynamic int8 does, so that a vector
            depends on what padding consists of.
        right_padding_only: Whether the engine takes lengths instead of a mask (``padding`` in the engine's facts).

    Returns:
        The check ``"sweep"``.
    """
    if gate.max_emulator_ratio is not None:
        gate = gate.model_copy(update=_BOUNDS_OF_INT8)
    bound = gate.max_batch_deviation
    leak = bound if scales_from_batch else LEAK
    run = _Run(
        reference, _Remembering(candidate.encode_padded), shapes, gate, bound, leak, right_padding_only, width_tokens
    )
    parts = [_sweep_words(run, rows), _sweep_positions(run), _sweep_batches(run), _sweep_widths(run), _sweep_leaks(run)]
    return Check(
        name="sweep",
        coverage=", ".join(part.coverage for part in parts if part.coverage),
        failures=tuple(failure for part in parts for failure in part.failures),
        figures={name: _json(value) for part in parts for name, value in part.figures.items()},
    )


# --- word rows and positions: the candidate and PyTorch --------------------------------------------------------------


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
            return f"centred cosine {self.centered[row]:.6g}, at least {centered:g} is wanted"
        return None

    def failed(self, gate: Gate) -> list[int]:
        """Return the rows that fail a bound, worst first."""
        order = np.argsort(-np.nan_to_num(self.error, nan=np.inf), kind="stable")
        return [int(row) for row in order if self.complaint(int(row), gate) is not None]


def _sweep_words(run: _Run, rows: Rows) -> _Part:
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
    return _Part(
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


def _name_the_row(run: _Run, sequence: IntArray, complaint: str | None) -> str:
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


def _sweep_positions(run: _Run) -> _Part:
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
    for ids, mask in [long_rows(material), *windows]:
        wanted, found = (_in_batches(encoder, ids, mask, run) for encoder in (run.reference, run.candidate))
        distances = _Distances.between(wanted, found, None)
        errors.append(np.max(distances.error))
        cosines.append(np.min(distances.cosine))
        for row in distances.failed(run.gate)[:1]:
            read = np.flatnonzero(mask[row])
            first = read[0] if len(read) == mask.shape[1] else read[len(material.prefix)]
            failures.append(f"positions {first} to {read[-1]}: {distances.complaint(row, run.gate)}")
    return _Part(
        f"{material.longest} of {material.longest} positions",
        _shortened(failures, "ranges of positions differ from PyTorch's vectors"),
        {
            "positions": material.longest,
            "positions_of": material.longest,
            "position_windows": len(windows),
            "position_max_relative_error": np.max(errors),
            "position_min_cosine": np.min(cosines),
        },
    )


def _in_batches(encoder: PaddedEncoder, ids: IntArray, mask: IntArray, run: _Run) -> Vectors:
    """Encode equally long sequences in batches of few rows and tokens."""
    size = max(1, min(MOST_ROWS, run.shapes.batch.max, TOKEN_BUDGET // ids.shape[1]))
    parts = [slice(start, start + size) for start in range(0, len(ids), size)]
    return np.concatenate([encoder.encode_padded(ids[part], mask[part]) for part in parts])


# --- batch sizes and padded widths: the candidate and itself ---------------------------------------------------------


def _sweep_batches(run: _Run) -> _Part:
    """Compare every row of batches of several sizes with itself alone.

    Alone a row has no padding, unless the tokenizer pads on the left: then it has as much as in the batch, as it would
    stand at other positions without.
    """
    reference = run.reference
    short = reference.material.short
    width = len(short[-1]) if reference.tokenizer.padding == "left" else None
    alone = np.concatenate([run.candidate.encode_padded(*reference.tokenizer.pad([row], width)) for row in short])
    sizes, worst, failures = batch_sizes(run.shapes), [], []
    for size in sizes:
        numbers = short_rows(size, reference.material)
        rows = [short[number] for number in numbers]
        together = run.candidate.encode_padded(*reference.tokenizer.pad(rows, width))
        deviation = _deviation(together, alone[numbers])
        worst.append(np.max(deviation))
        failures += [
            f"row {row} of a batch of {size} {told}"
            for row, told in _too_far(deviation, run.batch_bound, "itself alone")
        ]
    deviation = _deviation(*_long_rows_together_and_alone(run))
    worst.append(np.max(deviation))
    longest = reference.material.longest
    failures += [
        f"row {row} of a batch of 2 with {longest} tokens each {told}"
        for row, told in _too_far(deviation, run.batch_bound, "itself alone")
    ]
    return _Part(
        f"batches of {_listed(sizes)}",
        _shortened(failures, "rows of batches differ from themselves alone"),
        {"batches": list(sizes), "max_batch_deviation": np.max(worst)},
    )


def _long_rows_together_and_alone(run: _Run) -> tuple[Vectors, Vectors]:
    ids, mask = long_rows(run.reference.material)
    together = run.candidate.encode_padded(ids, mask)
    alone = [run.candidate.encode_padded(ids[row : row + 1], mask[row : row + 1]) for row in range(len(ids))]
    return together, np.concatenate(alone)


def _sweep_widths(run: _Run) -> _Part:
    """Compare the shortest sentence padded to many widths with itself without padding.

    A tokenizer that pads on the left moves the sentence to other positions: there the vector is compared with PyTorch's
    for the same padding instead, as most architectures count positions from the first column.
    """
    reference, material = run.reference, run.reference.material
    row = material.short[0]
    left = reference.tokenizer.padding == "left"
    boundaries = boundaries_of(run.shapes, material.longest)
    widths = padded_widths(len(row), material.longest, boundaries, budget(run.width_tokens, reference.checkpoint))
    alone = run.candidate.encode_padded(*reference.tokenizer.pad([row]))
    deviations = []
    for width in widths:
        padded = reference.tokenizer.pad([row], width)
        wanted = reference.encode_padded(*padded) if left else alone
        deviations.append(float(_deviation(run.candidate.encode_padded(*padded), wanted)[0]))
    deviation = np.array(deviations)
    against = "PyTorch's" if left else "its own without padding"
    bound = run.gate.max_relative_error if left else run.batch_bound
    failures = [
        f"padded on the {reference.tokenizer.padding} to width {widths[place]} the vector {told}"
        for place, told in _too_far(deviation, bound, against)
    ]
    possible = material.longest - len(row) + 1
    return _Part(
        f"{len(widths)} of {possible} padded widths ({len(row)} to {material.longest})",
        _shortened(failures, "padded widths change the vector"),
        {
            "widths": len(widths),
            "widths_of": possible,
            "padding": reference.tokenizer.padding,
            "max_width_deviation": np.max(deviation),
        },
    )


def _sweep_leaks(run: _Run) -> _Part:
    """Put words behind the mask instead of padding: the vector must not change.

    The shape stays the same, so no kernel and no order of sums changes, and the vector is expected to be equal bit for
    bit in every precision. A mask that adds too little, -10 for example, shows here whatever the precision's bounds
    are. RoBERTa counts positions from the ids that are not padding, so padding on the left is left out.
    """
    reference, material = run.reference, run.reference.material
    if reference.tokenizer.padding == "left":
        return _Part("")
    row = material.short[0]
    ids, mask = reference.tokenizer.pad([row], material.longest)
    words = ids.copy()
    words[0, len(row) :] = material.text_from(0, material.longest - len(row))
    vectors = [run.candidate.encode_padded(each, mask) for each in (ids, words)]
    change = _deviation(vectors[1], vectors[0])
    failures = [
        f"with words behind the mask, at width {material.longest}, the vector {told}"
        for _, told in _too_far(change, run.leak_bound, "itself with padding there")
    ]
    return _Part(
        f"words in place of padding at width {material.longest}", failures, {"max_padding_influence": np.max(change)}
    )


def _deviation(first: Vectors, second: Vectors) -> Matrix:
    """Return ``|first - second| / |second|`` of each row, (rows,); NaN where either has NaN or Inf."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    with np.errstate(invalid="ignore"):
        deviation = np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(b, axis=1), 1e-30)
    return np.where(np.isfinite(deviation), deviation, np.nan)


def _too_far(deviation: Matrix, bound: float | None, against: str) -> Iterator[tuple[int, str]]:
    """Yield the rows whose deviation passes the bound, and what is wrong with them; worst first, NaN before all.

    Without a bound only NaN is wrong.
    """
    limit = np.inf if bound is None else bound
    for row in np.argsort(-np.nan_to_num(deviation, nan=np.inf), kind="stable"):
        if np.isnan(deviation[row]):
            yield int(row), "is NaN or Inf"
        elif deviation[row] > limit:
            yield int(row), f"differs from {against} by {deviation[row]:.2g}, allowed {limit:g}"


def _shortened(failures: list[str], what: str) -> list[str]:
    """Return the first sentences, and how many there would be."""
    if len(failures) <= MOST_NAMED:
        return failures
    return [*failures[:MOST_NAMED], f"{len(failures)} {what}"]


def _listed(sizes: Sequence[int]) -> str:
    *first, last = map(str, sizes)
    return f"{', '.join(first)} and {last}" if first else last


def _json(value: Any) -> Any:
    """Return a figure as JSON data. NaN and Inf become null, as JSON knows neither."""
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
