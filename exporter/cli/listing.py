"""``korsbert bundles``: what lies in a folder of bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.arguments import JsonFlag
from exporter.cli.output import print_json, print_table

if TYPE_CHECKING:
    from exporter.bundle.listing import Entry, Listing

_HEADER = ("bundle", "name", "engine", "vectors", "MB", "validated", "min cosine", "exported")


def bundles_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of bundles.")] = Path("artifacts"),
    check: Annotated[
        bool, typer.Option("--check", help="Compare every file with its hash, too; exit with 1 if one differs.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the bundles in a folder by their manifests. File hashes are compared only with --check."""
    from exporter.bundle.listing import list_bundles

    found = list_bundles(folder, check=check)
    if as_json:
        print_json(
            {
                "hashes_checked": check,
                "bundles": [_facts(entry) for entry in found.entries],
                "left": {str(path): kind for path, kind in found.left.items()},
            }
        )
    else:
        _print(found, folder, check=check)
    if check and any(entry.reason is not None for entry in found.entries):
        raise typer.Exit(1)


def _print(found: Listing, folder: Path, *, check: bool) -> None:
    rows = [_row(entry, folder) for entry in found.entries]
    rows += [(str(path.relative_to(folder)), kind, "", "", "", "", "", "") for path, kind in found.left.items()]
    print_table(_HEADER, rows)
    compared = "all hashes match where no reason is given" if check else "hashes were not compared: use --check"
    print(compared)  # noqa: T201


def _facts(entry: Entry) -> dict[str, Any]:
    """Return what is told of a bundle, as JSON data."""
    if entry.bundle is None:
        return {"bundle": str(entry.folder), "reason": entry.reason}
    bundle, manifest = entry.bundle, entry.bundle.manifest
    return {
        "bundle": str(entry.folder),
        "reason": None,
        "name": manifest.recipe.name,
        "checkpoint": manifest.source.checkpoint,
        "precision": str(manifest.engine.precision),
        "backend": str(manifest.engine.backend),
        "device": str(manifest.validation.device),
        "dimension": manifest.encoder.dimension,
        "size_bytes": bundle.size_bytes,
        "validated": bundle.validated,
        "min_cosine": manifest.validation.min_cosine,
        "created": manifest.created,
        "signed": bundle.signed,
    }


def _row(entry: Entry, folder: Path) -> tuple[str, ...]:
    place = str(entry.folder.relative_to(folder))
    if entry.bundle is None:
        return (place, f"UNREADABLE: {entry.reason}", "", "", "", "", "", "")
    facts = _facts(entry)
    return (
        place,
        facts["name"],
        f"{facts['precision']} on {facts['backend']} ({facts['device']})",
        f"{facts['dimension']}-d",
        f"{facts['size_bytes'] / 1e6:.1f}",
        "yes" if facts["validated"] else "NO",
        f"{facts['min_cosine']:.8f}",
        facts["created"],
    )
