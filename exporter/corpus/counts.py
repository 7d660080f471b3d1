"""What the rows of a dataset came to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Counts of rows and tokens.

    Attributes:
        rows: Of the input.
        encoded: Rows that have a vector.
        duplicates: Rows among them whose text stood in the same window before, and was not encoded again.
        truncated: Rows among them that have more tokens than the model reads.
        faults: Rows without a vector, by what is wrong with them.
        tokens: That were encoded, padding left out.
        padding: Tokens of padding.
    """

    rows: int = 0
    encoded: int = 0
    duplicates: int = 0
    truncated: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    padding: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.rows + other.rows,
            self.encoded + other.encoded,
            self.duplicates + other.duplicates,
            self.truncated + other.truncated,
            dict(Counter(self.faults) + Counter(other.faults)),
            self.tokens + other.tokens,
            self.padding + other.padding,
        )
