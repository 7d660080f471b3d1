"""The folder in which candidates wait until one is chosen. An interrupted run is resumed from it.

It is ``.NAME.tune`` beside the folder of the bundles. Whatever the bundles depend on is in ``identity.json``; a folder
of another identity is emptied. Bundles are published there as anywhere, and their hashes are compared before one is
used again. The winner is copied to its place, by links where the file system has them: until everything is published,
each candidate is here, and a run that goes on neither needs nor removes what the interrupted one has published.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exporter.acceptance.tuning import is_published, open_published, refuse_taken_places, work_place
from exporter.bundle import Bundle
from exporter.bundle.atomic import locked, put_in_place, refuse_taken, staging, write_file, writing
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
        """Return the candidate that an earlier run has left for a target. One that cannot be used is removed."""
        folder = self.folder / self.name / target.folder
        try:
            bundle = Bundle.open(folder)
        except BundleError:
            _remove(folder)
            return None
        engine, validation = bundle.manifest.engine, bundle.manifest.validation
        if (
            (engine.precision, engine.backend, validation.device) == (target.precision, target.backend, target.device)
            and validation.state == "passed"
            and bundle.manifest.source.files == self.files
        ):
            return bundle
        _remove(folder)
        return None

    def refusal(self, target: Target) -> str | None:
        """Return why an earlier run refused a target."""
        return self._refusals().get(str(target))

    def refuse(self, target: Target, reason: str) -> None:
        """Keep why a gate refused a target."""
        with writing(self.folder):
            write_file(self.folder / _REFUSALS, _json({**self._refusals(), str(target): reason}))

    def publish(self, candidate: Bundle, *, force: bool) -> Bundle:
        """Copy a candidate to its place in the folder of bundles, unless an interrupted run has.

        Args:
            candidate: The bundle in the work folder.
            force: Replace another bundle that is there.

        Raises:
            BundleError: ``force`` is off and another bundle is there, or the published one was damaged since; another
                process writes there, or the place cannot be written to.
        """
        place = self._place(candidate.folder)
        with staging(place, force=True, command="tune") as folder, writing(place):
            # Only now, with the place locked, is it known what is there.
            if is_published(place, candidate.folder):
                try:
                    return open_published(place)
                except BundleError:
                    if not force:
                        raise
            elif not force:
                refuse_taken(place)
            for file in candidate.folder.iterdir():
                _link_or_copy(file, folder / file.name)
            shutil.copymode(candidate.folder, folder)
            put_in_place(folder, place)
        return Bundle.open(place)

    def refuse_other_published(self, chosen: Sequence[Bundle]) -> None:
        """Refuse to go on where an interrupted run has published a candidate that this run does not choose.

        Args:
            chosen: The candidates that this run publishes.

        Raises:
            BundleError: It has. The bundle stays, and so do all candidates.
        """
        names = [bundle.folder.name for bundle in chosen]
        for candidate in sorted((self.folder / self.name).iterdir()):
            place = self._place(candidate)
            if candidate.name not in names and is_published(place, candidate):
                raise BundleError(
                    f"{place}: published by a run that was interrupted, and this run chooses {' and '.join(names)}",
                    next_step="move it away or remove it; with `force` it stays. What was exported is kept",
                )

    def _place(self, candidate: Path) -> Path:
        return self.out / self.name / candidate.name

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
def work_folder(recipe: Recipe, targets: Sequence[Target], options: ExportOptions) -> Iterator[Work]:
    """Hold the work folder of a model. It stays when the block ends, for the next run.

    Args:
        recipe: The model.
        targets: What the candidates are built for.
        options: How they are exported; ``out`` is where the winner goes.

    Raises:
        BundleError: Another process tunes the same model, or the folder cannot be written to; or the folder is of a run
            with other options, and a place where the winner may go is taken: then its candidates are kept.
        CheckpointError: The checkpoint is not there.
    """
    files = hashes_of(recipe, folder=options.checkpoint, revision=options.revision, pooling=options.pooling)
    folder = work_place(recipe, options)
    with locked(folder, "tune", "out", folder.with_name(f"{folder.name}.lock")):
        with writing(folder):
            identity = _identity(recipe, options, files)
            if not _has_identity(folder, identity):
                refuse_taken_places(recipe, targets, options, resumable=False)
                _make_anew(folder, identity)
        yield Work(folder, options.name or recipe.name, options.out, files)


def _has_identity(folder: Path, identity: bytes) -> bool:
    """Whether a work folder is of a run with this identity."""
    before = folder / _IDENTITY
    if before.is_file():
        return before.read_bytes() == identity
    if folder.exists() and any(folder.iterdir()):
        raise BundleError(f"{folder}: not a folder of korsbert tune", next_step="move it, or choose another `out`")
    return False


def _make_anew(folder: Path, identity: bytes) -> None:
    """Make the folder, and remove what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    _empty(folder)
    write_file(folder / _IDENTITY, identity)


def _empty(folder: Path) -> None:
    """Remove what a work folder holds, the identity last: an interrupted removal leaves a work folder."""
    for path in folder.iterdir():
        if path.name != _IDENTITY:
            _remove(path)
    (folder / _IDENTITY).unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    """Link a file, which takes no space; or copy it, where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


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
