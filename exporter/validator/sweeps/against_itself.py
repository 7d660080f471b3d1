"""Batch sizes, padded widths and words behind the mask: the candidate and its own vector of the same row alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from exporter.validator.probes import LONG
from exporter.validator.sweeps.inputs import batch_sizes, boundaries_of, budget, long_rows, padded_widths, short_rows
from exporter.validator.sweeps.running import Matrix, Part, Run, Vectors, shortened


def sweep_batches(run: Run) -> Part:
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
    tokens = min(reference.material.longest, LONG)
    deviation = _deviation(*_long_rows_together_and_alone(run, tokens))
    worst.append(np.max(deviation))
    failures += [
        f"row {row} of a batch of 2 with {tokens} tokens each {told}"
        for row, told in _too_far(deviation, run.batch_bound, "itself alone")
    ]
    return Part(
        f"batches of {_listed(sizes)}",
        shortened(failures, "rows of batches differ from themselves alone"),
        {"batches": list(sizes), "tokens_of_two_rows": tokens, "max_batch_deviation": np.max(worst)},
    )


def _long_rows_together_and_alone(run: Run, tokens: int) -> tuple[Vectors, Vectors]:
    ids, mask = long_rows(run.reference.material, tokens)
    together = run.candidate.encode_padded(ids, mask)
    alone = [run.candidate.encode_padded(ids[row : row + 1], mask[row : row + 1]) for row in range(len(ids))]
    return together, np.concatenate(alone)


def sweep_widths(run: Run) -> Part:
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
    return Part(
        f"{len(widths)} of {possible} padded widths ({len(row)} to {material.longest})",
        shortened(failures, "padded widths change the vector"),
        {
            "widths": len(widths),
            "widths_of": possible,
            "padding": reference.tokenizer.padding,
            "max_width_deviation": np.max(deviation),
        },
    )


def sweep_leaks(run: Run) -> Part:
    """Put words behind the mask instead of padding: the vector must not change.

    The shape stays the same, so no kernel and no order of sums changes, and the vector is expected to be equal bit for
    bit in every precision. A mask that adds too little, -10 for example, shows here whatever the precision's bounds
    are. RoBERTa counts positions from the ids that are not padding, so padding on the left is left out.
    """
    reference, material = run.reference, run.reference.material
    if reference.tokenizer.padding == "left":
        return Part("words in place of padding not compared: the tokenizer pads on the left")
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
    return Part(
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


def _listed(sizes: Sequence[int]) -> str:
    *first, last = map(str, sizes)
    return f"{', '.join(first)} and {last}" if first else last
