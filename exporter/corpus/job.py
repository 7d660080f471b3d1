"""What is to be done, so that it can be sent to another machine, and who does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from exporter.corpus.options import EmbedOptions
from exporter.corpus.plan import Identity, Part
from exporter.corpus.results import Counts, Made
from exporter.corpus.rows import Columns
from exporter.recipe import Gate


@dataclass(frozen=True)
class Job:
    """What every part of an output shares.

    Attributes:
        identity: What the parts are made from.
        columns: What is read of the input.
        schema: Arrow schema of a part.
        prompt: What stands before every text.
        gate: The bundle's, for its bound between a text alone and in a batch.
        options: How.
    """

    identity: Identity
    columns: Columns
    schema: Any
    prompt: str
    gate: Gate
    options: EmbedOptions


class Workers(Protocol):
    """Those who make the parts of a job."""

    def embed(self, parts: Sequence[Part], sampled: Sequence[Part], on_counts: Callable[[Counts], None]) -> Made:
        """Write and commit parts, and encode some rows again to compare them with what was written.

        Args:
            parts: Which are written, in the order of the input.
            sampled: Of which rows are compared, among them some that earlier runs have made.
            on_counts: Called with the counts of rows that are written.

        Raises:
            InputError: A row cannot be encoded and rows are not to be recorded, or a file cannot be read or written.
            GateError: A written vector is another than that of its text.
        """
        ...
