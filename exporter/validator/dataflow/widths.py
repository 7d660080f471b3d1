"""Positions are compared at every padded width: the number for a position must not depend on the width."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.validator.evaluation import Evaluate, evaluator_of

MOST_NUMBERS = 2**31  # that are computed of one value, over all widths: some ten seconds
_ALL_UP_TO = 256  # widths


@dataclass(frozen=True)
class Compared:
    """What a comparison at many padded widths found.

    Attributes:
        wrong: The widths at which a value is not what it should be.
        widths: How many were compared.
    """

    wrong: list[int]
    widths: int


def differing_widths(model: ir.Model, value: ir.Value, longest: int) -> Compared:
    """Compute a value at every width, and find those at which it is no part of what it is at the longest.

    Args:
        model: The float32 graph.
        value: What is computed from the extents of the inputs alone.
        longest: The longest sequence in tokens.
    """
    evaluate = evaluator_of(model, value)
    whole = _computed(evaluate, longest)
    per_token = sum(size == longest for size in whole.shape)
    widths = chosen_widths(longest, lambda width: whole.size * (width / longest) ** per_token)
    shorter = (width for width in widths if width < longest)
    wrong = [width for width in shorter if not _is_part(_computed(evaluate, width), whole, width, longest)]
    return Compared(wrong, len(widths))


def chosen_widths(longest: int, numbers_at: Callable[[int], float]) -> list[int]:
    """Return the widths to compare at: all, or where that is too much work, the small ones and every n-th.

    Args:
        longest: The largest width.
        numbers_at: How many numbers are computed at a width.
    """
    total = sum(numbers_at(width) for width in range(1, longest + 1))
    step = max(1, math.ceil(total / MOST_NUMBERS))
    return sorted({*range(longest, 0, -step), *range(1, min(longest, _ALL_UP_TO) + 1)})


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
