"""The likely cause of a failed gate, read off which rows failed and how.

Every sentence here is a guess, and says what it saw; the seeded faults in ``tests/`` show when it guesses right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exporter.recipe import Gate
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import Parity
from exporter.validator.probes import Probe

GROSS_BATCH_DEVIATION = 0.05  # rounding, even bfloat16's, moves a vector by less when its batch changes
SMALL_ERROR = 0.15  # up to here every part is there and in its place, and something in it is a little off
SAME_FACTOR = 0.02  # lengths whose ratios spread by less share one factor; without Normalize they spread by more

Mask = npt.NDArray[np.bool_]


def likely_cause(
    parity: Parity,
    probes: tuple[Probe, ...],
    tokens: tuple[int, ...],
    batch_deviation: float,
    gate: Gate,
    precision: str = "fp32",
    format_loss: FormatLoss | None = None,
    rounded: str | None = None,
) -> str:
    """Return one sentence about why a candidate failed.

    Args:
        parity: The numbers.
        probes: The texts, in the order of the rows.
        tokens: Tokens per probe.
        batch_deviation: Largest relative difference between a sentence alone and in a batch.
        gate: The gate. Rows below its smallest cosine count as failed.
        precision: What the candidate computes in. Any other than ``"fp32"`` says that the same graph has passed its
            gate in float32.
        format_loss: What the precision itself loses on the same probes, where that is known.
        rounded: The numbers that every value of the candidate is one of, where they are coarser than float32.
    """
    length = np.array(tokens)
    if parity.non_finite:
        return _not_finite(parity, length)
    failed = parity.cosine < gate.min_cosine
    if (misplaced := _misplaced(parity, failed)) is not None:
        return misplaced
    if rounded is not None and (rounded == "8 bits" or precision == "fp32"):
        return f"every value is a number of {rounded}: the output is rounded to {rounded}"
    if batch_deviation > max(GROSS_BATCH_DEVIATION, gate.max_batch_deviation or 0.0):
        return f"a sentence alone and in a batch differ by {batch_deviation:.2g}: padding is not masked"
    factor = _common_factor(parity)
    if factor is not None:
        return (
            f"all vectors are {factor:.4g} times as long as the reference's: the output is multiplied by a factor, "
            "or a Normalize was dropped or added"
        )
    if precision != "fp32" and float(np.median(parity.relative_error)) < SMALL_ERROR:
        return _loss_of_the_precision(parity, precision, format_loss)
    if not failed.any() and _lengths_differ(parity):
        return "directions agree and lengths do not: a Normalize was dropped or added"
    if not failed.any() and precision != "fp32":
        return _loss_of_the_precision(parity, precision, format_loss)
    if not failed.any():
        return "directions agree within the gate and something finer does not: an epsilon or an approximated function"
    upper = np.array([probe.text != probe.text.lower() for probe in probes])
    if _share(failed, upper) > 0.3 and _share(failed, ~upper) < 0.02:
        return "only text with capital letters fails: lower-casing was lost"
    if failed.mean() <= 0.9:
        return _by_length(failed, length)
    typical = float(np.median(parity.relative_error))
    if typical < SMALL_ERROR:
        return f"nearly every row is off by a little ({typical:.2g}): the weights' precision, an epsilon or a function"
    return f"nearly every row is off by much ({typical:.2g}): pooling, a layer, positions or the special tokens differ"


def _by_length(failed: Mask, length: npt.NDArray[np.int64]) -> str:
    threshold = length[failed].min()
    if threshold > np.median(length) and _share(failed, length >= threshold) > 0.5:
        half = 0.4 * length.max() < threshold < 0.6 * length.max()
        at = f", and the longest has {length.max()}: text is truncated at about half" if half else ""
        return f"only text of {threshold} tokens or more fails: truncation or positions{at}"
    return f"{int(failed.sum())} of {len(length)} rows fail, the longest passing one has {length[~failed].max()} tokens"


def _not_finite(parity: Parity, length: npt.NDArray[np.int64]) -> str:
    count, shortest = parity.non_finite, length[~np.isfinite(parity.cosine)].min()
    rows = "1 row has" if count == 1 else f"{count} rows have"
    return (
        f"{rows} NaN or Inf (from {shortest} tokens on): an overflow, a weight that is no number, or a mask that "
        "leaves nothing to attend to"
    )


def _misplaced(parity: Parity, failed: Mask) -> str | None:
    if _out_of_order(parity, failed):
        return "most rows are closest to another row's reference, each to one of its own: rows are out of order"
    if _swapped_in_pairs(parity, failed):
        count = int(failed.sum())
        return f"{count} rows have another row's vector, and the other one has theirs: answers are swapped in pairs"
    return None


def _out_of_order(parity: Parity, failed: Mask) -> bool:
    """Whether most rows have found another row's reference, and few of them the same."""
    elsewhere = failed & (parity.neighbor != np.arange(len(failed)))
    return bool(elsewhere.mean() > 0.5 and len(np.unique(parity.neighbor)) > 0.75 * len(failed))


def _swapped_in_pairs(parity: Parity, failed: Mask) -> bool:
    """Whether nearly all rows that failed have exactly the vector of another one that has theirs."""
    rows = np.flatnonzero(failed)
    if len(rows) < 2:
        return False
    other = parity.neighbor[rows]
    return bool(np.mean((parity.neighbor[other] == rows) & (other != rows) & failed[other]) > 0.8)


def _common_factor(parity: Parity) -> float | None:
    """Return the one factor that nearly all lengths differ by, or None where there is none.

    Rounding spreads the lengths too: the factor must stand out from that.
    """
    factor = float(np.median(parity.norm_ratio))
    spread = float(np.percentile(np.abs(parity.norm_ratio - factor), 95))
    return factor if spread < SAME_FACTOR * factor and abs(factor - 1) > max(2 * spread, 1e-4) else None


def _lengths_differ(parity: Parity) -> bool:
    return abs(float(np.median(parity.norm_ratio)) - 1) > 1e-3 and float(np.ptp(parity.norm_ratio)) > 1e-3


def _loss_of_the_precision(parity: Parity, precision: str, format_loss: FormatLoss | None) -> str:
    typical = float(np.mean(parity.relative_error))
    said = f"the fp32 graph is sound, so this is what {precision} loses: {typical:.2g} of a vector's length in the mean"
    if format_loss is None or not format_loss.mean_relative_error > 0:
        return said
    known = parity.relative_error[format_loss.rows]
    return f"{said}, {known.mean() / format_loss.mean_relative_error:.2f} times what {format_loss.source} loses"


def _share(failed: Mask, among: Mask) -> float:
    """Return the share of rows that failed among some, 0 where there are none."""
    return float(failed[among].mean()) if among.any() else 0.0
