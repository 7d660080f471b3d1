"""What a golden file holds: facts as JSON, and tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from exporter.errors import InputError
from exporter.recipe import Gates, Source
from exporter.runtime.facts import EncoderFacts
from exporter.runtime.vector_types import Ranges, Vectors
from exporter.validator import Reference
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import Figures
from exporter.validator.probes import Probe
from exporter.validator.prompts import PromptVectors, named_prompts, sampled

MIN_PROBES, MAX_PROBES = 100, 5000
"""How many probes a golden file may have: few prove nothing, and the time to compare grows with the square."""

Tensors = dict[str, npt.NDArray[Any]]
Stored = Literal["float32", "float16"]


class GoldenFacts(BaseModel):
    """What a golden file says besides its tensors.

    Attributes:
        format: Of the file.
        recipe: Name of the recipe.
        source: The checkpoint whose answers these are.
        encoder: Its facts.
        gates: The bounds that candidates must reach, by precision.
        truncate_dims: Dimensions that vectors are truncated to, largest first.
        probes: Text and kind of every probe.
        dtype: Type of the vectors in the file.
        losses: What computed the loss of a number format, by precision.
        tools: Versions of the tools that made it.
        machine: The machine that made it.
        created: When, ISO 8601.
        sha256: SHA-256 of every tensor's bytes.
        seal: SHA-256 of this JSON, the seal left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    recipe: str
    source: Source
    encoder: EncoderFacts
    gates: Gates
    truncate_dims: tuple[int, ...]
    probes: tuple[tuple[str, str], ...]
    dtype: Stored
    losses: dict[str, str]
    tools: dict[str, str]
    machine: dict[str, Any]
    created: str
    sha256: dict[str, str] = {}
    seal: str = ""

    def sealed(self, tensors: Tensors) -> Self:
        """Return the facts with the hashes of the tensors, and the seal of all of it."""
        hashed = self.model_copy(update={"sha256": hashes_of(tensors)})
        return hashed.model_copy(update={"seal": hashed.expected_seal()})

    def expected_seal(self) -> str:
        """Return the seal of the present content."""
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()


@dataclass(frozen=True)
class Golden:
    """The content of a golden file.

    Attributes:
        facts: All but the tensors.
        vectors: (probes, dimension) float32, with the default prompt.
        token_ids: Token ids of each probe with the default prompt, after truncation.
        losses: What a precision itself loses on the probes; of ``"fp32"``, what rounding does.
        prompts: The answers with the other prompts, where there are any.
    """

    facts: GoldenFacts
    vectors: Vectors
    token_ids: list[list[int]]
    losses: Mapping[str, FormatLoss]
    prompts: PromptVectors | None

    def reference(self, ranges: Ranges | None, truncate_dims: tuple[int, ...] = ()) -> Reference:
        """Return what candidates are compared with.

        Args:
            ranges: The ranges of int8 vectors; None where no stored vectors are judged.
            truncate_dims: Dimensions that stored vectors are truncated to, besides their own.
        """
        return Reference(
            tuple(Probe(text, kind) for text, kind in self.facts.probes),
            self.vectors,
            self.token_ids,
            (),
            {precision: loss for precision, loss in self.losses.items() if precision != "fp32"},
            self._rounding if "fp32" in self.losses else None,
            ranges,
            truncate_dims,
        )

    def _rounding(self, rows: Sequence[int]) -> FormatLoss:
        """Return what float32 itself loses on some probes, as ``reference.rounding_loss_of`` does."""
        whole = self.losses["fp32"]
        return replace(whole, parity=Figures.known(whole.parity, rows))


def tensors_of(golden: Golden) -> Tensors:
    """Return the tensors of a golden file.

    Raises:
        InputError: The vectors do not fit into float16.
    """
    dtype = np.dtype(golden.facts.dtype)
    vectors = {"vectors": golden.vectors, **_prompted(golden.prompts)}
    largest = max(float(np.abs(each).max(initial=0)) for each in vectors.values())
    if largest > float(np.finfo(dtype).max):
        raise InputError(f"the vectors do not fit into {golden.facts.dtype}", next_step="choose float32")
    errors = {precision: loss.parity for precision, loss in golden.losses.items()}
    return {
        **{name: np.ascontiguousarray(each, dtype) for name, each in vectors.items()},
        "token_counts": np.array([len(row) for row in golden.token_ids], np.int32),
        "token_ids": np.array([one for row in golden.token_ids for one in row], np.int32),
        **{
            f"loss.{precision}": np.stack([each.cosine, each.centered_cosine, each.relative_error])
            for precision, each in errors.items()
        },
    }


def _prompted(prompts: PromptVectors | None) -> Tensors:
    if prompts is None:
        return {}
    named = {f"prompt.{name}": vectors for name, vectors in prompts.named.items()}
    return {**named, "query": prompts.query, "document": prompts.document}


def golden_from(facts: GoldenFacts, tensors: Tensors) -> Golden:
    """Return the content of a file whose hashes agree.

    Raises:
        ValueError: A tensor is missing, or has another shape or type than the facts say.
    """
    rows, dimension = len(facts.probes), facts.encoder.dimension
    counts = _tensor(tensors, "token_counts", (rows,), "int32")
    if counts.min() < 0:
        raise ValueError("token_counts has a number below 0")
    ids = _tensor(tensors, "token_ids", (int(counts.sum()),), "int32")
    losses = {
        precision: FormatLoss(source, Figures(*_tensor(tensors, f"loss.{precision}", (3, rows), "float64")))
        for precision, source in facts.losses.items()
    }

    def vectors(name: str, count: int) -> Vectors:
        found = _tensor(tensors, name, (count, dimension), facts.dtype)
        if not np.isfinite(found).all():
            raise ValueError(f"{name} has a number that is not finite")
        return found.astype(np.float32)

    texts = sampled([text for text, _ in facts.probes])
    names = named_prompts(facts.encoder)
    prompts = None
    if names:
        named = {name: vectors(f"prompt.{name}", len(texts)) for name in names}
        prompts = PromptVectors(texts, named, vectors("query", len(texts)), vectors("document", len(texts)))
    token_ids = [row.tolist() for row in np.split(ids, np.cumsum(counts)[:-1])]
    return Golden(facts, vectors("vectors", rows), token_ids, losses, prompts)


def hashes_of(tensors: Tensors) -> dict[str, str]:
    """Return the SHA-256 of the bytes of every tensor."""
    return {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}


def _tensor(tensors: Tensors, name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    found = tensors.get(name)
    if found is None:
        raise ValueError(f"it has no {name}")
    if found.shape != shape or found.dtype != np.dtype(dtype):
        raise ValueError(f"{name} is {found.dtype} {found.shape}, and should be {dtype} {shape}")
    return found
