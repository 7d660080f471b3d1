"""What an encoder asks of an engine."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt


class Runner(Protocol):
    """The only thing the validator and the benchmark know of an engine. A context manager."""

    @property
    def execution(self) -> str:
        """Where and in what numbers it really runs, for example ``"CPUExecutionProvider"`` or ``"CPU, bf16"``."""
        ...

    def run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (batch, sequence) ids and mask to (batch, dimension) float32."""
        ...

    def __enter__(self) -> Self:
        """Return the runner."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release what the engine holds."""
        ...
