"""What a shell completes besides options and choices: names of recipes, folders of bundles. Nothing here reads a file.

A function that returns nothing leaves the word to the shell, which completes names of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_MANIFEST = "manifest.json"  # as in bundle/manifest.py, which imports pydantic
_DEFAULT_OUT = Path("artifacts")  # the default of ``ExportOptions.out``


def recipe_names(incomplete: str) -> list[str]:
    """Return the names of built-in recipes that begin so."""
    import exporter

    package = Path(exporter.__file__).parent
    folders = (package / "recipes", package.parent / "recipes")  # in a wheel, in a checkout
    found = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    return sorted(name for name in found if name.startswith(incomplete))


def bundle_folders(incomplete: str) -> list[str]:
    """Return the bundles that a path can go on to: those in its folder, and those in ``artifacts`` for no path.

    Folders that hold no bundle themselves are returned with a slash, to be gone into.
    """
    if not incomplete:
        known = [str(path.parent) for path in sorted(_DEFAULT_OUT.glob(f"*/*/{_MANIFEST}"))]
        if known:
            return known
    return sorted(_below(incomplete))


def _below(incomplete: str) -> Iterator[str]:
    folder, beginning = os.path.split(incomplete)
    try:
        names = [entry.name for entry in os.scandir(os.path.expanduser(folder) or ".") if entry.is_dir()]  # noqa: PTH111
    except OSError:
        return
    for name in names:
        if name.startswith(beginning) and (beginning or not name.startswith(".")):
            path = os.path.join(folder, name)  # noqa: PTH118 - a Path would lose "./"
            yield path if (Path(path).expanduser() / _MANIFEST).is_file() else f"{path}/"
