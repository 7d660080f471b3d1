"""The folder in which candidates wait until one is chosen. An interrupted run is resumed from it.

It is ``.NAME.tune`` beside the folder of the bundles, so that the winner only has to be renamed. Whatever the bundles
depend on is in ``identity.json``; a folder of another identity is emptied. Bundles are published there as anywhere,
and their hashes are compared before one is used again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.bundle import Bundle
from exporter.bundle.atomic import locked, put_in_place, staging, write_file, writing
from exporter.checkpoint.loading import hashes_of
from exporter.errors import BundleError, InputError
from exporter.machine import machine, tool_versions
from exporter.options import ExportOptions
from exporter.publication import TOOLS
from exporter.recipe import Recipe
from exporter.targets import Target

_IDENTITY, _REFUSALS = "identity.json", "refusals.json"


@dataclass(frozen=True)
class Work:
    """The folder, held by this process.

    Attributes:
        folder: ``.NAME.tune``.
        name: Name of the bundles.
    """

    folder: Path
    name: str

    def bundle(self, target: Target) -> Bundle | None:
        """Return the bundle that an earlier run has left for a target; one that is damaged is removed."""
        place = self._place(target)
        try:
            return Bundle.open(place)
        except BundleError:
            shutil.rmtree(place, ignore_errors=True)
            return None

    def refusal(self, target: Target) -> str | None:
        """Return why an earlier run refused a target."""
        return self._refusals().get(str(target))

    def refuse(self, target: Target, reason: str) -> None:
        """Keep why a target is refused."""
        write_file(self.folder / _REFUSALS, _json({**self._refusals(), str(target): reason}))

    def publish(self, bundle: Bundle, out: Path, *, force: bool) -> Bundle:
        """Rename a bundle to its place in the folder of bundles."""
        place = out / self.name / bundle.folder.name
        with staging(place, force=force, command="tune") as folder, writing(place):
            folder.rmdir()
            put_in_place(bundle.folder, place)
        return Bundle.open(place)

    def remove(self) -> None:
        """Remove the folder, and the candidates in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, target: Target) -> Path:
        return self.folder / self.name / f"{target.precision}-{target.backend}"

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
    folder, identity = work_place(recipe, options), _identity(recipe, options)
    with locked(folder, "tune", "out", folder.with_name(f"{folder.name}.lock")):
        with writing(folder):
            _empty_unless(folder, identity)
        yield Work(folder, options.name or recipe.name)


def work_place(recipe: Recipe, options: ExportOptions) -> Path:
    """Return the work folder of a model."""
    return options.out / f".{options.name or recipe.name}.tune"


def _empty_unless(folder: Path, identity: bytes) -> None:
    """Make the folder, and remove what it holds unless that has the same identity."""
    before = folder / _IDENTITY
    if folder.exists() and (not before.is_file() or before.read_bytes() != identity):
        if any(folder.iterdir()) and not before.is_file():
            raise BundleError(f"{folder}: not a folder of korsbert tune", next_step="move it, or choose another `out`")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(before, identity)


def _identity(recipe: Recipe, options: ExportOptions) -> bytes:
    """Return all that a candidate depends on besides its target."""
    kept = ("pooling", "max_seq_length", "device", "workspace_mib", "version_compatible", "hardware_compatible")
    asked = options.model_dump(mode="json")
    texts = [path for path in (options.calibration, *options.sts) if path is not None]
    return _json(
        {
            "recipe": recipe.model_dump(mode="json"),
            "files": hashes_of(recipe, folder=options.checkpoint, revision=options.revision, pooling=options.pooling),
            "options": {name: asked[name] for name in kept},
            "texts": [_hash_of(path) for path in texts],
            "tools": tool_versions(TOOLS),
            "machine": machine(),
        }
    )


def _hash_of(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: not a regular file, and every candidate reads it", next_step="save it to a file")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()
