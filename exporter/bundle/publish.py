"""A staged folder becomes a bundle: its manifest lists and seals every file, and one rename puts it in place."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from exporter.bundle.atomic import put_in_place
from exporter.bundle.bundle import Bundle
from exporter.bundle.manifest import MANIFEST, FileFacts, Manifest, read_manifest
from exporter.errors import BundleError


def publish(manifest: Manifest, folder: Path, target: Path) -> Bundle:
    """List, seal, sync and rename a staged folder into place, replacing what is there.

    Args:
        manifest: What is known of the bundle; its list of files and its seal are made here.
        folder: All files of the bundle, in a folder beside ``target``.
        target: The place of the bundle.

    Raises:
        OSError: The manifest cannot be written, or the folder cannot be renamed.
    """
    files = {path.name: FileFacts.of_file(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    manifest = manifest.model_copy(update={"files": files}).sealed()
    content = manifest.to_json()
    (folder / MANIFEST).write_bytes(content)
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)  # mkdtemp makes it private
    put_in_place(folder, target)
    return Bundle(target, manifest, contents={MANIFEST: content})


def refuse_to_replace_other_files(target: Path) -> None:
    """Refuse to replace a folder of files that is not a bundle.

    Raises:
        BundleError: ``target`` is a folder with something in it, and without a manifest.
    """
    if target.is_dir() and not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise BundleError(
            f"{target}: not a bundle, and `force` only replaces bundles", next_step="move it, or choose another `out`"
        )


def refuse_to_replace_another(target: Path, checkpoint: str) -> None:
    """Refuse to replace the bundle of a checkpoint of another name, such as ``b/model`` where ``a/model`` is.

    Folders of one name are not told apart: where they stood is not recorded.

    Raises:
        BundleError: ``target`` is a bundle of another checkpoint.
    """
    there = checkpoint
    with suppress(BundleError):  # of a bundle that is damaged, which `force` replaces
        there = read_manifest(target).source.checkpoint
    if there != checkpoint:
        raise BundleError(
            f"{target}: is a bundle of {there}, and `force` does not replace it by one of {checkpoint}",
            next_step="give this one another `name`, or remove that one",
        )
