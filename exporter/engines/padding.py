"""Graphs that rely on padding being on the right: what their runners must hold a batch to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exporter.errors import EngineError


def refuse_other_than_right_padding(attention_mask: npt.NDArray[np.int64]) -> None:
    """Refuse a batch that an engine built for right padding would answer wrongly.

    Args:
        attention_mask: (batch, sequence) int64.

    Raises:
        EngineError: A row begins with padding, or has some between its tokens.
    """
    present = attention_mask != 0
    sound = present[:, 0] & (present[:, :-1] >= present[:, 1:]).all(axis=1)
    if not sound.all():
        row = int(np.argmin(sound))
        raise EngineError(
            f"row {row} of the batch has padding before or between its tokens, but this engine needs it on the right",
            next_step="pad on the right",
        )
