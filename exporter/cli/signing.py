"""``korsbert sign`` and ``korsbert verify-signature``: proof of who published a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.cli.arguments import JsonFlag
from exporter.cli.completion import bundle_folders
from exporter.cli.output import print_json
from exporter.errors import InputError

SignedArgument = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE|FILE",
        help="Folder of a bundle, or a golden file.",
        autocompletion=bundle_folders,
    ),
]


def sign_command(
    signed: SignedArgument,
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
    """Sign a bundle (all of its files: writes model.sig) or a golden file (writes FILE.sig)."""
    from exporter.bundle import Bundle
    from exporter.bundle.signing import SIGNATURE, Signer

    signer = Signer(private_key, certificate, certificate_chain)
    if signed.is_file():
        from exporter.golden import sign_golden, signature_of

        place, files = signature_of(signed), 1
        _refuse_to_replace(place, force=force)
        sign_golden(signed, signer)
    else:
        opened = Bundle.open(signed)
        place, files = signed / SIGNATURE, len(opened.manifest.files) + 1
        _refuse_to_replace(place, force=force)
        opened.sign(signer)
    if as_json:
        print_json({_kind(signed): str(signed), "signature": str(place)})
        return
    print(f"{place}: signs {files} file{'s' if files > 1 else ''}")  # noqa: T201


def verify_signature_command(
    signed: SignedArgument,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE", help="Public key of the signer (PEM).")
    ] = None,
    certificate_chain: Annotated[
        Path | None,
        typer.Option("--certificate-chain", metavar="FILE", help="Root or intermediate certificates to trust (PEM)."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify the signature of a bundle or a golden file with a public key or with certificates."""
    from exporter.bundle import Bundle
    from exporter.bundle.signing import Trusted

    if public_key is not None and certificate_chain is None:
        trusted = Trusted(public_key, "public key")
    elif certificate_chain is not None and public_key is None:
        trusted = Trusted(certificate_chain, "certificate chain")
    else:
        raise InputError("give one of --public-key and --certificate-chain", next_step="--public-key FILE")
    if signed.is_file():
        from exporter.golden import read_golden

        read_golden(signed, require_signature=trusted)
        files = 1
    else:
        files = len(Bundle.open(signed, require_signature=trusted).manifest.files) + 1
    if as_json:
        print_json({_kind(signed): str(signed), "signed_by": str(trusted.path), "kind": trusted.kind})
        return
    verified = f"{files} file{'s' if files > 1 else ''} verified"
    print(f"{signed}: signed by the {trusted.kind} {trusted.path}, {verified}")  # noqa: T201


def _refuse_to_replace(signature: Path, *, force: bool) -> None:
    if signature.exists() and not force:
        raise InputError(f"{signature}: already exists", next_step="replace it with --force")


def _kind(signed: Path) -> str:
    return "golden" if signed.is_file() else "bundle"
