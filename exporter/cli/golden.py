"""``korsbert golden``: what a checkpoint answers to the probes, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from exporter.cli.arguments import CheckpointOption, JsonFlag, QuietFlag
from exporter.cli.completion import recipe_names
from exporter.cli.output import print_json, print_table
from exporter.cli.progress import progress


def golden_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder of a bundle or a checkpoint, name of a recipe, or hub id.",
            autocompletion=recipe_names,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Golden file to write; replaced if it is there.")],
    dtype: Annotated[
        Literal["float32", "float16"],
        typer.Option("--dtype", help="Type of the vectors. float16: half the space, too coarse to judge float32."),
    ] = "float32",
    checkpoint: CheckpointOption = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REVISION", help="Branch, tag or commit on the hub.")
    ] = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Write what a checkpoint answers to the probes to a file, for gates that have no torch and no weights."""
    from exporter.api import write_golden

    with progress("importing torch", quiet=quiet) as stages:
        facts = write_golden(model, out, dtype=dtype, checkpoint=checkpoint, revision=revision, stages=stages)
    size = out.stat().st_size
    if as_json:
        print_json({"golden": str(out), "size_bytes": size, "facts": facts.model_dump(mode="json")})
        return
    encoder = facts.encoder
    rows = [
        ("checkpoint", f"{facts.source.checkpoint}{f' @ {facts.source.commit}' if facts.source.commit else ''}"),
        ("probes", f"{len(facts.probes)}, vectors of {encoder.dimension} dimensions in {facts.dtype}"),
        ("prompts", ", ".join(encoder.prompts) or "none"),
        ("number formats", ", ".join(f"{name}: {source}" for name, source in facts.losses.items())),
        ("made with", ", ".join(f"{tool} {version}" for tool, version in facts.tools.items())),
        ("size", f"{size / 1e6:.1f} MB"),
    ]
    print_table(("", str(out)), rows)
