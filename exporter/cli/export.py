"""``korsbert export``, which is also ``korsbert-export``. Its options are the fields of ``ExportOptions``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.arguments import JsonFlag
from exporter.cli.from_options import flag_of, own_parameters, parameter, parameters_of, with_parameters
from exporter.cli.output import parity_of, print_json, print_table, spinner, stderr_console
from exporter.errors import ExportError, InputError
from exporter.options import ExportOptions
from exporter.targets import Precision

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from exporter.recipe import Recipe
    from exporter.stages import Stages

_PRECISIONS = {
    Precision.FP16: "float16, after an audit of every activation's range.",
    Precision.BF16: "bfloat16 (openvino, tensorrt, or CUDA).",
    Precision.INT8: "int8 with scales from calibration text.",
    Precision.INT8_DYNAMIC: "int8 with scales from each batch (onnxruntime on the CPU).",
}


def export_command(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME|FOLDER|HUB-ID", help="A recipe, a local folder, or owner/name."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="Your own recipe (YAML).")] = None,
    precisions: Annotated[
        str | None,
        typer.Option(
            "--precisions",
            metavar="P,P,...",
            help="Several precisions in one run, for example fp16,int8: the work that does not depend on the precision "
            "is done once.",
        ),
    ] = None,
    as_json: JsonFlag = False,
    **given: Any,
) -> None:
    """Export a checkpoint, prove the result equal to it, and publish it."""
    from exporter import api
    from exporter.errors import GateError
    from exporter.stages import Stages

    options = ExportOptions.of(**_options(given, precisions))
    chosen = chosen_recipe(model, recipe)
    stderr = stderr_console()
    with spinner(stderr, "importing torch") as show:
        stages = Stages(
            on_start=show.stage,
            on_progress=show.detail,
            on_warning=lambda warning: stderr.print(f"warning: {warning}"),
        )
        try:
            if precisions is not None:
                done = api.export_precisions(chosen, split(precisions, "_"), options, stages=stages)
            else:
                bundle = api.export(chosen, options, stages=stages)
        except GateError as error:
            if as_json:
                print_json({"error": error.message, "parity": error.report})
            raise
    if precisions is not None:
        _finish(done, stages, as_json=as_json)
    elif as_json:
        print_json({**_as_json(bundle), "stages": _stages_as_json(stages)})
    else:
        _print_stages(stages)
        _print_bundle(bundle)


def _finish(done: Mapping[Precision, Bundle | ExportError], stages: Stages, *, as_json: bool) -> None:
    """Print what came of several precisions, and exit as the first that was refused would have.

    Raises:
        ExportError: The first refusal.
    """
    refusals = [result for result in done.values() if isinstance(result, ExportError)]
    if as_json:
        exports = [
            _refusal_as_json(name, result) if isinstance(result, ExportError) else _as_json(result)
            for name, result in done.items()
        ]
        print_json({"exports": exports, "stages": _stages_as_json(stages)})
    else:
        _print_stages(stages)
        for result in done.values():
            if not isinstance(result, ExportError):
                _print_bundle(result)
    for other in refusals[1:]:
        print(f"error: {other}", file=sys.stderr)  # noqa: T201
    if refusals:
        raise refusals[0]


def chosen_recipe(model: str | None, recipe: Path | None) -> Recipe:
    """Return the recipe that ``--model`` or ``--recipe`` names.

    Raises:
        InputError: Both are given, or neither.
        RecipeError: There is no such recipe, or it cannot be read.
    """
    from exporter.recipe import find_recipe, load_recipe

    if (model is None) == (recipe is None):
        raise InputError("give a model or a recipe, one of the two", next_step="--model demo, or --recipe FILE")
    return load_recipe(recipe) if recipe is not None else find_recipe(str(model))


def split(names: str, joined_by: str) -> list[str]:
    """Return the names in a list with commas; ``-`` and ``_`` in them are the same."""
    parts = [name.strip() for name in names.split(",")]
    return [name.replace("-", "_").replace("_", joined_by) for name in parts if name]


def _options(given: dict[str, Any], several: str | None) -> dict[str, Any]:
    """Return the options of the command line under the names of ``ExportOptions``."""
    precisions = [precision for precision in _PRECISIONS if given.pop(precision)]
    if several is not None and precisions:
        raise InputError(f"--precisions is given with {flag_of(precisions[0])}", next_step="name it in --precisions")
    if len(precisions) > 1:
        flags = " and ".join(flag_of(precision) for precision in precisions[:2])
        both = ",".join(precisions[:2])
        raise InputError(f"{flags} are two precisions", next_step=f"--precisions {both} exports both")
    options = {name: value for name, value in given.items() if value is not None and value != []}
    return {**options, "precision": precisions[0] if precisions else Precision.FP32}


def command() -> Callable[..., None]:
    """Return ``export_command`` with a signature that typer reads: one option per field of ``ExportOptions``."""
    precisions = (parameter(str(precision), bool, False, help=text) for precision, text in _PRECISIONS.items())
    return with_parameters(
        export_command,
        "export",
        (
            *own_parameters(export_command, "model", "recipe"),
            *precisions,
            *own_parameters(export_command, "precisions"),
            *parameters_of(ExportOptions, without=("precision",)),
            *own_parameters(export_command, "as_json"),
        ),
    )


def _as_json(bundle: Bundle) -> dict[str, Any]:
    return {
        "bundle": str(bundle.folder),
        "size_bytes": bundle.size_bytes,
        "manifest": bundle.manifest.model_dump(mode="json"),
        "parity": parity_of(bundle),
    }


def _refusal_as_json(precision: Precision, error: ExportError) -> dict[str, Any]:
    return {"precision": precision, "error": error.message, "parity": getattr(error, "report", None)}


def _stages_as_json(stages: Stages) -> list[dict[str, Any]]:
    return [{**asdict(stage), "seconds": round(stage.seconds, 3)} for stage in stages.done]


def _print_stages(stages: Stages) -> None:
    rows = [(stage.name, f"{stage.seconds:.1f} s", stage.result) for stage in stages.done]
    rows.append(("total", f"{sum(stage.seconds for stage in stages.done):.1f} s", ""))
    print_table(("stage", "time", "result"), rows)


def _print_bundle(bundle: Bundle) -> None:
    for decision in bundle.manifest.decisions:
        print(f"- {decision}")  # noqa: T201
    print(f"{bundle.folder}: {bundle.manifest.validation.note}")  # noqa: T201
