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
        aliases: All names, where modules share it.
        plus_one: Whether its module multiplies by 1 more than it (Gemma's RMSNorm).
        computed: Whether transformers computes it from the configuration, and no file holds it: the frequencies of
            rotations. A published file may hold it, and need not.
    """

    name: str
    values: npt.NDArray[np.float32]
    rows: tuple[int, ...] | None = None
    aliases: tuple[str, ...] = ()
    plus_one: bool = False
    computed: bool = False

    @cached_property
    def needed(self) -> int:
        """How many weights a sentence vector depends on."""
        if self.computed:
            return 0
        if self.rows is None:
            return int(self.values.size)
        return len(self.rows) * int(self.values[0].size)

    def views(self, shape: tuple[int, ...]) -> Iterator[View]:
        """Yield the views of this parameter that have ``shape``: itself, its transpose, a reshape, a fixed row.

        Where a module multiplies by 1 more than its weight, a file holds the sum.
        """
        size = math.prod(shape)
        for row in self.rows or ():
            if self.values[row].size == size:
                yield View(self, f"row {row}", self.values[row].reshape(shape), row)
        if self.values.size != size:
            return
        if self.plus_one:
            yield View(self, "plus one", (1 + self.values).reshape(shape))
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
        step: How it is derived: ``"identity"``, ``"transpose"``, ``"reshape"``, ``"plus one"`` or ``"row 0"``.
        values: float32 in the shape that the file has; it shares the parameter's memory.
        row: The row, where it is one.
    """

    parameter: Parameter
    step: str
    values: npt.NDArray[np.float32]
    row: int | None = None
