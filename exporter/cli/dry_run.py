"""``korsbert export --dry-run``: what an export would do, and what stops it here, told without importing torch."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from exporter.cli.output import print_json, print_table
from exporter.errors import ExportError
from exporter.stages import UNCOMPILED
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
    here = True
    with suppress(ExportError, ImportError):  # a refusal is told already
        from exporter.acceptance import runs_here

        here = runs_here(options)
    stages = stages_of(options.target, runs_here=here)
    target, name = options.target, options.name or recipe.name
    place = options.out / name / target.folder  # as acceptance.place_of, which needs onnx-ir
    told = {
        "recipe": recipe.name,
        "checkpoint": _checkpoint(recipe, options),
        "precision": str(target.precision),
        "backend": str(target.backend),
        "device": str(target.device),
        "opset": target.opset,
        "bundle": str(place),
        "exists": os.path.lexists(place),
        "missing": missing,
        "stages": stages,
    }
    if as_json:
        print_json({**told, "refusal": None if refusal is None else refusal.message})
    else:
        taken = "there already, and replaced once the new one has passed" if options.force else "there already"
        rows = {
            "recipe": recipe.name,
            "checkpoint": _in_words(**_checkpoint(recipe, options)),
            **{name: str(told[name]) for name in ("precision", "backend", "device", "opset")},
            "bundle": f"{place}, {taken if told['exists'] else 'new'}",
            "missing": ", ".join(missing) or "no package",
            "stages": "\n".join(stages),
        }
        print_table(("", "dry run: nothing is done"), list(rows.items()))
    if refusal is not None:
        raise refusal


def stages_of(target: Target, *, runs_here: bool = True) -> list[str]:
    """Return the names of the stages of an export. int8 may repeat some, for further candidates.

    Args:
        target: Precision, backend and device.
        runs_here: Whether this machine can run the engine. If not, its graph is judged on the CPU; one in bfloat16,
            which ONNX Runtime cannot run there, only by its float32 form.
    """
    precision = target.precision
    runs_on = str(target.backend) if runs_here else UNCOMPILED
    is_run = runs_here or precision is not Precision.BF16
    return [
        "load checkpoint",
        "encode the probes with PyTorch",
        "measure the ranges of vectors with PyTorch",
        "fold into one graph",
        *(() if target.is_as_folded else ("gate: the fp32 graph", "sweep: the fp32 graph")),
        *(("calibrate and search",) if precision.is_int8 else ()),
        *(() if precision is Precision.FP32 else (f"type as {precision}",)),
        f"build for {target.backend}",
        *((f"held-out text: {precision} on {runs_on}",) if precision.is_int8 else ()),
        "check the files",
        *((f"gate: {precision} on {runs_on}", f"sweep: {precision} on {runs_on}") if is_run else ()),
        "publish",
    ]


def _checkpoint(recipe: Recipe, options: ExportOptions) -> dict[str, str | None]:
    """Return where the checkpoint would come from: a folder on this machine, or a revision on the hub."""
    folder = options.checkpoint or recipe.local_source()
    revision = options.revision or recipe.revision or "main"
    return {
        "source": recipe.source_name() if recipe.local_source() is None else None,
        "folder": None if folder is None else str(folder),
        "revision": revision if folder is None else None,
    }


def _in_words(source: str | None, folder: str | None, revision: str | None) -> str:
    if folder is None:
        return f"{source} at {revision}, on the hub"
    return f"{folder}, a folder" if source is None else f"{folder}, a local copy of {source}"
