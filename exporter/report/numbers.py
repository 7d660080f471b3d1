"""Numbers as a page writes them."""

from __future__ import annotations

import math
from typing import Any

MISSING = "not a number"


def figure(value: Any) -> str:
    """Format a number so that the distance from 1 shows: 0.99999987, not 1.0. None is a NaN or an Inf."""
    if not _finite(value):
        return MISSING
    distance = abs(1 - value)
    if 0 < distance < 0.1:
        return f"{value:.{min(16, 1 - math.floor(math.log10(distance)))}f}"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def small(value: Any) -> str:
    """Format a distance or an error: two digits, and a power of ten where it is small, as in 3.1e-7."""
    return f"{value:.2g}".replace("e-0", "e-") if _finite(value) else MISSING


def count(value: Any) -> str:
    """Format a whole number, in groups of three digits."""
    return f"{value:,d}" if isinstance(value, int) else MISSING


def plural(number: int, word: str) -> str:
    """Return a number with its noun: ``"1 bound"``, ``"2 bounds"``."""
    return f"{number:,d} {word}{'' if number == 1 else 's'}"


def bytes_size(size: int) -> str:
    """Format a size in bytes."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
