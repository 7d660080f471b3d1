"""Rules about the bundles that models came from: hashes, gates and signatures."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.bundle import MANIFEST, Bundle, FileFacts
from exporter.errors import BundleError, ExportError
from exporter.serving.triton.facts import NATIVE
from exporter.serving.triton.lint.model import Finding, Model, Repository

_EXPORT_AGAIN = "export the bundle again, or give the gates to judge by (gates, or recipe)"
_NATIVE_FILES = dict(NATIVE.values())


def check_bundles(model: Model, repository: Repository) -> Iterator[Finding]:
    """Compare every version that is served with the hashes of its bundle, and judge the bundle."""
    for number in model.served_versions:
        version = model.folder / str(number)
        try:
            if (version / "bundle").is_dir():
                bundle = Bundle.open(version / "bundle")
                yield from _below_the_minimum(repository, bundle)
                yield from _unsigned(repository, bundle)
            if not (version / MANIFEST).is_file() or model.backend not in _NATIVE_FILES:
                continue
            bundle = Bundle.open_manifest(version)
            manifest = bundle.manifest
            yield from _weaker_gate(repository, bundle)
            yield from _unsigned(repository, bundle)
        except ExportError as error:
            if number != model.versions[-1]:  # that of the latest was found when its engine was read
                yield Finding(version, "bundle", error.message, "what was shipped", "ship it again")
            continue
        for ours, theirs in zip(manifest.engine.files, _NATIVE_FILES[model.backend], strict=False):
            path, shipped = version / theirs, manifest.files[ours].sha256
            if path.is_file() and (found := FileFacts.of_file(path).sha256) != shipped:
                yield Finding(path, "sha256", found, shipped, "altered since it was shipped: ship it again")


def _below_the_minimum(repository: Repository, bundle: Bundle) -> Iterator[Finding]:
    """Compare a bundle's gate and its recorded statistics with the minimum."""
    for objection in repository.minimum_gate.objections(bundle):
        yield Finding(
            bundle.folder, "gate", objection, f"{repository.minimum_gate.source} or a stricter one", _EXPORT_AGAIN
        )


def _weaker_gate(repository: Repository, bundle: Bundle) -> Iterator[Finding]:
    """Compare a bundle's gate with the minimum, if only its manifest and its engine are there."""
    if (warning := repository.minimum_gate.warning(bundle.manifest)) is not None:
        yield Finding(
            bundle.folder, "gate", warning, f"{repository.minimum_gate.source} or a stricter one", _EXPORT_AGAIN
        )


def _unsigned(repository: Repository, bundle: Bundle) -> Iterator[Finding]:
    """Verify the signature that is required."""
    if repository.require_signature is None:
        return
    try:
        bundle.verify_signature(repository.require_signature)
    except BundleError as error:
        wanted = f"signed by {repository.require_signature}"
        yield Finding(bundle.folder, "signature", error.message, wanted, error.next_step or "ship it again")
