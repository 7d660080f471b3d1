"""What activations hold over real text: extremes per channel over all of it, and a sample of tokens. No padding.

Memory is bounded whatever the number of sentences: the extremes are two numbers per channel, the sample has a budget of
bytes, and only one batch's activations are alive at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from exporter.calibration import TokenBatches
from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.scheme import Array

SAMPLE_BYTES = 256 * 2**20
_MOST_TOKENS = 4096


@dataclass(frozen=True)
class Observation:
    """What one activation held.

    Attributes:
        low: (channels,) smallest value of each channel.
        high: (channels,) largest value of each channel.
        sample: (tokens, channels) of some tokens, the same ones for every activation.
    """

    low: Array
    high: Array
    sample: Array

    @property
    def largest(self) -> Array:
        """(channels,) largest magnitude of each channel."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @cached_property
    def mean(self) -> Array:
        """(channels,) mean of the sample."""
        return np.asarray(self.sample.mean(axis=0))


def observe(
    emulator: Emulator, batches: TokenBatches, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Observation]:
    """Run ``batches`` in float32 and return what every activation that a MatMul reads held, by name.

    Args:
        emulator: With nothing switched on.
        batches: Real text.
        progress: Called with a text after each batch.
    """
    channels = {matmul.activation: matmul.inputs for matmul in emulator.matmuls}
    tokens = sum(emulator.tokens_looked_at(batch) for batch in batches)
    wanted = min(tokens, _MOST_TOKENS, max(256, SAMPLE_BYTES // (4 * sum(channels.values()))))
    chosen = np.sort(np.random.default_rng(0).choice(tokens, wanted, replace=False))
    low = {name: np.full(width, np.inf, np.float32) for name, width in channels.items()}
    high = {name: np.full(width, -np.inf, np.float32) for name, width in channels.items()}
    sample = {name: np.empty((wanted, width), np.float32) for name, width in channels.items()}
    start = 0
    for found in emulator.look(batches, tuple(channels)):
        count = len(next(iter(found.values())))
        rows = np.flatnonzero((chosen >= start) & (chosen < start + count))
        for name, values in found.items():
            np.minimum(low[name], values.min(axis=0), out=low[name])
            np.maximum(high[name], values.max(axis=0), out=high[name])
            sample[name][rows] = values[chosen[rows] - start]
        found.clear()  # before the next batch runs
        start += count
        progress(f"{start} of {tokens} tokens")
    return {name: Observation(low[name], high[name], sample[name]) for name in channels}
