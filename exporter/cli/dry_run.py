"""``korsbert export --dry-run``: what an export would do, and what stops it here, told without importing torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from exporter.cli.output import print_json, print_table
from exporter.errors import ExportError
from exporter.targets import Precision, Target

if TYPE_CHECKING:
    from exporter.options import ExportOptions
    from exporter.recipe import Recipe


def show_dry_run(recipe: Recipe, options: ExportOptions, *, as_json: bool) -> None:
    """Print what an export would do.

    Raises:
        ExportError: What the export itself would refuse with, once everything is printed.
    """
    from exporter.dependencies import EXPORT_PACKAGES, is_installed, refuse_missing

    missing = [package for package in EXPORT_PACKAGES if not is_installed(package)]
    refusal: ExportError | None = None
    try:
        refuse_missing(EXPORT_PACKAGES)
        from exporter.acceptance import refuse_what_cannot_be_done

        refuse_what_cannot_be_done(recipe, options)
    except ExportError as error:
        refusal = error
    target, name = options.target, options.name or recipe.name
    place = options.out / name / target.folder  # as acceptance.place_of, which needs onnx-ir
    told = {
        "recipe": recipe.name,
        "checkpoint": _source(recipe, options),
        "precision": str(target.precision),
        "backend": str(target.backend),
        "device": str(target.device),
        "bundle": str(place),
        "exists": os.path.lexists(place),
        "missing": missing,
        "stages": stages_of(target),
    }
    if as_json:
        print_json({**told, "refusal": None if refusal is None else refusal.message})
    else:
        taken = "there already, and replaced once the new one has passed" if options.force else "there already"
        rows = {
            **{name: str(told[name]) for name in ("recipe", "checkpoint", "precision", "backend", "device")},
            "bundle": f"{place}, {taken if told['exists'] else 'new'}",
            "missing": ", ".join(missing) or "no package",
            "stages": "\n".join(stages_of(target)),
        }
        print_table(("", "dry run: nothing is done"), list(rows.items()))
    if refusal is not None:
        raise refusal


def stages_of(target: Target) -> list[str]:
    """Return the names of the stages of an export. int8 may repeat some, for further candidates."""
    precision, backend = target.precision, target.backend
    return [
        "load checkpoint",
        "encode the probes with PyTorch",
        "measure the ranges of vectors with PyTorch",
        "fold into one graph",
        *(() if target.is_as_folded else ("gate: the fp32 graph", "sweep: the fp32 graph")),
        *(("calibrate and search",) if precision.is_int8 else ()),
        *(() if precision is Precision.FP32 else (f"type as {precision}",)),
        f"build for {backend}",
        *((f"held-out text: {precision} on {backend}",) if precision.is_int8 else ()),
        "check the files",
        f"gate: {precision} on {backend}",
        f"sweep: {precision} on {backend}",
        "publish",
    ]


def _source(recipe: Recipe, options: ExportOptions) -> str:
    """Return where the checkpoint would come from."""
    if options.checkpoint is not None:
        return f"{options.checkpoint}, a local copy of {recipe.source}"
    if (folder := recipe.local_source()) is not None:
        return f"{folder}, a folder"
    return f"{recipe.source} at {options.revision or recipe.revision or 'main'}, on the hub"
