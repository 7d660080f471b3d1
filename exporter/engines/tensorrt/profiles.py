"""Optimization profiles: ranges of shapes that an engine is tuned for, and which of them serves a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from exporter.errors import EngineError
from exporter.recipe import Range, Shapes

SHORT = 64
"""Tokens up to which a sequence counts as short; most sentences are (KorSTS has 14 on average)."""


@dataclass(frozen=True)
class Profile:
    """Extents of both axes, each (least, tuned for, most)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # when it is read from a manifest

    batch: tuple[int, int, int]
    sequence: tuple[int, int, int]

    def holds(self, rows: int, tokens: int) -> bool:
        """Whether a batch of ``rows`` sequences of ``tokens`` each lies within."""
        return self.batch[0] <= rows <= self.batch[2] and self.sequence[0] <= tokens <= self.sequence[2]

    def shapes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Return (batch, sequence) at least, tuned for, and at most."""
        least, tuned, most = zip(self.batch, self.sequence, strict=True)
        return least, tuned, most


def profiles_of(shapes: Shapes, max_sequence: int) -> tuple[Profile, ...]:
    """Return the profiles for a recipe's shapes, narrowest first.

    One sentence alone, many short ones, and everything: kernels tuned for 32 rows waste most of a GPU on one, and those
    tuned for 256 tokens most of it on 14. Where short sequences are all there are, the last would repeat the second.

    Args:
        shapes: Extents that the engine must serve. Without ``sequence`` every length up to the maximum.
        max_sequence: Longest sequence of the model in tokens.
    """
    batch = shapes.batch
    sequence = shapes.sequence or Range(min=1, opt=min(max_sequence, 2 * SHORT), max=max_sequence)
    most = min(sequence.max, max_sequence)
    rows = (batch.min, batch.opt, batch.max)
    everything = (min(sequence.min, most), min(sequence.opt, most), most)
    short = min(SHORT, most)
    profiles = []
    if sequence.min <= short:
        few = (sequence.min, max(sequence.min, min(sequence.opt, short // 2)), short)
        if batch.min == 1 < batch.max:
            profiles.append(Profile((1, 1, 1), few))
        profiles.append(Profile(rows, few))
    if most > short or not profiles:
        profiles.append(Profile(rows, everything))
    return tuple(profiles)


def profile_for(profiles: Sequence[Profile], rows: int, tokens: int) -> int:
    """Return the number of the first, which is the narrowest, profile that holds a batch.

    Raises:
        EngineError: None does.
    """
    for number, profile in enumerate(profiles):
        if profile.holds(rows, tokens):
            return number
    served = "; ".join(f"{p.batch[0]} to {p.batch[2]} rows of {p.sequence[0]} to {p.sequence[2]}" for p in profiles)
    raise EngineError(
        f"a batch of {rows} rows of {tokens} tokens is outside the optimization profiles of the engine ({served})",
        next_step="export it again with other shapes in the recipe",
    )


def pieces(profiles: Sequence[Profile], rows: int) -> list[slice]:
    """Split a batch into runs of as many rows as the engine takes at once, the last with what is left."""
    most = max(profile.batch[2] for profile in profiles)
    return [slice(start, min(start + most, rows)) for start in range(0, rows, most)]
