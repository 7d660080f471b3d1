"""What a comparison may be asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.comparison.search import METRICS, Metric
from exporter.errors import InputError
from exporter.targets import Precision

ROWS = 10_000
"""Rows that are compared by default, at most."""


@dataclass(frozen=True)
class CompareOptions:
    """How two sides are compared.

    Attributes:
        text: Sentences, one a line, or JSONL with ``text``; by default the probes that ship.
        id_column: The column, or the field of JSONL, that says which rows belong together.
        k: How many nearest are compared.
        rows: How many rows are compared at most, evenly spread. Memory grows with them, some 70 bytes for each number
            of a side's vectors; time grows with the square.
        sts: Task sets to score both sides on.
        minimum_gate: The bounds of each side against its checkpoint; see ``bounds``.
        min_overlap: The least overlap of searches; by default what the gates leave.
        precisions: Whose gates count, for A and for B; by default what the side says of itself, and fp16 where it says
            nothing.
        similarity: How vectors are compared; by default as the model says, or by cosine.
        speed: Whether the speed of two bundles is measured.
        threads: CPU threads; by default as many as there are cores.
        require_signature: Refuse bundles that are not signed by this (PEM).
    """

    text: Path | None = None
    id_column: str | None = None
    k: int = 10
    rows: int = ROWS
    sts: tuple[Path, ...] = ()
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE
    min_overlap: float | None = None
    precisions: tuple[Precision | None, Precision | None] = (None, None)
    similarity: Metric | None = None
    speed: bool = True
    threads: int | None = None
    require_signature: Path | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            InputError: One is beyond what is possible.
        """
        for name, least in (("k", 1), ("rows", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"`{name}` is {value}, and must be {least} or more")
        if self.min_overlap is not None and not 0 < self.min_overlap <= 1:
            raise InputError(f"`min_overlap` is {self.min_overlap}, and must be above 0 and at most 1")
        if self.similarity is not None and self.similarity not in METRICS:
            raise InputError(f"`similarity` is {self.similarity!r}", next_step=f"use one of {', '.join(METRICS)}")


@dataclass(frozen=True)
class Watcher:
    """Who is told about progress.

    Attributes:
        on_stage: Called with the name of what is done next.
        on_note: Called with what should be known before anything is encoded.
    """

    on_stage: Callable[[str], None] = lambda _: None
    on_note: Callable[[str], None] = lambda _: None
