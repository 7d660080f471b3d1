"""What a shell completes besides options and choices: names of recipes, folders of bundles. Nothing here reads a file.

A function that returns nothing leaves the word to the shell, which completes names of files. Scripts of shells do not
quote what they are given here, and zsh evaluates it: names with other characters than ``_PLAIN`` are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

_MANIFEST = "manifest.json"  # as in bundle/manifest.py, which imports pydantic
_PLAIN = re.compile(r"[\w./@+~-]+")
_DEFAULT_OUT = Path("artifacts")  # the default of ``ExportOptions.out``
_DEEPEST = 16  # folders that are gone into: a link may lead into its own folder


class Completable:
    """A command of click that offers to install its completion. It is mixed into a class of typer."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse options. What typer ends with 1 is no failed gate: a shell whose completion it does not know."""
        parsing: Any = super()
        try:
            parsed: list[str] = parsing.parse_args(ctx, args)
        except typer.Exit as stop:
            raise typer.Exit(2 if stop.exit_code == 1 else stop.exit_code) from stop
        return parsed


def recipe_names(incomplete: str) -> list[str]:
    """Return the names of built-in recipes that begin so."""
    import exporter

    package = Path(exporter.__file__).parent
    folders = (package / "recipes", package.parent / "recipes")  # in a wheel, in a checkout
    found = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    return sorted(name for name in found if name.startswith(incomplete) and _PLAIN.fullmatch(name))


def bundle_folders(incomplete: str) -> list[str]:
    """Return the bundles that a path can go on to: those in its folder, and those in ``artifacts`` for no path.

    Folders that hold no bundle themselves are returned with a slash, to be gone into. bash puts a space behind a word
    that is the only one, so such a folder is never alone: what is in it is returned, or nothing, and the shell goes on.
    """
    if not incomplete:
        known = [str(path.parent) for path in sorted(_DEFAULT_OUT.glob(f"*/*/{_MANIFEST}"))]
        if known:
            return [path for path in known if _PLAIN.fullmatch(path)]
    found = [incomplete]
    for _ in range(_DEEPEST):
        found = sorted(path for path in _below(found[0]) if _PLAIN.fullmatch(path))
        if len(found) != 1 or not found[0].endswith("/"):
            return found
    return []


def _below(incomplete: str) -> Iterator[str]:
    folder, beginning = os.path.split(incomplete)
    place = os.path.expanduser(folder) or "."  # noqa: PTH111 - a Path raises where there is no such user
    try:
        names = [entry.name for entry in os.scandir(place) if entry.is_dir()]
    except OSError:
        return
    for name in names:
        if name.startswith(beginning) and (beginning or not name.startswith(".")):
            path = os.path.join(folder, name)  # noqa: PTH118 - a Path would lose "./"
            yield path if os.path.isfile(os.path.join(place, name, _MANIFEST)) else f"{path}/"  # noqa: PTH113, PTH118
