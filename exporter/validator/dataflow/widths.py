"""Positions are compared at every padded width: the number for a position must not depend on the width."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.validator.evaluation import Evaluate, evaluator_of


def differing_widths(model: ir.Model, value: ir.Value, longest: int) -> list[int]:
    """Compute a value at every width, and return those at which it is no part of what it is at the longest.

    Args:
        model: The float32 graph.
        value: What is computed from the extents of the inputs alone.
        longest: The longest sequence in tokens.
    """
    evaluate = evaluator_of(model, value)
    whole = _computed(evaluate, longest)
    return [width for width in range(1, longest) if not _is_part(_computed(evaluate, width), whole, width, longest)]


def _computed(evaluate: Evaluate, width: int) -> npt.NDArray[Any]:
    ones = np.ones((1, width), dtype=np.int64)
    return evaluate(ones, ones)


def _is_part(found: npt.NDArray[Any], whole: npt.NDArray[Any], width: int, longest: int) -> bool:
    """Whether ``found`` is the first ``width`` entries of ``whole``, along each axis that has one entry per token."""
    if found.ndim != whole.ndim:
        return False
    axes = list(zip(found.shape, whole.shape, strict=True))
    if any(own != most and (own, most) != (width, longest) for own, most in axes):
        return False
    return np.array_equal(found, whole[tuple(slice(own) for own, _ in axes)])
