"""The likely cause of a failed gate, read off which rows failed and how.

Every sentence here is a guess, and says what it saw; the seeded faults in ``tests/`` show when it guesses right.
"""

from __future__ import annotations

import numpy as np

from exporter.validator.parity import Parity
from exporter.validator.probes import Probe


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
    if parity.non_finite:
        lengths = [tokens[row] for row in np.flatnonzero(~np.isfinite(parity.cosine))]
        return (
            f"{parity.non_finite} rows have NaN or Inf (from {min(lengths)} tokens on): an overflow, or a mask that "
            "leaves nothing to attend to"
        )
    failed = parity.cosine < bad_cosine
    if not failed.any():
        spread = float(np.ptp(parity.norm_ratio))
        if abs(float(np.median(parity.norm_ratio)) - 1) > 1e-3 and spread > 1e-3:
            return "directions agree and lengths do not: a Normalize was dropped or added"
        return "directions agree within the gate and something finer does not: an epsilon or an approximated function"
    if batch_deviation > 10 * max(1e-5, float(np.median(parity.relative_error))):
        return "a sentence alone and in a batch differ: padding is not masked"
    others = parity.neighbor != np.arange(len(tokens))
    if np.mean(others & failed) > 0.5 and len(set(parity.neighbor.tolist())) > len(tokens) // 2:
        return "most rows are closest to another row's reference: rows are out of order"
    upper = np.array([probe.text != probe.text.lower() for probe in probes])
    if failed[upper].mean() > 0.3 and failed[~upper].mean() < 0.02:
        return "only text with capital letters fails: lower-casing was lost"
    length = np.array(tokens)
    threshold = length[failed].min()
    if threshold > np.median(length) and failed[length >= threshold].mean() > 0.9:
        return f"only text of {threshold} tokens or more fails: truncation or positions"
    if failed.mean() > 0.9:
        return "nearly every row fails: pooling, a layer, the weights or the special tokens differ"
    return f"{int(failed.sum())} of {len(tokens)} rows fail, the longest passing one has {length[~failed].max()} tokens"
