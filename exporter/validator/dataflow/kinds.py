"""Kind: what a value of the graph was computed from."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a value was computed from, in words for messages."""

    NOTHING = "nothing"  # an optional input that is left out
    STORED = "stored numbers"
    IDS = "token ids"
    PADDING = "which ids are padding"
    COUNTED_POSITION = "positions counted from the ids"
    MASK = "the attention mask"
    ROW_IS_EMPTY = "whether a row has a token"
    COUNT = "a number for each row, from the attention mask"
    WEIGHT = "a number for each token, from the attention mask"
    BATCH = "the batch size"
    WIDTH = "the padded width"
    SHAPE = "a shape that begins with the batch size"
    OTHER_SHAPE = "a shape without the batch size"
    POSITION = "the padded width alone"
    WIDTH_PER_ROW = "the padded width alone, repeated for each row"
    HIDDEN = "hidden states"
    COMPARISON = "a comparison of hidden states with stored numbers"
    REFUSED = "what was refused before"


WIDTH_ALONE = frozenset({Kind.STORED, Kind.WIDTH, Kind.OTHER_SHAPE, Kind.POSITION})
"""What depends on the padded width and on nothing else."""
