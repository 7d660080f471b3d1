"""Signatures of bundles, made and verified with ``model-signing`` (the OpenSSF Model Signing format) and no network.

A signature says who published the files; a manifest's own seal cannot, because whoever alters a bundle can seal it
again. It covers the SHA-256 of the manifest and of every file that the manifest lists. The hashes are those of the
bytes that were read, so nothing is read a second time to be verified.

The command ``model_signing verify key`` of ``model-signing`` verifies such a signature too.

Source: https://github.com/sigstore/model-transparency
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from exporter.dependencies import require
from exporter.errors import BundleError, ExportError, InputError, first_line
from exporter.files import read_file
from exporter.runtime.private_file import private_file

SIGNATURE = "model.sig"
"""The name that ``model-signing`` gives a signature by default."""


@dataclass(frozen=True)
class Signer:
    """What a bundle is signed with.

    Attributes:
        private_key: PEM file of an elliptic-curve key (P-256, P-384 or P-521) without a password.
        certificate: PEM file of the key's certificate. With one, whoever trusts its issuer can verify the signature.
        certificate_chain: PEM file of the certificates between ``certificate`` and a root.
    """

    private_key: Path
    certificate: Path | None = None
    certificate_chain: Path | None = None


@dataclass(frozen=True)
class Trusted:
    """What a signature must come from.

    Attributes:
        path: PEM file: a public key, or certificates that the signer's certificate must lead to.
        kind: Which of the two it is.
    """

    path: Path
    kind: Literal["public key", "certificate chain"]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return what a PEM file holds.

        Raises:
            InputError: The file cannot be read.
        """
        try:
            return cls(path, "certificate chain" if b"BEGIN CERTIFICATE" in read_file(path) else "public key")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error


class _Envelope(BaseModel):
    """What tells a signature from any other file: the format's name of itself."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")


def refuse_other_file(path: Path, content: bytes) -> None:
    """Refuse a ``model.sig`` that is no signature, whoever's: as a link to a secret, it would be shipped to servers.

    Raises:
        BundleError: It is not in the format of model-signing.
    """
    try:
        _Envelope.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(
            f"{path}: not a signature in the format of model-signing",
            next_step="get it again from its signer, or remove this file",
        ) from error


def sign(hashes: Mapping[str, str], subject: str, signer: Signer, ignored: Sequence[str] = ()) -> bytes:
    """Return a signature of files, as the bytes of ``model.sig``.

    Args:
        hashes: Name of a file -> its SHA-256 in hexadecimal.
        subject: What is signed, for people who read the signature.
        signer: Key and certificates.
        ignored: Names of files beside them that the signature does not cover.

    Raises:
        InputError: The key or a certificate cannot be used.
        MissingDependencyError: model-signing is not installed.
    """
    config = require("model_signing.signing").Config()
    config.set_hashing_config(_KnownHashes(hashes, subject, (SIGNATURE, *ignored)))
    try:
        _use_signer(config, signer)
        with tempfile.TemporaryDirectory(prefix="korsbert-") as folder:
            path = Path(folder) / SIGNATURE
            config.sign(subject, path)
            return path.read_bytes()
    except ExportError:
        raise
    except Exception as error:  # of the file, of cryptography and of model-signing: they have no base in common
        told = error.strerror if isinstance(error, OSError) else first_line(error)
        raise InputError(
            f"{signer.private_key}: cannot sign with this key: {told}",
            next_step="give an elliptic-curve key (P-256, P-384 or P-521) in PEM, no password, and its certificate",
        ) from error


def verify(
    hashes: Mapping[str, str], signature: bytes, trusted: Trusted, folder: Path, place: Path | None = None
) -> None:
    """Verify that a signature is of these files and comes from ``trusted``.

    Args:
        hashes: Name of a file -> SHA-256, in hexadecimal, of the bytes that were read.
        signature: Content of ``model.sig``.
        trusted: The key or the certificates.
        folder: Where the files are, or the one file that is signed, for messages.
        place: Where the signature is, for messages; by default ``model.sig`` in the folder.

    Raises:
        BundleError: It comes from somebody else, is damaged, or is of other files.
        InputError: ``trusted`` cannot be used.
        MissingDependencyError: model-signing is not installed.
    """
    config = _verifier(trusted)
    known = _KnownHashes(hashes, folder.name)
    config.set_hashing_config(known)
    try:
        # The library prints a warning about signatures of an older format; stdout is for results.
        with private_file(signature) as path, redirect_stdout(io.StringIO()):
            config.verify(folder, path)
    except Exception as error:
        if known.compared:  # so the signature itself is sound, and it is of other files
            raise BundleError(
                f"{folder}: altered since it was signed", next_step="get it again from its signer"
            ) from error
        raise BundleError(
            f"{place or folder / SIGNATURE}: not a signature by the {trusted.kind} {trusted.path}: {first_line(error)}",
            next_step=f"get it again from its signer, or give the signer's {trusted.kind}",
        ) from error


class _KnownHashes:
    """Takes the place of ``model_signing.hashing.Config``, which would read the files again to hash them.

    Attributes:
        compared: Whether the hashes were asked for. Verification does so once the signature itself has been verified.
    """

    def __init__(self, hashes: Mapping[str, str], subject: str, ignored: Sequence[str] = ()) -> None:
        self._hashes, self._subject, self._ignored = hashes, subject, list(ignored)
        self.compared = False

    def hash(self, model_path: object, *, files_to_hash: object = None) -> Any:  # noqa: ARG002 - the library's signature
        """Return the library's manifest of the files."""
        self.compared = True
        manifest, digest = require("model_signing.manifest"), require("model_signing._hashing.hashing").Digest
        serialization = manifest.SerializationType.from_args(
            {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": self._ignored}
        )
        items = [
            serialization.new_item(name, digest("sha256", bytes.fromhex(sha256)))
            for name, sha256 in self._hashes.items()
        ]
        return manifest.Manifest(self._subject, items, serialization)

    def add_ignored_paths(self, *, model_path: object, paths: Iterable[object]) -> None:
        """Do nothing: every file counts, whatever a signature says to ignore."""


def _use_signer(config: Any, signer: Signer) -> None:
    if signer.certificate is None:
        if signer.certificate_chain is not None:
            raise InputError("`certificate_chain` is given without `certificate`", next_step="give both")
        config.use_elliptic_key_signer(private_key=signer.private_key)
        return
    config.use_certificate_signer(
        private_key=signer.private_key,
        signing_certificate=signer.certificate,
        # Without a chain the library wants at least one certificate all the same.
        certificate_chain=[signer.certificate_chain or signer.certificate],
    )


def _verifier(trusted: Trusted) -> Any:
    config = require("model_signing.verifying").Config()
    try:
        if trusted.kind == "public key":
            return config.use_elliptic_key_verifier(public_key=trusted.path)
        return config.use_certificate_verifier(certificate_chain=[trusted.path])
    except Exception as error:
        told = error.strerror if isinstance(error, OSError) else first_line(error)
        raise InputError(
            f"{trusted.path}: cannot be used as a {trusted.kind}: {told}",
            next_step="give an elliptic-curve public key (P-256, P-384 or P-521) or certificates, in PEM",
        ) from error
