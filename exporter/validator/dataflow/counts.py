"""Numbers from the attention mask are compared with those that poolings need, for every token count and width."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.validator.dataflow.widths import Compared, chosen_widths
from exporter.validator.evaluation import evaluator_of

Numbers = npt.NDArray[np.float64]

_ALL_COUNTS = 1024  # tokens
_CLOSE = 1e-6  # relative: numbers of tokens are exact, and their square roots are rounded to float32


def unknown_numbers(model: ir.Model, value: ir.Value, longest: int) -> Compared:
    """Compute a value for every number of tokens, padded on either side to every width, and find wrong widths.

    Of a row it must be the place of the first or of the last token, the number of tokens, its square root, or the sum
    of the tokens' ranks; of a token its rank. It must be the same one of these for all rows and widths.

    Args:
        model: The float32 graph.
        value: What is computed from the attention mask and the padded width.
        longest: The longest sequence in tokens.
    """
    evaluate = evaluator_of(model, value)
    names = set(_known(_masks(1)))
    wrong: list[int] = []
    widths = chosen_widths(longest, lambda width: 2 * min(width, _ALL_COUNTS) * width)
    for width in reversed(widths):
        mask = _masks(width)
        found = evaluate(mask, mask).astype(np.float64)
        fitting = {name for name, numbers in _known(mask).items() if _are(found, numbers)}
        if names & fitting:
            names &= fitting
        else:
            wrong.append(width)
    return Compared(sorted(wrong), len(widths))


def _masks(width: int) -> npt.NDArray[np.int64]:
    """Return masks of 1 to ``width`` tokens, padded on the right and then on the left: (rows, width)."""
    counts = np.unique(np.rint(np.linspace(1, width, min(width, _ALL_COUNTS))).astype(np.int64))
    right = (np.arange(width) < counts[:, None]).astype(np.int64)
    return np.concatenate([right, right[:, ::-1]])


def _known(mask: npt.NDArray[np.int64]) -> Mapping[str, Numbers]:
    """Return the numbers that poolings need, (rows,) or (rows, width), by their names."""
    first, count = mask.argmax(axis=1), mask.sum(axis=1)
    return {
        "first token": first.astype(np.float64),
        "last token": (first + count - 1).astype(np.float64),
        "tokens": count.astype(np.float64),
        "root of tokens": np.sqrt(count),
        "sum of ranks": count * (count + 1) / 2,
        "ranks": (mask * mask.cumsum(axis=1)).astype(np.float64),
    }


def _are(found: Numbers, numbers: Numbers) -> bool:
    """Whether ``found`` is these numbers, repeated along its last axes."""
    if found.shape[:1] != numbers.shape[:1] or found.size % numbers.size:
        return False
    return np.allclose(found.reshape(*numbers.shape, -1), numbers[..., None], rtol=_CLOSE, atol=0)
