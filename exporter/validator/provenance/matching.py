"""Which parameter a stored tensor is: found by content, never by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        views: The parameters that the tensor is derived from; several where parameters are equal.
        problem: One sentence on why there is none, or on what is wrong with it; None where all is well.
        largest_step: Largest distance from the parameter, in steps of the quantization.
    """

    views: tuple[View, ...] = ()
    problem: str | None = None
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
        return Match(problem=f"{described(tensor)} is derived from no parameter: none has its size")
    sampled = slice(None, None, max(1, tensor.shape[0] // _SAMPLED_ROWS))
    shares = [float(tensor.compare(view.values, sampled)[0].mean()) for view in views]
    compared = {view: difference(tensor, view.values) for view, share in zip(views, shares, strict=True) if share == 0}
    equal = tuple(view for view, found in compared.items() if found.count == 0)
    if equal:
        step = min(compared[view].largest_step for view in equal)
        return Match(equal, coarse(tensor, equal[0].values, equal[0].parameter.name), step)
    closest = _closest(tensor, views, shares, sampled)
    found = compared.get(closest) or difference(tensor, closest.values)
    return Match(
        problem=f"{described(tensor)} is derived from no parameter: the closest, {closest.parameter.name} "
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


def _closest(tensor: Tensor, views: Sequence[View], shares: Sequence[float], sampled: slice) -> View:
    """Return the view with the fewest differences; among those that differ everywhere, the one with the smallest."""

    def distance(index: int) -> tuple[float, float]:
        apart = np.abs(tensor.restored(sampled) - views[index].values[sampled])
        return round(shares[index], 2), float(apart.mean())

    return views[min(range(len(views)), key=distance)]
