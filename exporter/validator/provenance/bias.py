"""How far the bias of an int8 MatMul may be from the checkpoint's.

A corrected bias makes up for the mean of what rounding does to its MatMul. With ``u`` the smoothed activation, ``û``
the same after quantization, ``W_s`` the smoothed weight and ``V`` what its integers stand for, the correction is::

    c_j = E[u W_s - û V]_j = sum_i E[u_i] (W_s - V)_ij + sum_i E[u_i - û_i] V_ij

The file says how large each factor can be: ``|u_i| <= R``, the largest magnitude that the quantized activation holds;
``|u_i - û_i| <= step / 2``; ``W_s - V`` and ``V`` are known number for number. Rounding errors of different inputs have
different signs, so that their sum grows like the root of the sum of their squares::

    |c_j| <= 6 sqrt(R^2 sum_i (W_s - V)_ij^2 + (step / 2)^2 sum_i V_ij^2)

Where each batch has a range of its own (dynamic quantization), the correction holds the first sum alone, and R is 1:
these encoders normalize activations to a mean square of about 1.

The factor 6 is measured on the demo, all-MiniLM-L6-v2 and small twins (``python -m benchmarks.bias_corrections``).
Sound exports need at most 0.7 with ranges by minimum and maximum or by least squares, 1.9 with dynamic ranges, and 3.6
by percentile or entropy with smoothing. One combination needs 11.6, and fails: ranges by entropy without smoothing on
all-MiniLM-L6-v2, where the clipped outliers move the means themselves.

What still passes: one wrong bias whose numbers are all within the bound. A single bias filled with zeros passes behind
11 of 24 static int8 MatMuls of the demo, 14 of 35 of all-MiniLM-L6-v2 and 4 of 17 of small ko-sbert-sts; behind 4, 10
and 0 dynamic ones. Without smoothing more pass, 27 of 35 of all-MiniLM-L6-v2. Zeros in all biases of a model fail: they
need a factor of 20 at least (dynamic: 65).

Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from exporter.validator.provenance.parameter import Parameter, View
from exporter.validator.provenance.quantized import QuantizedMatMul
from exporter.validator.provenance.stored import Array, Value
from exporter.validator.provenance.tensors import MatMulTensor, rounding_of

FACTOR = 6.0
_DYNAMIC_RANGE = 1.0


@dataclass(frozen=True)
class Correction:
    """What was added to a bias.

    Attributes:
        parameter: Name of the checkpoint's bias, or None where the module has none.
        size: Largest difference from it.
        share: Largest difference relative to what rounding can explain.
        problem: One sentence where it is more than that.
    """

    parameter: str | None
    size: float
    share: float
    problem: str | None = None


def correction_of(
    bias: Value, matmul: QuantizedMatMul, weight: MatMulTensor, view: View, parameters: Mapping[str, Parameter]
) -> Correction:
    """Compare the bias behind an int8 MatMul with the bias of the module that its weight belongs to.

    Args:
        bias: Stored, (outputs,).
        matmul: The MatMul.
        weight: Its weight.
        view: The parameter that the weight was found to be.
        parameters: All parameters, by name.
    """
    name = f"{view.parameter.name.rpartition('.')[0]}.bias"
    parameter = parameters.get(name)
    stored = bias.array()
    wanted = parameter.values if parameter is not None else np.zeros(weight.shape[1])
    if stored.shape != wanted.shape:
        return Correction(None, 0.0, 0.0, f"{bias.name} {list(stored.shape)} has not the shape of {name}")
    return judge_correction(bias.name, stored, wanted, matmul, weight, view.values, name if parameter else None)


def judge_correction(
    bias: str,
    stored: Array,
    wanted: Array,
    matmul: QuantizedMatMul,
    weight: MatMulTensor,
    values: Array,
    parameter: str | None,
) -> Correction:
    """Compare a stored bias with the one it was made from: both (outputs,)."""
    correction = np.abs(stored.astype(np.float64) - wanted)
    allowed = _explained(matmul, weight, values) + rounding_of(stored)
    share = correction / np.maximum(allowed, np.finfo(np.float64).tiny)
    worst = int(share.argmax())
    problem = None
    if not share[worst] <= 1:
        problem = (
            f"{bias} differs from {parameter or 'no bias'} by {correction[worst]:.3g} at {worst}, "
            f"and the rounding of its MatMul explains {allowed[worst]:.3g}"
        )
    return Correction(parameter, float(correction.max()), float(share[worst]), problem)


def _explained(matmul: QuantizedMatMul, weight: MatMulTensor, values: Array) -> Array:
    """Return (outputs,) of what rounding can explain."""
    everything = slice(None)
    largest = _DYNAMIC_RANGE if matmul.largest is None else matmul.largest
    squares = largest**2 * np.square(weight.errors(values, everything)).sum(axis=0)
    if matmul.step is not None:
        squares += (matmul.step / 2) ** 2 * np.square(weight.smoothed(everything)).sum(axis=0)
    return np.asarray(FACTOR * np.sqrt(squares))
