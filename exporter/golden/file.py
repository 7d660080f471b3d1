"""What a golden file holds, and how it is written, read and signed.

It is a file of safetensors: vectors, token ids and losses are tensors, all else is JSON in its metadata. The JSON has
the SHA-256 of every tensor, and a seal over itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from exporter.bundle.atomic import write_file
from exporter.bundle.signing import Signer, Trusted, refuse_other_file, sign, verify
from exporter.errors import BundleError, InputError, first_line
from exporter.files import CONFIGURATION, read_file
from exporter.recipe import Gates, Source
from exporter.runtime.facts import EncoderFacts
from exporter.runtime.vector_types import Ranges, Vectors
from exporter.validator import Reference
from exporter.validator.format_loss import FormatLoss
from exporter.validator.probes import Probe
from exporter.validator.prompts import PromptVectors, named_prompts, sampled

_METADATA = "korsbert_golden"
_WHOLE_FILE = "."  # how model-signing names the one file that it signs
_MOST_OF_FLOAT16 = 65504.0

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
        hashed = self.model_copy(update={"sha256": {name: _sha256(tensor) for name, tensor in tensors.items()}})
        return hashed.model_copy(update={"seal": hashed.expected_seal()})

    def expected_seal(self) -> str:
        """Return the seal of the present content."""
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()


@dataclass(frozen=True)
class _Errors:
    """See ``parity.RowErrors``; NaN where a row is not known."""

    cosine: npt.NDArray[np.float64]
    centered_cosine: npt.NDArray[np.float64]
    relative_error: npt.NDArray[np.float64]


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

    def reference(self, ranges: Ranges | None) -> Reference:
        """Return what candidates are compared with.

        Args:
            ranges: The ranges of int8 vectors; None where no stored vectors are judged.
        """
        rounding = self.losses.get("fp32")
        return Reference(
            tuple(Probe(text, kind) for text, kind in self.facts.probes),
            self.vectors,
            self.token_ids,
            (),
            {precision: loss for precision, loss in self.losses.items() if precision != "fp32"},
            None if rounding is None else lambda _: rounding,
            ranges,
            self.facts.truncate_dims,
        )


def signature_of(path: Path) -> Path:
    """Return where the signature of a golden file is."""
    return path.with_name(f"{path.name}.sig")


def write_golden(path: Path, golden: Golden) -> GoldenFacts:
    """Write a golden file, whole or not at all, and return its facts with their hashes.

    Raises:
        InputError: It cannot be written, or its vectors do not fit into float16.
    """
    tensors = _tensors_of(golden)
    facts = golden.facts.sealed(tensors)
    refuse_to_replace_other_file(path)
    try:
        write_file(path, save(tensors, {_METADATA: facts.model_dump_json()}))
        signature_of(path).unlink(missing_ok=True)  # of what was replaced
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}", next_step="choose another `out`") from error
    return facts


def refuse_to_replace_other_file(path: Path) -> None:
    """Refuse a path at which something is that is no golden file.

    Raises:
        InputError: There is.
    """
    if not path.name:
        raise InputError("`out` is empty", next_step="give a file")
    if path.exists() and _METADATA.encode() not in _read(path)[: 2**16]:
        raise InputError(f"{path}: is there, and is no golden file", next_step="choose another `out`")


def read_golden(path: Path, *, require_signature: Path | Trusted | None = None) -> Golden:
    """Read a golden file, and compare its content with its hashes.

    Args:
        path: The file.
        require_signature: Refuse it unless it is signed by this: a public key or certificates (PEM).

    Raises:
        InputError: It cannot be read, or is no golden file.
        BundleError: It was altered, or a required signature is missing or not valid.
        MissingDependencyError: A signature is required, and model-signing is not installed.
    """
    content = _read(path)
    if require_signature is not None:
        _verify_signature(path, content, require_signature)
    facts = _facts_in(path, content)
    try:
        tensors: Tensors = load(content)
        if {name: _sha256(tensor) for name, tensor in tensors.items()} != facts.sha256:
            raise BundleError(f"{path}: altered since it was written: the hash of a tensor differs", next_step=_AGAIN)
        return _golden_of(facts, tensors)
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{path}: damaged, or not a golden file: {first_line(error)}", next_step=_AGAIN) from error


def sign_golden(path: Path, signer: Signer) -> Path:
    """Write the signature of a golden file beside it, and return where.

    Raises:
        InputError: It is no golden file, cannot be written beside, or the key cannot be used.
        BundleError: It was altered.
        MissingDependencyError: model-signing is not installed.
    """
    read_golden(path)
    signature = sign({_WHOLE_FILE: hashlib.sha256(_read(path)).hexdigest()}, path.name, signer)
    try:
        write_file(signature_of(path), signature)
    except OSError as error:
        raise InputError(f"{signature_of(path)}: cannot be written: {error.strerror}") from error
    return signature_of(path)


_AGAIN = "write it again with `korsbert golden`"


def _tensors_of(golden: Golden) -> Tensors:
    dtype = np.dtype(golden.facts.dtype)
    counts = [len(row) for row in golden.token_ids]
    vectors = {"vectors": golden.vectors, **_prompted(golden.prompts)}
    if dtype == np.float16 and max(float(np.abs(each).max(initial=0)) for each in vectors.values()) > _MOST_OF_FLOAT16:
        raise InputError("the vectors do not fit into float16", next_step="choose float32")
    return {
        **{name: np.ascontiguousarray(each, dtype) for name, each in vectors.items()},
        "token_counts": np.array(counts, np.int32),
        "token_ids": np.array([one for row in golden.token_ids for one in row], np.int32),
        **{
            f"loss.{precision}": np.stack([errors.cosine, errors.centered_cosine, errors.relative_error])
            for precision, errors in ((name, loss.parity) for name, loss in golden.losses.items())
        },
    }


def _prompted(prompts: PromptVectors | None) -> Tensors:
    if prompts is None:
        return {}
    named = {f"prompt.{name}": vectors for name, vectors in prompts.named.items()}
    return {**named, "query": prompts.query, "document": prompts.document}


def _golden_of(facts: GoldenFacts, tensors: Tensors) -> Golden:
    """Return the content of a file whose hashes agree.

    Raises:
        ValueError: A tensor is missing, or has another shape or type than the facts say.
    """
    rows, dimension = len(facts.probes), facts.encoder.dimension
    if not rows:
        raise ValueError("it has no probes")
    counts = _tensor(tensors, "token_counts", (rows,), "int32")
    if counts.min() < 0:
        raise ValueError("token_counts has a number below 0")
    ids = _tensor(tensors, "token_ids", (int(counts.sum()),), "int32")
    losses = {
        precision: FormatLoss(source, _Errors(*_tensor(tensors, f"loss.{precision}", (3, rows), "float64")))
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


def _tensor(tensors: Tensors, name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    found = tensors.get(name)
    if found is None:
        raise ValueError(f"it has no {name}")
    if found.shape != shape or found.dtype != np.dtype(dtype):
        raise ValueError(f"{name} is {found.dtype} {found.shape}, and should be {dtype} {shape}")
    return found


def _facts_in(path: Path, content: bytes) -> GoldenFacts:
    """Return the facts in the metadata of a file of safetensors, which begins with the length of its JSON header."""
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        found = header["__metadata__"][_METADATA]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a golden file", next_step="give a file that `korsbert golden` wrote") from error
    try:
        facts = GoldenFacts.model_validate_json(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its facts"
        raise InputError(
            f"{path}: not a golden file of this version: {where}: {first['msg']}", next_step=_AGAIN
        ) from error
    if facts.seal != facts.expected_seal():
        raise BundleError(f"{path}: altered since it was written: its seal does not agree", next_step=_AGAIN)
    return facts


def _verify_signature(path: Path, content: bytes, trusted: Path | Trusted) -> None:
    trusted = Trusted.of(trusted) if isinstance(trusted, Path) else trusted
    place = signature_of(path)
    if not place.is_file():
        raise BundleError(
            f"{path}: not signed, and a signature by {trusted.path} is required",
            next_step="get its signature from its signer",
        )
    signature = _read(place)
    refuse_other_file(place, signature)
    verify({_WHOLE_FILE: hashlib.sha256(content).hexdigest()}, signature, trusted, path, place)


def _read(path: Path) -> bytes:
    try:
        return read_file(path, CONFIGURATION)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", next_step="check the path") from error


def _sha256(tensor: npt.NDArray[Any]) -> str:
    return hashlib.sha256(tensor.tobytes()).hexdigest()
