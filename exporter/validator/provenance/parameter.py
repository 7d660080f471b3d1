"""A parameter of the checkpoint, and the ways in which a file may hold it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Parameter:
    """A named parameter that a sentence vector depends on.

    Attributes:
        name: As ``SentenceTransformer.named_parameters`` calls it.
        values: float32, of any shape.
        rows: Rows that a sentence vector depends on, for a table that is always read at the same rows (token types).
            None: all of it.
    """

    name: str
    values: npt.NDArray[np.float32]
    rows: tuple[int, ...] | None = None

    @cached_property
    def needed(self) -> int:
        """How many weights a sentence vector depends on."""
        if self.rows is None:
            return int(self.values.size)
        return len(self.rows) * int(self.values[0].size)

    def views(self, shape: tuple[int, ...]) -> Iterator[View]:
        """Yield the views of this parameter that have ``shape``: itself, its transpose, a reshape, a fixed row."""
        size = math.prod(shape)
        for row in self.rows or ():
            if self.values[row].size == size:
                yield View(self, f"row {row}", self.values[row].reshape(shape), row)
        if self.values.size != size:
            return
        if self.values.shape == shape:
            yield View(self, "identity", self.values)
        if self.values.ndim == 2 and self.values.T.shape == shape:
            yield View(self, "transpose", self.values.T)
        elif self.values.shape != shape:
            yield View(self, "reshape", self.values.reshape(shape))


@dataclass(frozen=True, eq=False)
class View:
    """A parameter as a file may hold it, before rounding.

    Attributes:
        parameter: What it is a view of.
        step: How it is derived: ``"identity"``, ``"transpose"``, ``"reshape"`` or ``"row 0"``.
        values: float32 in the shape that the file has; it shares the parameter's memory.
        row: The row, where it is one.
    """

    parameter: Parameter
    step: str
    values: npt.NDArray[np.float32]
    row: int | None = None
