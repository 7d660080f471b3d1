"""Open a bundle for encoding."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from exporter.api.arguments import device_of, path_of
from exporter.bundle import Bundle
from exporter.bundle.finding import Found, download_bundle, find_bundle
from exporter.runtime.encoder import Encoder
from exporter.targets import Device


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    truncate_dim: int | None = None,
    require_signature: str | Path | None = None,
) -> Encoder:
    """Open a bundle for encoding, after comparing its files with their hashes.

    Needs neither torch nor transformers: numpy, tokenizers and the bundle's engine.

    Args:
        path: Folder of the bundle, or its id on the Hugging Face hub: ``owner/name``, or ``owner/name@revision``. A
            folder of that name wins. A bundle of the hub is downloaded into the cache of ``huggingface_hub``.
        revision: Branch, tag or commit on the hub.
        device: ``"cpu"`` or ``"cuda"``; by default where the bundle was validated.
        threads: CPU threads; by default the engine decides.
        truncate_dim: To how many dimensions ``encode`` truncates vectors; by default as the checkpoint says. A model
            that was not trained for it (Matryoshka) loses much.
        require_signature: Refuse the bundle unless it is signed by this: a PEM file with a public key, or with
            certificates that the signer's certificate must lead to. Needs ``korsbert[sign]``.

    Returns:
        The encoder. It can be pickled, for worker processes: the bundle is then opened again, with these arguments; a
        bundle of the hub at the same commit.

    Raises:
        BundleError: No bundle there, a file of it is missing, altered or not listed, or a signature is required and is
            not there or not valid.
        HubError: The hub cannot be reached, and its cache does not hold the bundle.
        ValueError: ``truncate_dim`` is below 1.
        InputError: ``require_signature`` is not a file of keys or certificates, or ``revision`` is given for a folder.
        MissingDependencyError: The engine is not installed, or the device is not there.
    """
    where, trusted = device_of(device), path_of(require_signature)
    return _opened(
        find_bundle(path, revision),
        device=where,
        threads=threads,
        truncate_dim=truncate_dim,
        require_signature=trusted,
    )


def _opened(
    found: Found,
    *,
    device: Device | None,
    threads: int | None,
    truncate_dim: int | None,
    require_signature: Path | None,
) -> Encoder:
    """Open a bundle that has been found, and tell the encoder how a worker process opens it again."""
    bundle = Bundle.open(found.folder, require_signature=require_signature, for_encoding=True)
    encoder = bundle.encoder(device=device, threads=threads, truncate_dim=truncate_dim)
    return encoder.opened_by(
        partial(
            _opened_again,
            found.repository or found.folder.absolute(),  # a worker may have another working folder
            found.commit,
            device=device,
            threads=threads,
            truncate_dim=truncate_dim,
            require_signature=None if require_signature is None else require_signature.absolute(),
        )
    )


def _opened_again(
    place: str | Path,
    commit: str | None,
    *,
    device: Device | None,
    threads: int | None,
    truncate_dim: int | None,
    require_signature: Path | None,
) -> Encoder:
    """Open a bundle in a worker process: a folder, or a commit on the hub, whatever folders the worker has."""
    found = Found(Path(place)) if commit is None else download_bundle(str(place), commit)
    return _opened(
        found, device=device, threads=threads, truncate_dim=truncate_dim, require_signature=require_signature
    )
