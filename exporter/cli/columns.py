"""How wide the columns of a table are, so that lines are broken at spaces where the table has room for its words."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST_WORD = 22
"""Columns of the longest word that is not broken. Hashes, paths and ids are longer."""


def column_widths(columns: Sequence[Sequence[str]], room: int, whole: int = 0) -> list[int] | None:
    """Return the width of each column; None where there is no room for the longest word of each.

    The widest column is narrowed first, down to its longest word.

    Args:
        columns: The cells of each column.
        room: How wide all columns may be together.
        whole: How many columns, from the left, keep the width of their longest line.
    """
    from rich.cells import cell_len

    widths = [max((cell_len(line) for cell in cells for line in cell.split("\n")), default=0) for cells in columns]
    words = [
        max((cell_len(word) for cell in cells for word in cell.split() if cell_len(word) <= _LONGEST_WORD), default=1)
        for cells in columns
    ]
    longest = [
        width if number < whole else word for number, (width, word) in enumerate(zip(widths, words, strict=True))
    ]
    while sum(widths) > room:
        narrowed = _widest(widths, longest)
        if narrowed is None:
            return None
        widths[narrowed] -= 1
    return widths


def _widest(widths: Sequence[int], least: Sequence[int]) -> int | None:
    """Return the number of the widest column that is wider than its least, or None."""
    wider = [number for number, width in enumerate(widths) if width > least[number]]
    return max(wider, key=lambda number: widths[number], default=None)
