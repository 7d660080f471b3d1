"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.cli.completion import bundle_folders, recipe_names
from exporter.cli.help import OUTPUT

GATES = "Gates and trust"

BundleArgument = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE",
        help="Folder of the bundle, or its id on the hub: owner/name, owner/name@revision.",
        autocompletion=bundle_folders,
    ),
]
CheckpointNameOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FOLDER|HUB-ID",
        help="A recipe, a local folder, or owner/name.",
        autocompletion=recipe_names,
    ),
]
OwnRecipeOption = Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="Your own recipe (YAML).")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", metavar="FOLDER", help="Local copy of the checkpoint, used instead of its source."),
]
StsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--sts",
        metavar="FILE",
        help="STS data set to score both models on: KorSTS TSV, KLUE-STS JSON or stsb_multi_mt CSV (repeatable).",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="FILE|NAME",
        help="Recipe whose gates bundles must pass besides their own (default: korsbert's gates).",
        rich_help_panel=GATES,
        autocompletion=recipe_names,
    ),
]
GatesOption = Annotated[
    Path | None,
    typer.Option(
        "--gates",
        metavar="FILE",
        help="Like --recipe, but a YAML file with only the key `gates`.",
        rich_help_panel=GATES,
    ),
]
RequireSignatureOption = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        metavar="FILE",
        help="Refuse bundles and golden files that are not signed by this public key or certificate chain (PEM).",
        rich_help_panel=GATES,
    ),
]
GoldenOption = Annotated[
    Path | None,
    typer.Option(
        "--golden",
        metavar="FILE",
        help="Golden file whose answers take the place of the checkpoint's: needs no torch and no weights.",
    ),
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Sentences per batch.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print a single JSON object to stdout.", rich_help_panel=OUTPUT)]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress, only warnings and errors.", rich_help_panel=OUTPUT)
]
