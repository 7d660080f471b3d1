"""The likely cause of a failed gate, read off which rows failed and how.

Every sentence here is a guess, and says what it saw; the seeded faults in ``tests/`` show when it guesses right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exporter.validator.parity import Parity
from exporter.validator.probes import Probe

GROSS_BATCH_DEVIATION = 0.05  # rounding, even bfloat16's, moves a vector by less when its batch changes
SMALL_ERROR = 0.15  # up to here every part is there and in its place, and something in it is a little off

Mask = npt.NDArray[np.bool_]


def likely_cause(
    parity: Parity, probes: tuple[Probe, ...], tokens: tuple[int, ...], batch_deviation: float, *, bad_cosine: float
) -> str:
    """Return one sentence about why a candidate failed.

    Args:
        parity: The numbers.
        probes: The texts, in the order of the rows.
        tokens: Tokens per probe.
        batch_deviation: Largest relative difference between a sentence alone and in a batch.
        bad_cosine: Rows below this cosine count as failed.
    """
    length = np.array(tokens)
    if parity.non_finite:
        return _not_finite(parity, length)
    failed = parity.cosine < bad_cosine
    if _out_of_order(parity, failed):
        return "most rows are closest to another row's reference, each to one of its own: rows are out of order"
    if batch_deviation > GROSS_BATCH_DEVIATION:
        return f"a sentence alone and in a batch differ by {batch_deviation:.2g}: padding is not masked"
    if not failed.any():
        return _same_directions(parity)
    upper = np.array([probe.text != probe.text.lower() for probe in probes])
    if _share(failed, upper) > 0.3 and _share(failed, ~upper) < 0.02:
        return "only text with capital letters fails: lower-casing was lost"
    threshold = length[failed].min()
    if threshold > np.median(length) and _share(failed, length >= threshold) > 0.5:
        return f"only text of {threshold} tokens or more fails: truncation or positions"
    if failed.mean() <= 0.9:
        longest = length[~failed].max()
        return f"{int(failed.sum())} of {len(tokens)} rows fail, the longest passing one has {longest} tokens"
    typical = float(np.median(parity.relative_error))
    if typical < SMALL_ERROR:
        return f"nearly every row is off by a little ({typical:.2g}): the weights' precision, an epsilon or a function"
    return f"nearly every row is off by much ({typical:.2g}): pooling, a layer, positions or the special tokens differ"


def _not_finite(parity: Parity, length: npt.NDArray[np.int64]) -> str:
    count, shortest = parity.non_finite, length[~np.isfinite(parity.cosine)].min()
    rows = "1 row has" if count == 1 else f"{count} rows have"
    return (
        f"{rows} NaN or Inf (from {shortest} tokens on): an overflow, a weight that is no number, or a mask that "
        "leaves nothing to attend to"
    )


def _out_of_order(parity: Parity, failed: Mask) -> bool:
    """Whether most rows have found another row's reference, and few of them the same."""
    elsewhere = failed & (parity.neighbor != np.arange(len(failed)))
    return bool(elsewhere.mean() > 0.5 and len(np.unique(parity.neighbor)) > 0.75 * len(failed))


def _same_directions(parity: Parity) -> str:
    if abs(float(np.median(parity.norm_ratio)) - 1) > 1e-3 and float(np.ptp(parity.norm_ratio)) > 1e-3:
        return "directions agree and lengths do not: a Normalize was dropped or added"
    return "directions agree within the gate and something finer does not: an epsilon or an approximated function"


def _share(failed: Mask, among: Mask) -> float:
    """Return the share of rows that failed among some, 0 where there are none."""
    return float(failed[among].mean()) if among.any() else 0.0
