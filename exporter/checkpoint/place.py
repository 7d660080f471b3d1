"""Where the checkpoint of a recipe stands on this machine, if it does."""

from __future__ import annotations

from pathlib import Path

from exporter.errors import CheckpointError
from exporter.recipe import Recipe


def local_folder(recipe: Recipe, folder: Path | None, revision: str | None) -> Path | None:
    """Return the folder of a recipe's checkpoint, or None where it is on the hub.

    Args:
        recipe: What names the checkpoint.
        folder: A local copy that takes the place of the recipe's source.
        revision: Branch, tag or commit that was asked for.

    Raises:
        CheckpointError: A revision was asked for, and the source is a folder.
    """
    local = folder if folder is not None else recipe.local_source()
    if local is not None and revision is not None and folder is None:
        raise CheckpointError(f"{local}: a local folder has no revision {revision!r}", next_step="leave out `revision`")
    return local
