"""``korsbert sign`` and ``korsbert verify-signature``: proof of who published a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.cli.arguments import BundleArgument, JsonFlag
from exporter.cli.output import print_json
from exporter.errors import InputError


def sign_command(
    bundle: BundleArgument,
    private_key: Annotated[
        Path, typer.Option("--private-key", metavar="FILE", help="Private key: elliptic curve, PEM, no password.")
    ],
    certificate: Annotated[
        Path | None, typer.Option("--certificate", metavar="FILE", help="Certificate of the private key (PEM).")
    ] = None,
    certificate_chain: Annotated[
        Path | None,
        typer.Option(
            "--certificate-chain", metavar="FILE", help="Certificates between --certificate and the root (PEM)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing signature.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Sign a bundle: its manifest and all files that the manifest lists. Writes model.sig."""
    from exporter.bundle import Bundle
    from exporter.bundle.signing import SIGNATURE, Signer

    opened = Bundle.open(bundle)
    if opened.signed and not force:
        raise InputError(f"{bundle / SIGNATURE}: already exists", next_step="replace it with --force")
    opened.sign(Signer(private_key, certificate, certificate_chain))
    if as_json:
        print_json({"bundle": str(bundle), "signature": str(bundle / SIGNATURE)})
        return
    print(f"{bundle / SIGNATURE}: signs {len(opened.manifest.files) + 1} files")  # noqa: T201


def verify_signature_command(
    bundle: BundleArgument,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE", help="Public key of the signer (PEM).")
    ] = None,
    certificate_chain: Annotated[
        Path | None,
        typer.Option("--certificate-chain", metavar="FILE", help="Root or intermediate certificates to trust (PEM)."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify the signature of a bundle with a public key or with certificates."""
    from exporter.bundle import Bundle
    from exporter.bundle.signing import Trusted

    if public_key is not None and certificate_chain is None:
        trusted = Trusted(public_key, "public key")
    elif certificate_chain is not None and public_key is None:
        trusted = Trusted(certificate_chain, "certificate chain")
    else:
        raise InputError("give one of --public-key and --certificate-chain", next_step="--public-key FILE")
    opened = Bundle.open(bundle, require_signature=trusted)
    if as_json:
        print_json({"bundle": str(bundle), "signed_by": str(trusted.path), "kind": trusted.kind})
        return
    files = len(opened.manifest.files) + 1
    print(f"{bundle}: signed by the {trusted.kind} {trusted.path}, {files} files verified")  # noqa: T201
