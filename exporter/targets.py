"""The names of what an export can be made for, as enumerations. Each is also the string that manifests hold."""

from __future__ import annotations

from enum import StrEnum


class Padding(StrEnum):
    """Where a row of a batch may be padded.

    ``RIGHT``: only after the tokens, because attention goes by the number of ones in each row of the mask. ``ANY``:
    anywhere, because attention goes by the mask itself.
    """

    RIGHT = "right"
    ANY = "any"
