"""The folder in which candidates wait until one is chosen. An interrupted run is resumed from it.

It is ``.NAME.tune`` beside the folder of the bundles, so that the winner only has to be renamed. Whatever the bundles
depend on is in ``identity.json``; a folder of another identity is emptied. Bundles are published there as anywhere,
and their hashes are compared before one is used again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exporter.acceptance.tuning import PUBLISHED, is_published, seals_of_published, work_place
from exporter.bundle import Bundle
from exporter.bundle.atomic import locked, put_in_place, staging, write_file, writing
from exporter.checkpoint.loading import hashes_of
from exporter.engines.cuda import find_gpu
from exporter.errors import BundleError, InputError
from exporter.machine import machine, tool_versions
from exporter.options import ExportOptions
from exporter.publication import TOOLS
from exporter.recipe import Recipe
from exporter.targets import Device, Target

_IDENTITY, _REFUSALS = "identity.json", "refusals.json"
_LOADERS = ("tokenizers", "safetensors", "optimum")  # packages that an export depends on, besides those of a manifest


@dataclass(frozen=True)
class Work:
    """The folder, held by this process.

    Attributes:
        folder: ``.NAME.tune``.
        name: Name of the bundles.
        out: Where the winner goes: the folder of bundles.
        files: SHA-256 of every file of the checkpoint, by its name.
    """

    folder: Path
    name: str
    out: Path
    files: Mapping[str, str]

    def bundle(self, target: Target) -> Bundle | None:
        """Return the bundle that an earlier run has left for a target. One that is damaged or of another is removed.

        A run that was interrupted while it published has left some in their places, where they stay.
        """
        own, place = self.folder / self.name / target.folder, self.out / self.name / target.folder
        if not own.exists() and is_published(place, seals_of_published(self.folder).get(str(target))):
            return Bundle.open(place)
        place = own
        try:
            bundle = Bundle.open(place)
        except BundleError:
            _remove(place)
            return None
        engine, validation = bundle.manifest.engine, bundle.manifest.validation
        if (
            (engine.precision, engine.backend, validation.device) == (target.precision, target.backend, target.device)
            and validation.state == "passed"
            and bundle.manifest.source.files == self.files
        ):
            return bundle
        _remove(place)
        return None

    def refusal(self, target: Target) -> str | None:
        """Return why an earlier run refused a target."""
        return self._refusals().get(str(target))

    def refuse(self, target: Target, reason: str) -> None:
        """Keep why a gate refused a target."""
        with writing(self.folder):
            write_file(self.folder / _REFUSALS, _json({**self._refusals(), str(target): reason}))

    def publish(self, name: str, bundle: Bundle, *, force: bool) -> Bundle:
        """Move a bundle to its place in the folder of bundles, unless an interrupted run has.

        Args:
            name: The target of the bundle, as text.
            bundle: The bundle.
            force: Replace another bundle that is there.
        """
        place = self.out / self.name / bundle.folder.name
        if bundle.folder == place:
            return bundle
        seals = {**seals_of_published(self.folder), name: bundle.manifest.seal}
        with writing(self.folder):
            write_file(self.folder / PUBLISHED, _json(seals))
        with staging(place, force=force, command="tune") as folder, writing(place):
            folder.rmdir()
            # First into the staging folder: a bundle that is replaced must not come back as a candidate.
            bundle.folder.rename(folder)
            put_in_place(folder, place)
        return Bundle.open(place)

    def withdraw(self, bundles: Sequence[Bundle]) -> None:
        """Remove bundles that an interrupted run has published, and this one does not choose."""
        for bundle in bundles:
            if bundle.folder.parent == self.out / self.name:
                _remove(bundle.folder)

    def remove(self) -> None:
        """Remove the folder, and the candidates in it."""
        _empty(self.folder)
        self.folder.rmdir()

    def _refusals(self) -> dict[str, str]:
        with suppress(OSError, ValueError):
            found = json.loads((self.folder / _REFUSALS).read_text(encoding="utf-8"))
            return {str(target): str(reason) for target, reason in found.items()}
        return {}


@contextmanager
def work_folder(recipe: Recipe, options: ExportOptions) -> Iterator[Work]:
    """Hold the work folder of a model. It stays when the block ends, for the next run.

    Args:
        recipe: The model.
        options: How its candidates are exported; ``out`` is where the winner goes.

    Raises:
        BundleError: Another process tunes the same model, or the folder cannot be written to.
        CheckpointError: The checkpoint is not there.
    """
    files = hashes_of(recipe, folder=options.checkpoint, revision=options.revision, pooling=options.pooling)
    folder = work_place(recipe, options)
    with locked(folder, "tune", "out", folder.with_name(f"{folder.name}.lock")):
        with writing(folder):
            _empty_unless(folder, _identity(recipe, options, files))
        yield Work(folder, options.name or recipe.name, options.out, files)


def _empty_unless(folder: Path, identity: bytes) -> None:
    """Make the folder, and remove what it holds unless that has the same identity."""
    before = folder / _IDENTITY
    if folder.exists() and (not before.is_file() or before.read_bytes() != identity):
        if any(folder.iterdir()) and not before.is_file():
            raise BundleError(f"{folder}: not a folder of korsbert tune", next_step="move it, or choose another `out`")
        _empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(before, identity)


def _empty(folder: Path) -> None:
    """Remove what a work folder holds, the identity last: an interrupted removal leaves a work folder."""
    for path in folder.iterdir():
        if path.name != _IDENTITY:
            _remove(path)
    (folder / _IDENTITY).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _identity(recipe: Recipe, options: ExportOptions, files: Mapping[str, str]) -> bytes:
    """Return all that a candidate depends on besides its target."""
    kept = (
        "pooling",
        "max_seq_length",
        "device",
        "opset",
        "workspace_mib",
        "version_compatible",
        "hardware_compatible",
    )
    asked = options.model_dump(mode="json")
    gpu = find_gpu() if options.device is Device.CUDA else None
    return _json(
        {
            "recipe": recipe.model_dump(mode="json"),
            "files": files,
            "options": {name: asked[name] for name in kept},
            "calibration": None if options.calibration is None else _hash_of(options.calibration),
            "sts": [_hash_of(path) for path in options.sts],
            "tools": tool_versions((*TOOLS, *_LOADERS)),
            "machine": {**machine(), "gpu": None if gpu is None else asdict(gpu)},
        }
    )


def _hash_of(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: not a regular file, and every candidate reads it", next_step="save it to a file")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()
