"""The check "sweep": five parts, one after another."""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.recipe import Gate, Gates, Shapes
from exporter.targets import Precision
from exporter.validator.check import Check
from exporter.validator.sweeps.against_itself import sweep_batches, sweep_leaks, sweep_widths
from exporter.validator.sweeps.against_pytorch import sweep_positions, sweep_words
from exporter.validator.sweeps.inputs import WIDTH_TOKENS, Rows
from exporter.validator.sweeps.running import PaddedEncoder, Remembering, Run, SweepReference

# int8 is calibrated on text, and loses more on a few words in no order or at few positions: sound all-MiniLM-L6-v2
# comes to cosine 0.928 and relative error 0.38 there, the demo to 0.991 and 0.14. These bounds allow two to three
# times the larger loss; the weights check proves each row to half a step at int8. They go with korsbert's own gate:
# one that allows half of what that allows on text allows half here.
_LEAST_COSINE_OF_INT8, _LARGEST_ERROR_OF_INT8 = 0.8, 0.7
LEAK = 1e-5
"""Largest relative change of a vector when only the ids behind the mask change. Nothing at all is expected."""


def sweep(
    reference: SweepReference,
    candidate: PaddedEncoder,
    shapes: Shapes,
    gate: Gate,
    *,
    rows: Rows = "all",
    width_tokens: int = WIDTH_TOKENS,
    precision: Precision = Precision.FP32,
    right_padding_only: bool = False,
) -> Check:
    """Sweep a candidate, from token ids to vectors.

    Args:
        reference: The PyTorch model.
        candidate: An encoder with the candidate's engine.
        shapes: Batch and sequence extents that the engine must serve.
        gate: Bounds of the candidate's precision. Where it bounds no batch deviation, that is measured and not judged.
        rows: Rows of the table of word embeddings to use: ``"all"``; how many, spread evenly, where the table is proven
            by other means; or ``"sample"``, as many as cost little: 2,000, and more of a small model.
        width_tokens: Tokens of all padded widths together; a model smaller than half of BERT-base gets more, up to
            every width. The widths around boundaries are always taken.
        precision: What the candidate computes in. int8 has bounds of its own for words in no order and single
            positions; where it takes scales from each batch, a vector also depends on what padding consists of.
        right_padding_only: Whether the engine takes lengths instead of a mask (``padding`` in the engine's facts).

    Returns:
        The check ``"sweep"``.
    """
    if precision.is_int8:
        gate = _gate_of_int8(gate)
    bound = gate.max_batch_deviation
    leak = bound if precision.scales_from_batch else LEAK
    run = Run(
        reference,
        Remembering(candidate.encode_padded),
        shapes,
        gate,
        bound,
        leak,
        right_padding_only,
        width_tokens,
        precision,
    )
    parts = [sweep_words(run, rows), sweep_positions(run), sweep_batches(run), sweep_widths(run), sweep_leaks(run)]
    return Check(
        name="sweep",
        coverage=", ".join(part.coverage for part in parts),
        failures=tuple(failure for part in parts for failure in part.failures),
        figures={name: _json(value) for part in parts for name, value in part.figures.items()},
    )


def _gate_of_int8(gate: Gate) -> Gate:
    """Return a gate for words in no order: wider than ``gate``, in proportion to what that allows on text."""
    own = Gates().int8
    cosine = min(1.0, (1 - gate.min_cosine) / (1 - own.min_cosine))
    error = min(1.0, (gate.max_relative_error or np.inf) / (own.max_relative_error or np.inf))
    return gate.model_copy(
        update={
            "min_cosine": 1 - cosine * (1 - _LEAST_COSINE_OF_INT8),
            "max_relative_error": error * _LARGEST_ERROR_OF_INT8,
        }
    )


def _json(value: Any) -> Any:
    """Return a figure as JSON data. NaN and Inf become null, as JSON knows neither."""
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
