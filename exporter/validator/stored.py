"""Vectors as they are stored: the candidate's and the reference's in the same type, with the same ranges.

A gate bounds how far a vector moves. Who stores vectors truncated, as int8 or as bits notices something else: which
signs and codes turn over, and which neighbors a search still finds. Both sides go through the function that an encoder
stores with (``runtime/vector_types.py``), which tests compare with sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.runtime.contract import VectorType
from exporter.runtime.vector_types import Ranges, Vectors, normalized, quantize_embeddings, truncated
from exporter.validator.check import Check
from exporter.validator.parity import NEAREST, Matrix, Parity, compare, text_numbers

_MOST_OF_FLOAT16 = 65504.0
_EQUAL = 1e-12
"""Similarities that differ by less are equal: they are sums of the same numbers in another order."""


@dataclass(frozen=True)
class StoredLoss:
    """What storing as one type leaves of the agreement between candidate and reference.

    uint8 has the codes of int8 plus 128, and ubinary the bits of binary: what is found of one holds for the other.

    Attributes:
        dimension: To how many dimensions the vectors are truncated.
        type: ``"float16"``, ``"int8"`` or ``"binary"``.
        normalize: Whether they are normalized before they are stored.
        neighbors_kept: Mean share of the ten nearest texts, by the stored reference, that the stored candidate finds.
            Texts that are equally near take each other's place (see ``neighbors_kept``).
        neighbors_of_type: The same share of the ten nearest by the float32 reference that the stored reference finds:
            what the type itself keeps, and how well its ranges fit. Codes of int8 are turned back into numbers for it.
        changed: Share of codes that differ by more than one step (int8), or of signs that differ (binary); None for
            float16.
        beyond_ranges: Share of the reference's values that lie beyond the ranges (int8); None for the others.
    """

    dimension: int
    type: VectorType
    normalize: bool
    neighbors_kept: float
    neighbors_of_type: float
    changed: float | None
    beyond_ranges: float | None = None

    @property
    def name(self) -> str:
        """The type and what was done before, in words."""
        return f"{'normalized ' if self.normalize else ''}{self.type}"


@dataclass(frozen=True)
class Storage:
    """What was found of stored vectors.

    Attributes:
        full_dimension: Length of vectors that are not truncated.
        truncated: Parity of the truncated vectors, by their dimension, largest first.
        losses: By dimension, largest first, and by type.
    """

    full_dimension: int
    truncated: dict[int, Parity]
    losses: tuple[StoredLoss, ...]

    def check(self) -> Check:
        """Return what was judged, for the report; verdicts say how."""
        dimensions = dict.fromkeys(loss.dimension for loss in self.losses)
        types = dict.fromkeys(loss.type for loss in self.losses)
        beyond = max((loss.beyond_ranges for loss in self.losses if loss.beyond_ranges is not None), default=0.0)
        return Check(
            "stored vectors",
            f"{', '.join(map(str, dimensions))} dimensions as {', '.join(types)} (uint8 and ubinary are the same "
            f"codes); {beyond:.2%} of the values lie beyond the ranges of int8",
        )


def compare_stored(
    reference: Vectors,
    candidate: Vectors,
    token_ids: Sequence[Sequence[int]],
    ranges: Ranges,
    truncate_dims: Sequence[int] = (),
) -> Storage:
    """Compare a candidate with the reference in every type that vectors are stored in.

    Args:
        reference: (rows, dimension) float32.
        candidate: The same of the candidate, without NaN and Inf.
        token_ids: Token ids of each row: rows with equal ids are one text.
        ranges: Of int8.
        truncate_dims: Dimensions that vectors are truncated to, besides their own.
    """
    full = reference.shape[1]
    dimensions = sorted({full, *truncate_dims}, reverse=True)
    _, texts = np.unique(text_numbers(token_ids), return_index=True)
    losses = []
    for dimension in dimensions:
        wanted, found = truncated(reference, dimension), truncated(candidate, dimension)
        losses += list(_losses(wanted, found, texts, ranges))
    return Storage(
        full,
        {
            dimension: compare(truncated(reference, dimension), truncated(candidate, dimension), token_ids)
            for dimension in dimensions
            if dimension < full
        },
        tuple(losses),
    )


def _losses(wanted: Vectors, found: Vectors, texts: npt.NDArray[np.int64], ranges: Ranges) -> Iterator[StoredLoss]:
    dimension = wanted.shape[1]
    exact = _similarity(wanted[texts])
    sides = wanted, found

    def loss(
        kind: VectorType,
        codes: Any,
        *,
        normalize: bool = False,
        numbers: Any = None,
        changed: Any = None,
        beyond: Any = None,
    ) -> StoredLoss:
        first, second = (_similarity(side[texts]) for side in codes)
        return StoredLoss(
            dimension,
            kind,
            normalize,
            neighbors_kept(first, second),
            neighbors_kept(exact, first if numbers is None else _similarity(numbers[texts])),
            None if changed is None else float(np.mean(changed)),
            None if beyond is None else float(np.mean(beyond)),
        )

    if max(float(np.abs(side).max(initial=0)) for side in sides) < _MOST_OF_FLOAT16:
        yield loss("float16", [quantize_embeddings(side, "float16") for side in sides])
    for normalize in (False, True):
        own = ranges.at(dimension, normalize=normalize)
        values = [normalized(side) if normalize else side for side in sides]
        codes = [quantize_embeddings(side, "int8", own) for side in values]
        steps = np.abs(codes[0].astype(np.int16) - codes[1])
        beyond = (values[0] < own[0]) | (values[0] > own[1])
        numbers = (codes[0].astype(np.float64) + 128) * (own[1] - own[0]) / 255 + own[0]
        yield loss("int8", codes, normalize=normalize, numbers=numbers, changed=steps > 1, beyond=beyond)
    signs = [np.where(side > 0, 1, -1).astype(np.int8) for side in sides]
    yield loss("binary", signs, changed=signs[0] != signs[1])


def _similarity(vectors: npt.NDArray[Any]) -> Matrix:
    """Return the cosines of all pairs. Of signs, this is the Hamming distance up to a factor."""
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    product: Matrix = (exact @ exact.T) / np.maximum(np.outer(norms, norms), np.finfo(np.float64).tiny)
    return product


def neighbors_kept(wanted: Matrix, found: Matrix) -> float:
    """Return the mean share of each row's ten nearest by ``wanted`` that are among its ten nearest by ``found``.

    Coarse codes make many texts equally near. A text counts as kept if it is at least as near, by ``wanted``, as the
    tenth. Of texts that ``found`` has equally near at the tenth place, it is the share that counts: what a search would
    find of them on average. Vectors that are all alike find no more than by chance.

    Args:
        wanted: (texts, texts) similarity of each two texts.
        found: The same by the candidate.
    """
    others = ~np.eye(len(wanted), dtype=bool)
    count = min(NEAREST, len(wanted) - 1)
    if count < 1:
        return 1.0
    shares = []
    for row, left in enumerate(others):
        near, nearer = wanted[row, left], found[row, left]
        kept = near >= np.partition(near, -count)[-count] - _EQUAL
        tenth = np.partition(nearer, -count)[-count]
        above, tied = nearer > tenth + _EQUAL, np.abs(nearer - tenth) <= _EQUAL
        shares.append((kept[above].sum() + (count - above.sum()) * kept[tied].mean()) / count)
    return float(np.mean(shares))
