"""Which probes a server takes: some refuse an empty text, or one that is longer than the model reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from exporter.runtime.vector_types import Vectors
from exporter.serving.embeddings.remote import EmbeddingServer
from exporter.serving.embeddings.requests import RefusedError
from exporter.serving.expected import Expected
from exporter.validator import Check, Reference
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import Figures

NAME = "refused texts"
_MAY_BE_REFUSED = (
    "edge: empty",
    "edge: white space",
    "edge: control characters",
    "edge: one token beyond max_seq_length",
    "edge: far beyond max_seq_length",
)


def answerable(server: EmbeddingServer, expected: Expected) -> tuple[Expected, Check]:
    """Return what is expected without the probes that a server refuses, and a check that names them.

    Only probes that an API may refuse are left out: empty ones, and those that are longer than the model reads. A
    refusal is an error message, not another vector, so it fails nothing.
    """
    probes = expected.reference.probes
    refused: dict[int, str] = {}
    asked = [row for row, probe in enumerate(probes) if probe.kind in _MAY_BE_REFUSED]
    for row in asked:
        try:
            server.encode_batch([probes[row].text])
        except RefusedError as error:
            if not error.is_refusal or error.status in {401, 403, 404, 429}:
                raise
            refused[row] = f"{probes[row].kind.removeprefix('edge: ')} (HTTP {error.status}: {error.said})"
    if not refused:
        return expected, Check(NAME, f"none of {len(asked)} texts that a server may refuse")
    kept = [row for row in range(len(probes)) if row not in refused]
    told = f"{len(refused)} of {len(probes)} probes, which the server refuses: {'; '.join(refused.values())}"
    return replace(expected, reference=rows_of(expected.reference, kept)), Check.skipped(NAME, told)


def rows_of(reference: Reference, rows: Sequence[int]) -> Reference:
    """Return some of the probes, with all that is known of them."""
    kept = list(rows)
    return replace(
        reference,
        probes=tuple(reference.probes[row] for row in kept),
        vectors=reference.vectors[kept],
        token_ids=[reference.token_ids[row] for row in kept],
        format_losses={name: _loss_of(loss, kept) for name, loss in reference.format_losses.items()},
        rounding=None if reference.rounding is None else partial(_rounding_of, reference.rounding, kept),
    )


def _rounding_of(of_all: Callable[[Sequence[int]], FormatLoss], kept: list[int], rows: Sequence[int]) -> FormatLoss:
    return _loss_of(of_all([kept[row] for row in rows]), kept)


def _loss_of(loss: FormatLoss, rows: list[int]) -> FormatLoss:
    emulated: Vectors | None = None if loss.emulated is None else loss.emulated[rows]
    return replace(loss, parity=Figures.only(loss.parity, rows), emulated=emulated, emulate_again=None)
