"""How near an assignment of int8 to MatMuls comes to float32, on sentences that no scale was taken from.

Every result is written to a ledger as soon as it is known, so that an export that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from exporter.precisions.int8.emulator import Batch, Emulator, Prefix
from exporter.precisions.int8.scheme import Array, Quantization
from exporter.recipe import Gate
from exporter.validator.parity import compare

MARGIN = 0.8  # of the loss that a gate allows: what may be used up on held-out text, which is not the probes
_OPPOSITE = 2.0  # relative error of the opposite vector


@dataclass(frozen=True)
class Loss:
    """What an assignment costs in parity with the float32 graph over the held-out sentences.

    Attributes:
        min_cosine: Smallest cosine.
        p01_cosine: First percentile of the cosines.
        mean_cosine: Mean of the cosines.
        neighbor_overlap: Mean share of a sentence's ten nearest that stay among the ten nearest.
        max_relative_error: Largest ``|int8 - float32| / |float32|``.
        max_norm_error: Largest ``| |int8| / |float32| - 1 |``.
    """

    min_cosine: float
    p01_cosine: float
    mean_cosine: float
    neighbor_overlap: float
    max_relative_error: float
    max_norm_error: float

    def budget_used(self, gate: Gate) -> float:
        """Return the largest share of what ``gate`` allows that is used up: above 1 it fails."""
        return max(self.shares_used(gate).values())

    def shares_used(self, gate: Gate) -> dict[str, float]:
        """Return the share of what each bound of ``gate`` allows that is used up, by the name of the statistic.

        Every share is one of squared distances, which the distance of a cosine from 1 is by itself: half the error is
        a quarter of the share, whatever bound it is measured by. None of the bounds is all or nothing, so that less
        error is always a smaller share.
        """
        at_least = (
            ("min cosine", self.min_cosine, gate.min_cosine, 1),
            ("1st percentile of cosine", self.p01_cosine, gate.p01_cosine, 1),
            ("mean cosine", self.mean_cosine, gate.mean_cosine, 1),
            ("mean neighbor overlap", self.neighbor_overlap, gate.mean_neighbor_overlap, 2),
        )
        at_most = (
            ("max relative error", self.max_relative_error, gate.max_relative_error),
            ("norm error", self.max_norm_error, gate.max_norm_error),
        )
        return {
            **{
                name: ((1 - value) / max(1 - bound, 1e-12)) ** power
                for name, value, bound, power in at_least
                if bound is not None
            },
            **{name: (value / bound) ** 2 for name, value, bound in at_most if bound is not None},
        }

    def passes(self, gate: Gate) -> bool:
        """Return whether ``gate`` holds on the held-out sentences with a margin: the probes are other sentences."""
        return self.budget_used(gate) <= MARGIN

    def __str__(self) -> str:
        return f"min cosine {self.min_cosine:.4f}, mean {self.mean_cosine:.4f}, neighbors {self.neighbor_overlap:.1%}"


class Ledger:
    """Results by name in a JSON file, kept only as long as they belong to the same inputs.

    Args:
        path: Where it is, or None to keep it in memory.
        identity: A hash over everything the results depend on; a file of another identity is begun anew.

    Attributes:
        resumed: How many results an interrupted search had left.
        damaged: Whether a file was there that could not be read; everything is measured anew.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self._path, self._identity = path, identity
        self._losses: dict[str, Loss] = {}
        self.resumed, self.damaged = 0, False
        if path is None or not path.is_file():
            return
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["identity"] == identity:
                self._losses = {key: Loss(**loss) for key, loss in content["losses"].items()}
            else:
                path.unlink()  # it is begun anew: nothing in it can be resumed
        except (ValueError, KeyError, TypeError, OSError):
            self.damaged = True
        self.resumed = len(self._losses)

    def get(self, key: str) -> Loss | None:
        """Return a result that is known."""
        return self._losses.get(key)

    def put(self, key: str, loss: Loss) -> None:
        """Keep a result, and write the file."""
        self._losses[key] = loss
        if self._path is None:
            return
        content = {
            "identity": self._identity,
            "losses": {name: asdict(known) for name, known in self._losses.items()},
        }
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(self._path)


class Judge:
    """Measures assignments against the float32 graph.

    Args:
        emulator: The graph with switches.
        batches: Held-out text.
        reference: (rows, dimension) float32 of the float32 graph, in the order of the batches.
        ledger: Where results are kept, by the number of rows too: judges of other text may share it.
    """

    def __init__(self, emulator: Emulator, batches: Sequence[Batch], reference: Array, ledger: Ledger) -> None:
        self._emulator, self._prefix, self._reference, self._ledger = emulator, Prefix(batches), reference, ledger
        self._token_ids = token_ids_of(batches)

    @property
    def sentences(self) -> int:
        """How many sentences it measures with."""
        return len(self._token_ids)

    def loss(self, name: str, quantization: Quantization, on: frozenset[str]) -> Loss:
        """Return what an assignment costs.

        Args:
            name: Of ``quantization``, under which the result is kept.
            quantization: Scales and integers.
            on: Nodes of the MatMuls that compute in int8.
        """
        key = f"{name}, {self.sentences} rows, {hashlib.sha256(' '.join(sorted(on)).encode()).hexdigest()[:16]}"
        known = self._ledger.get(key)
        if known is None:
            found = self._emulator.run_after(self._prefix, quantization, on)
            known = loss_between(self._reference, found, self._token_ids)
            self._ledger.put(key, known)
        return known


def token_ids_of(batches: Iterable[Batch]) -> list[list[int]]:
    """Return the token ids of every row, without padding."""
    return [row[kept].tolist() for ids, mask in batches for row, kept in zip(ids, mask.astype(bool), strict=True)]


def loss_between(reference: Array, found: Array, token_ids: list[list[int]]) -> Loss:
    """Compare two (rows, dimension) matrices; a row that is not finite counts as the opposite vector."""
    parity = compare(reference, found, token_ids)
    cosine = np.nan_to_num(parity.cosine, nan=-1.0)
    error = np.nan_to_num(parity.relative_error, nan=_OPPOSITE)
    ratio = np.nan_to_num(parity.norm_ratio, nan=1 + _OPPOSITE, posinf=1 + _OPPOSITE)
    return Loss(
        min_cosine=float(cosine.min()),
        p01_cosine=float(np.percentile(cosine, 1)),
        mean_cosine=float(cosine.mean()),
        neighbor_overlap=float(parity.neighbor_overlap.mean()),
        max_relative_error=float(error.max()),
        max_norm_error=float(np.abs(ratio - 1).max()),
    )
