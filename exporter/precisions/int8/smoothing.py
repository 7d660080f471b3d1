"""Scales per channel that move outliers from activations, which have one step, into weights, which have one per column.

``(x / s) (s W) = x W``. With ``s_j = max|x_j|^a / max|W_j|^(1 - a)``, a channel j that is large in x and small in W
meets W halfway; ``a`` is the strength. It is chosen per activation by the error of the MatMuls themselves, over a
sample of real tokens, and left off where it gains less than it costs: one multiplication per number.

The layers of these encoders add the output of a LayerNorm to a later one (post-LN), so a scale folded into that
LayerNorm has to be undone on the way to the sum: the same one multiplication. It therefore stands before Q instead,
where the residual keeps its numbers.

Source: Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.precisions.int8.emulator import Emulator
from exporter.precisions.int8.matmuls import MatMul
from exporter.precisions.int8.observer import Observation
from exporter.precisions.int8.scheme import Array, Scheme

STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WORTH_IT = 0.75  # of the error without: what smoothing must bring it down to
_TOKENS = 512  # of the sample, for choosing
_SMALLEST = 1e-5
_WIDEST = 32
"""The largest scale divided by the smallest, at most. A row of W that is made far smaller than others keeps few
integers, and an activation that hardly ever fires needs no finer step."""
_FINEST_LOST = 64
"""Of its largest integer, a row keeps one part in so many, or the check of the weights refuses it
(``validator/provenance/tensors.py``)."""


def groups_of(matmuls: Sequence[MatMul]) -> list[tuple[MatMul, ...]]:
    """Return the MatMuls in groups that must share one scale: by activation, and by weight where it is shared."""
    group: dict[str, int] = {}
    for matmul in matmuls:
        ends = (f"x {matmul.activation}", f"w {matmul.weight}")
        known = sorted({group[end] for end in ends if end in group})
        number = known[0] if known else len(group)
        for end, other in group.items():
            group[end] = number if other in known else other
        group |= dict.fromkeys(ends, number)
    numbers = list(dict.fromkeys(group[f"x {matmul.activation}"] for matmul in matmuls))
    return [tuple(p for p in matmuls if group[f"x {p.activation}"] == number) for number in numbers]


def choose_smoothing(
    emulator: Emulator,
    seen: Mapping[str, Observation],
    scheme: Scheme,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Array]:
    """Return (channels,) float32 by the name of each activation that gains by smoothing."""
    chosen: dict[str, Array] = {}
    for group in groups_of(emulator.matmuls):
        if scheme.merges_factors and any(matmul.scaled for matmul in group):
            continue
        progress(group[0].title)
        products = _products(group, emulator, seen)
        plain = _error(products, None, emulator, seen, scheme)
        tried = [_scales(group, strength, emulator, seen) for strength in STRENGTHS]
        errors = [_error(products, smooth, emulator, seen, scheme) for smooth in tried]
        for place in np.argsort(errors, kind="stable"):
            if not errors[place] < WORTH_IT * plain:
                break
            if _keeps_rows(group, tried[place], emulator, scheme):
                chosen |= dict.fromkeys((matmul.activation for matmul in group), tried[place])
                break
    return chosen


def _keeps_rows(group: Sequence[MatMul], smooth: Array, emulator: Emulator, scheme: Scheme) -> bool:
    """Whether every row of the weights that is not zero in int8 keeps enough of its integers."""
    for name in {matmul.weight: None for matmul in group}:
        weight = emulator.weight(name)
        after = _largest_integers(weight * smooth[:, None], scheme)
        if (_FINEST_LOST * after < 127).any() and (_FINEST_LOST * after < _largest_integers(weight, scheme)).any():
            return False
    return True


def _largest_integers(weight: Array, scheme: Scheme) -> npt.NDArray[np.int64]:
    """Return the largest magnitude in each row of a weight in int8: (inputs,)."""
    return np.asarray(np.abs(scheme.weight_of(weight).values).max(axis=1), np.int64)


def _scales(group: Sequence[MatMul], strength: float, emulator: Emulator, seen: Mapping[str, Observation]) -> Array:
    largest = _largest(seen[matmul.activation].largest for matmul in group)
    weight = _largest(np.abs(emulator.weight(name)).max(axis=1) for name in {p.weight: None for p in group})
    scales = largest**strength / weight ** (1 - strength)
    scales = np.maximum(scales, scales.max() / _WIDEST)
    return np.asarray(scales / np.exp(np.log(scales).mean()), np.float32)


def _largest(channels: Iterable[Array]) -> Array:
    return np.asarray(np.maximum(np.max(list(channels), axis=0), _SMALLEST), np.float32)


@dataclass(frozen=True)
class _Product:
    """What a MatMul computes from the sample in float32: (tokens, outputs), and the sum of its columns' variances."""

    values: Array
    variance: float


def _products(group: Sequence[MatMul], emulator: Emulator, seen: Mapping[str, Observation]) -> dict[MatMul, _Product]:
    values = {matmul: _sample(seen[matmul.activation]) @ emulator.weight(matmul.weight) for matmul in group}
    return {matmul: _Product(found, max(float(found.var(axis=0).sum()), _SMALLEST)) for matmul, found in values.items()}


def _sample(there: Observation) -> Array:
    return there.sample[:: max(1, len(there.sample) // _TOKENS)]


def _error(
    products: Mapping[MatMul, _Product],
    smooth: Array | None,
    emulator: Emulator,
    seen: Mapping[str, Observation],
    scheme: Scheme,
) -> float:
    """Return the squared error of some MatMuls relative to how much they vary, the mean error left out.

    The mean is what the bias makes up for.
    """
    total = 0.0
    factor = 1.0 if smooth is None else smooth
    weights = {
        name: scheme.weight_of(emulator.weight(name) * np.reshape(factor, (-1, 1))).restored()
        for name in {matmul.weight: None for matmul in products}
    }
    restored: dict[str, Array] = {}  # query, key and value read the same
    for matmul, wanted in products.items():
        there = seen[matmul.activation]
        if matmul.activation not in restored:
            low, high = float((there.low / factor).min()), float((there.high / factor).max())
            restored[matmul.activation] = scheme.restored(_sample(there) / factor, scheme.activation_of(low, high))
        lost = restored[matmul.activation] @ weights[matmul.weight] - wanted.values
        total += float(lost.var(axis=0).sum() / wanted.variance)
    return total
