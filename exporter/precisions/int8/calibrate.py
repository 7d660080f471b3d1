"""From observations to scales: every method is tried, smoothed and not, and parity on held-out text decides.

A part of that text shows which two ways lose least, and all of it which one of the two does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.judge import Judge, Loss
from exporter.precisions.int8.observer import Observation
from exporter.precisions.int8.ranges import METHODS, Method, value_range
from exporter.precisions.int8.scheme import Activation, Array, Quantization, Scheme, Weight
from exporter.precisions.int8.smoothing import choose_smoothing
from exporter.recipe import Gate

MULTIPLICATION = 0.9  # smoothing costs a multiplication per number: it has to bring the loss below this share of it

_FINALISTS = 2
_THREADS = 4  # activations that are looked at together: each takes the memory of a few copies of its sample


@dataclass(frozen=True)
class Trial:
    """One way to calibrate and what it lost with every MatMul in int8.

    Attributes:
        name: Method and smoothing in words; ``"dynamic"`` where ranges come from each batch.
        method: How ranges were chosen.
        smoothed: Whether outliers were moved into weights.
        loss: On held-out sentences.
        sentences: How many these were.
    """

    name: str
    method: Method
    smoothed: bool
    loss: Loss
    sentences: int = 0


@dataclass(frozen=True)
class Calibrated:
    """The scales that lost least.

    Attributes:
        quantization: Scales, integers and biases.
        trial: How they were come by.
        trials: Everything that was tried, the chosen one included. Those that were left early lost more than others on
            fewer sentences.
        smoothed: Names of the activations that are smoothed.
    """

    quantization: Quantization
    trial: Trial
    trials: tuple[Trial, ...]
    smoothed: tuple[str, ...]


def calibrate(
    emulator: Emulator,
    scheme: Scheme,
    seen: Mapping[str, Observation],
    part_judge: Judge,
    judge: Judge,
    gate: Gate,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibrated:
    """Choose method and smoothing by what all MatMuls in int8 lose together.

    Args:
        emulator: The graph with switches.
        scheme: The target's types.
        seen: What activations held over the calibration text.
        part_judge: Measures parity on a part of the text that is held out.
        judge: Measures parity on all of it.
        gate: What weighs a loss in the smallest, the lowest percent and the mean.
        progress: Told what is tried.
    """
    smooth = choose_smoothing(emulator, seen, scheme, lambda title: progress(f"outliers: {title}"))
    everything = frozenset(matmul.node for matmul in emulator.matmuls)
    ways: list[tuple[str, Method, bool, Quantization]] = []
    for factors in ({}, smooth) if smooth else ({},):
        weights = _weights(emulator, scheme, factors)
        for method in ("minmax",) if scheme.dynamic else METHODS:
            name = trial_name("dynamic" if scheme.dynamic else method, factors)
            ways.append((name, method, bool(factors), quantize(emulator, scheme, seen, method, factors, weights)))

    def tried(place: int, by: Judge) -> Trial:
        name, method, smoothed, quantization = ways[place]
        progress(name)
        return Trial(name, method, smoothed, by.loss(name, quantization, everything), by.sentences)

    trials, left = {}, list(range(len(ways)))
    if len(ways) > _FINALISTS:
        trials = {place: tried(place, part_judge) for place in left}
        left = sorted(sorted(left, key=lambda place: _weighed(trials[place], gate))[:_FINALISTS])
    trials |= {place: tried(place, judge) for place in left}
    best = min(left, key=lambda place: _weighed(trials[place], gate))
    chosen, in_order = trials[best], tuple(trials[place] for place in range(len(ways)))
    return Calibrated(ways[best][3], chosen, in_order, tuple(smooth) if chosen.smoothed else ())


def _weighed(trial: Trial, gate: Gate) -> float:
    return trial.loss.budget_used(gate) * (1 if trial.smoothed else MULTIPLICATION)


def trial_name(method: str, smooth: Mapping[str, Array]) -> str:
    """Return what a trial is called in ledgers and reports."""
    return f"{method}, smoothed" if smooth else method


def quantize(
    emulator: Emulator,
    scheme: Scheme,
    seen: Mapping[str, Observation],
    method: Method,
    smooth: Mapping[str, Array],
    weights: Mapping[str, Weight] | None = None,
) -> Quantization:
    """Return scales, integers and biases for every MatMul.

    A bias makes up for the mean of what rounding does to its MatMul on the calibration text: averages survive the sum
    of many terms, and mean pooling, where noise does not.

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2.

    Args:
        emulator: The graph with switches.
        scheme: The target's types.
        seen: What activations held over the calibration text.
        method: How ranges are chosen.
        smooth: (channels,) float32 by the name of each activation that is smoothed.
        weights: The weights in int8 with this smoothing, if another method has them already.
    """
    weights = _weights(emulator, scheme, smooth) if weights is None else weights
    with ThreadPoolExecutor(_THREADS) as threads:  # numpy computes outside of Python's lock
        found = threads.map(lambda name: _quantized(seen[name], scheme, method, smooth.get(name)), seen)
        quantized = dict(zip(seen, found, strict=True))
    biases = {}
    for matmul in emulator.matmuls:
        wanted = seen[matmul.activation].mean @ emulator.weight(matmul.weight)
        rounded = quantized[matmul.activation].mean @ weights[matmul.weight].restored()
        biases[matmul.node] = np.asarray(emulator.bias(matmul) + wanted - rounded, np.float32)
    return Quantization({name: there.how for name, there in quantized.items()}, weights, biases)


def _weights(emulator: Emulator, scheme: Scheme, smooth: Mapping[str, Array]) -> dict[str, Weight]:
    """Return every weight in int8, by name: smoothing changes it, the method of ranges does not."""
    weights: dict[str, Weight] = {}
    for matmul in emulator.matmuls:
        if matmul.weight not in weights:
            factor = smooth.get(matmul.activation)
            weight = emulator.weight(matmul.weight)
            weights[matmul.weight] = scheme.weight_of(weight if factor is None else weight * factor[:, None])
    return weights


@dataclass(frozen=True)
class _Quantized:
    """How an activation is quantized, and (channels,) the mean of what is left of its sample."""

    how: Activation
    mean: Array


def _quantized(there: Observation, scheme: Scheme, method: Method, factor: Array | None) -> _Quantized:
    sample = there.sample if factor is None else there.sample / factor
    low, high = (there.low, there.high) if factor is None else (there.low / factor, there.high / factor)
    limits = value_range(sample, float(low.min()), float(high.max()), method, symmetric=scheme.symmetric)
    how = scheme.activation_of(*limits, factor)
    if not scheme.dynamic:  # with scales of its own for every batch, only the weight's rounding is known beforehand
        sample = scheme.restored(sample, how)
    return _Quantized(how, np.asarray(sample.mean(axis=0)))
