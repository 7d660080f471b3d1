"""The range audit of fp16: the largest activations, and how near they come to the end of float16."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat

from exporter.report.numbers import count, figure, plural

_AboveOne = Annotated[FiniteFloat, Field(gt=1)]


class _Node(BaseModel):
    node: str
    value: Annotated[FiniteFloat, Field(ge=0)] | None
    float32: bool


class Audit(BaseModel):
    """What a page reads of ``fp16.json``."""

    limit: _AboveOne
    headroom: _AboveOne
    sentences: int
    nodes: int
    kept_in_float32: int
    largest: Annotated[tuple[_Node, ...], Field(min_length=1, max_length=100)]

    @property
    def summary(self) -> str:
        """What was found, in words."""
        kept = (
            "so no node stays float32 because of its range"
            if not self.kept_in_float32
            else f"so {plural(self.kept_in_float32, 'node')} {'stays' if self.kept_in_float32 == 1 else 'stay'} float32"
        )
        return (
            f"The largest activation of {plural(self.nodes, 'node')} over {plural(self.sentences, 'sentence')} is "
            f"{figure(self.largest[0].value)}. float16 ends at {count(round(self.limit))}. What comes within a factor "
            f"of {self.headroom:g} of that ({count(round(self.limit / self.headroom))}) stays float32, {kept}."
        )

    @property
    def rows(self) -> tuple[tuple[str, str, float, str], ...]:
        """(node, largest value, its share of the way to the limit, number format) of each node that is listed."""
        return tuple(
            (one.node, figure(one.value), self._way(one.value), "float32" if one.float32 else "float16")
            for one in self.largest
        )

    def _way(self, value: float | None) -> float:
        """Return how far a value is from 1 to the limit, on a logarithmic scale."""
        if value is None:
            return 1.0
        return min(max(math.log(max(value, 1.0)) / math.log(self.limit), 0.0), 1.0)
