"""How a golden file is written, read and signed.

It is a file of safetensors: vectors, token ids and losses are tensors, all else is JSON in its metadata. The JSON has
the SHA-256 of every tensor, and a seal over itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from exporter.bundle.atomic import write_file
from exporter.bundle.signing import Signer, Trusted, refuse_other_file, sign, verify
from exporter.errors import BundleError, InputError, first_line, is_panic, printable
from exporter.files import CONFIGURATION, MiB, read_file
from exporter.golden.content import (
    MAX_PROBES,
    MIN_PROBES,
    Golden,
    GoldenFacts,
    Tensors,
    golden_from,
    hashes_of,
    tensors_of,
)

_METADATA = "korsbert_golden"
_WHOLE_FILE = "."  # how model-signing names the one file that it signs
_MAX_HEADER = 2 * MiB
_DTYPES = {"F16", "F32", "F64", "I32"}  # of others, numpy has none, or none that is expected
_AGAIN = "write it again with `korsbert golden`"


def signature_of(path: Path) -> Path:
    """Return where the signature of a golden file is."""
    return path.with_name(f"{path.name}.sig")


def write_golden(path: Path, golden: Golden) -> GoldenFacts:
    """Write a golden file, whole or not at all, and return its facts with their hashes.

    The signature of a file that is replaced is removed.

    Raises:
        InputError: It cannot be written, would be too large to be read, or its vectors do not fit into float16.
    """
    tensors = tensors_of(golden)
    facts = golden.facts.sealed(tensors)
    refuse_to_replace_other_file(path)
    content = save(tensors, {_METADATA: facts.model_dump_json()})
    if len(content) > CONFIGURATION or int.from_bytes(content[:8], "little") > _MAX_HEADER:
        raise InputError(
            f"{path}: would have {len(content) / MiB:.0f} MiB, which is too large", next_step="choose float16"
        )
    try:
        write_file(path, content)
        signature_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}", next_step="choose another `out`") from error
    return facts


def refuse_to_replace_other_file(path: Path) -> None:
    """Refuse a place where no golden file can be written, or where something is that is none.

    Raises:
        InputError: Of the place.
    """
    if not path.name:
        raise InputError("`out` is empty", next_step="give a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written: No such file or directory", next_step=f"create {path.parent}")
    if path.exists() and _stated_in(_read(path)) is None:
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
    return _parse(path, content)


def sign_golden(path: Path, signer: Signer) -> Path:
    """Write the signature of a golden file beside it, and return where.

    Raises:
        InputError: It is no golden file, cannot be written beside, or the key cannot be used.
        BundleError: It was altered.
        MissingDependencyError: model-signing is not installed.
    """
    content = _read(path)
    _parse(path, content)
    signature = sign({_WHOLE_FILE: hashlib.sha256(content).hexdigest()}, path.name, signer)
    try:
        write_file(signature_of(path), signature)
    except OSError as error:
        raise InputError(f"{signature_of(path)}: cannot be written: {error.strerror}") from error
    return signature_of(path)


def _parse(path: Path, content: bytes) -> Golden:
    facts = _facts_in(path, content)
    with _telling_damage(path):
        tensors: Tensors = load(content)
    if hashes_of(tensors) != facts.sha256:
        raise BundleError(f"{path}: altered since it was written: the hash of a tensor differs", next_step=_AGAIN)
    with _telling_damage(path):
        return golden_from(facts, tensors)


@contextmanager
def _telling_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:  # safetensors, which is Rust, may panic
        if not (isinstance(error, SafetensorError | ValueError) or is_panic(error)):
            raise
        raise InputError(f"{path}: damaged, or not a golden file: {first_line(error)}", next_step=_AGAIN) from error


def _facts_in(path: Path, content: bytes) -> GoldenFacts:
    stated = _stated_in(content)
    if stated is None:
        raise InputError(f"{path}: not a golden file", next_step="give a file that `korsbert golden` wrote")
    probes = stated.get("probes")
    if not isinstance(probes, list) or not MIN_PROBES <= len(probes) <= MAX_PROBES:
        count = f"{len(probes)} probes" if isinstance(probes, list) else "no probes"
        raise InputError(
            f"{path}: not a golden file of this version: it has {count}, and {MIN_PROBES} to {MAX_PROBES} are expected",
            next_step=_AGAIN,
        )
    try:
        facts = GoldenFacts.model_validate(stated)
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(".".join(map(str, first["loc"])), 80) or "its facts"
        raise InputError(
            f"{path}: not a golden file of this version: {where}: {first['msg']}", next_step=_AGAIN
        ) from error
    if facts.seal != facts.expected_seal():
        raise BundleError(f"{path}: altered since it was written: its seal does not agree", next_step=_AGAIN)
    return facts


def _stated_in(content: bytes) -> dict[str, Any] | None:
    """Return the facts in the metadata of a file of safetensors, as they are; None of another file.

    The file begins with the length of its JSON header.
    """
    length = int.from_bytes(content[:8], "little")
    if length > _MAX_HEADER:
        return None
    try:
        header = json.loads(content[8 : 8 + length])
        metadata = header.pop("__metadata__")
        stated = json.loads(metadata[_METADATA])
        known = all(tensor["dtype"] in _DTYPES for tensor in header.values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return stated if known and isinstance(stated, dict) else None


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
