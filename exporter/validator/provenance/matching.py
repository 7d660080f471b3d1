"""Which parameter a stored tensor is: found by content, never by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.validator.provenance.parameter import Parameter, View
from exporter.validator.provenance.stored import blocks
from exporter.validator.provenance.tensors import Tensor

_SAMPLED_ROWS = 16


@dataclass(frozen=True)
class Match:
    """What was found.

    Attributes:
        problem: One sentence on why there is none, or on what is wrong with it; None where all is well.
        views: The parameters that the tensor is derived from; several where parameters are equal.
        largest_step: Largest distance from the parameter, in steps of the quantization.
    """

    problem: str | None
    views: tuple[View, ...] = ()
    largest_step: float = 0.0


@dataclass(frozen=True)
class Difference:
    """How a tensor differs from a parameter.

    Attributes:
        count: How many numbers differ.
        first: Where the first of them is.
        largest_step: Largest distance of the others, in steps.
    """

    count: int
    first: tuple[int, ...]
    largest_step: float


def find(tensor: Tensor, parameters: Iterable[Parameter]) -> Match:
    """Return the parameters that a stored tensor holds."""
    views = [view for parameter in parameters for view in parameter.views(tensor.shape)]
    if not views:
        return Match(f"{described(tensor)} is derived from no parameter: none has its size")
    sampled = slice(None, None, max(1, tensor.shape[0] // _SAMPLED_ROWS))
    shares = {view: float(tensor.compare(view.values, sampled)[0].mean()) for view in views}
    compared = {view: difference(tensor, view.values) for view, share in shares.items() if share == 0}
    equal = tuple(view for view, found in compared.items() if found.count == 0)
    if equal:
        step = min(compared[view].largest_step for view in equal)
        return Match(coarse(tensor, equal[0].values, equal[0].parameter.name), equal, step)
    closest = _closest(tensor, shares, sampled)
    found = difference(tensor, closest.values)
    return Match(
        f"{described(tensor)} is derived from no parameter: the closest, {closest.parameter.name} "
        f"({closest.step}), differs in {found.count:,} of {closest.values.size:,} numbers, first at {found.first}"
    )


def difference(tensor: Tensor, values: npt.NDArray[np.float32]) -> Difference:
    """Compare all of a tensor with float32 values of its shape, block by block."""
    first: tuple[int, ...] = (0,)
    count, largest = 0, 0.0
    for rows in blocks(tensor.shape):
        wrong, step = tensor.compare(values, rows)
        if not count and wrong.any():
            index = [int(number) for number in np.argwhere(wrong)[0]]
            first = (index[0] + (rows.start or 0), *index[1:])
        count += int(np.count_nonzero(wrong))
        largest = max(largest, step)
    return Difference(count, first, largest)


def coarse(tensor: Tensor, values: npt.NDArray[np.float32], name: str) -> str | None:
    """Return a sentence where the steps of a quantized tensor are larger than the parameter calls for."""
    if not tensor.too_coarse(values):
        return None
    return f"{described(tensor)} has larger steps than int8 needs for {name}: half a step of it proves nothing"


def described(tensor: Tensor) -> str:
    """Return name, type and shape of a tensor."""
    return f"{tensor.name} ({tensor.kind} {list(tensor.shape)})"


def _closest(tensor: Tensor, shares: Mapping[View, float], sampled: slice) -> View:
    """Return the view with the fewest differences; among those that differ everywhere, the one with the smallest."""

    def distance(view: View) -> tuple[float, float]:
        apart = np.abs(tensor.restored(sampled) - view.values[sampled])
        return round(shares[view], 2), float(apart.mean())

    return min(shares, key=distance)
