"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundleArgument = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE", help="Folder of the bundle, or its id on the hub: owner/name, owner/name@revision."
    ),
]
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
    ),
]
GatesOption = Annotated[
    Path | None,
    typer.Option("--gates", metavar="FILE", help="Like --recipe, but a YAML file with only the key `gates`."),
]
RequireSignatureOption = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        metavar="FILE",
        help="Refuse bundles and golden files that are not signed by this public key or certificate chain (PEM).",
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
JsonFlag = Annotated[bool, typer.Option("--json", help="Print a single JSON object to stdout.")]
