"""From observations to scales: every method is tried, smoothed and not, and parity on held-out text decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.judge import Judge, Loss
from exporter.precisions.int8.matmuls import MatMul
from exporter.precisions.int8.observer import Observation
from exporter.precisions.int8.ranges import METHODS, Method, value_range
from exporter.precisions.int8.scheme import Array, Quantization, Scheme
from exporter.precisions.int8.smoothing import choose_smoothing
from exporter.recipe import Gate

MULTIPLICATION = 0.9  # smoothing costs a multiplication per number: it has to bring the loss below this share of it


@dataclass(frozen=True)
class Trial:
    """One way to calibrate and what it lost with every MatMul in int8.

    Attributes:
        name: Method and smoothing in words; ``"dynamic"`` where ranges come from each batch.
        method: How ranges were chosen.
        smoothed: Whether outliers were moved into weights.
        loss: On the held-out sentences.
    """

    name: str
    method: Method
    smoothed: bool
    loss: Loss


@dataclass(frozen=True)
class Calibrated:
    """The scales that lost least.

    Attributes:
        quantization: Scales, integers and biases.
        trial: How they were come by.
        trials: Everything that was tried, the chosen one included.
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
    judge: Judge,
    gate: Gate,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibrated:
    """Choose method and smoothing by what all MatMuls in int8 lose together.

    Args:
        emulator: The graph with switches.
        scheme: The target's types.
        seen: What activations held over the calibration text.
        judge: Measures parity on text that is held out.
        gate: What weighs a loss in the smallest, the lowest percent and the mean.
        progress: Told what is tried.
    """
    smooth = choose_smoothing(emulator, seen, scheme, lambda title: progress(f"outliers: {title}"))
    everything = frozenset(matmul.node for matmul in emulator.matmuls)
    trials: list[Trial] = []
    for smoothed in (False, True) if smooth else (False,):
        for method in ("minmax",) if scheme.dynamic else METHODS:
            quantization = quantize(emulator, scheme, seen, method, smooth if smoothed else {})
            name = trial_name("dynamic" if scheme.dynamic else method, smooth if smoothed else {})
            progress(name)
            trials.append(Trial(name, method, smoothed, judge.loss(name, quantization, everything)))
    trial = min(trials, key=lambda trial: trial.loss.budget_used(gate) * (1 if trial.smoothed else MULTIPLICATION))
    smooth = smooth if trial.smoothed else {}
    return Calibrated(quantize(emulator, scheme, seen, trial.method, smooth), trial, tuple(trials), tuple(smooth))


def trial_name(method: str, smooth: Mapping[str, Array]) -> str:
    """Return what a trial is called in ledgers and reports."""
    return f"{method}, smoothed" if smooth else method


def quantize(
    emulator: Emulator,
    scheme: Scheme,
    seen: Mapping[str, Observation],
    method: Method,
    smooth: Mapping[str, Array],
) -> Quantization:
    """Return scales, integers and biases for every MatMul.

    A bias makes up for the mean of what rounding does to its MatMul on the calibration text: averages survive the sum
    of many terms, and mean pooling, where noise does not.

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2.
    """
    activations = {}
    for name, there in seen.items():
        factor = smooth.get(name)
        scaled = there.sample if factor is None else there.sample / factor
        low, high = (there.low, there.high) if factor is None else (there.low / factor, there.high / factor)
        limits = value_range(scaled, float(low.min()), float(high.max()), method, symmetric=scheme.symmetric)
        activations[name] = scheme.activation_of(*limits, factor)
    weights = {}
    for matmul in emulator.matmuls:
        if matmul.weight not in weights:
            factor = smooth.get(matmul.activation)
            weight = emulator.weight(matmul.weight)
            weights[matmul.weight] = scheme.weight_of(weight if factor is None else weight * factor[:, None])
    quantization = Quantization(activations, weights)
    biases = {matmul.node: _corrected_bias(matmul, quantization, emulator, scheme, seen) for matmul in emulator.matmuls}
    return Quantization(activations, weights, biases)


def _corrected_bias(
    matmul: MatMul,
    quantization: Quantization,
    emulator: Emulator,
    scheme: Scheme,
    seen: Mapping[str, Observation],
) -> Array:
    how = quantization.activations[matmul.activation]
    sample = seen[matmul.activation].sample
    restored = sample if how.smooth is None else sample / how.smooth
    if not scheme.dynamic:  # with scales of its own for every batch, only the weight's rounding is known beforehand
        restored = scheme.restored(restored, how)
    wanted = sample.mean(axis=0) @ emulator.weight(matmul.weight)
    found = restored.mean(axis=0) @ quantization.weights[matmul.weight].restored()
    return np.asarray(emulator.bias(matmul) + wanted - found, np.float32)
