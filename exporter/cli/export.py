"""``korsbert export``, which is also ``korsbert-export``. Its options are the fields of ``ExportOptions``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.arguments import CheckpointNameOption, JsonFlag, OwnRecipeOption, QuietFlag
from exporter.cli.dry_run import show_dry_run
from exporter.cli.from_options import flag_of, own_parameters, parameter, parameters_of, with_parameters
from exporter.cli.interruption import resumable
from exporter.cli.output import parity_of, print_json
from exporter.cli.progress import print_stages, progress
from exporter.errors import ExportError, GateError, InputError
from exporter.options import ExportOptions
from exporter.targets import Precision

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from exporter.recipe import Recipe
    from exporter.stages import Stages

_PRECISIONS = {
    Precision.FP32: "float32, the default.",
    Precision.FP16: "float16, after an audit of every activation's range.",
    Precision.BF16: "bfloat16 (openvino, tensorrt, or CUDA).",
    Precision.INT8: "int8 with scales from calibration text.",
    Precision.INT8_DYNAMIC: "int8 with scales from each batch (onnxruntime on the CPU).",
}
_GROUPS = {
    "Engine": ("backend", "device", "opset"),
    "Bundle": ("out", "name", "force", "unvalidated"),
    "Checkpoint": ("checkpoint", "revision", "pooling", "max_seq_length"),
    "Text": ("calibration", "sts"),
    "TensorRT": ("workspace_mib", "version_compatible", "hardware_compatible"),
}
"""Fields of ``ExportOptions`` by their group on the help page."""


def export_command(
    model: CheckpointNameOption = None,
    recipe: OwnRecipeOption = None,
    precisions: Annotated[
        str | None,
        typer.Option(
            "--precisions",
            metavar="P,P,...",
            help="Several precisions in one run, for example fp16,int8: the work that does not depend on the precision "
            "is done once.",
            rich_help_panel="Precision",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and what is missing here, and do nothing.")
    ] = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
    **given: Any,
) -> None:
    """Export a checkpoint, prove the result equal to it, and publish it."""
    from exporter import api

    chosen = chosen_recipe(model, recipe)
    options = ExportOptions.of(**_options(given, precisions))
    if dry_run and precisions is not None:
        raise InputError("--dry-run is given with --precisions", next_step="give it with one precision at a time")
    if dry_run:
        show_dry_run(chosen, options, as_json=as_json)
        return
    # Of several precisions, those that are published by then would be refused: the same command does not resume.
    with progress("importing torch", quiet=quiet) as stages, resumable(lambda: None if precisions else stages.kept()):
        try:
            if precisions is None:
                bundle = api.export(chosen, options, stages=stages)
            else:
                done = api.export_precisions(chosen, split(precisions, "_"), options, stages=stages)
        except GateError as error:
            if as_json:
                print_json({"error": error.message, "stages": _stages(stages), "parity": error.report})
            raise
    if precisions is not None:
        _finish(done, stages, as_json=as_json)
    elif as_json:
        print_json({**_as_json(bundle), "stages": _stages(stages)})
    else:
        print_stages(stages)
        _print(bundle)


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
        print_json({"exports": exports, "stages": _stages(stages)})
    else:
        print_stages(stages)
        for result in done.values():
            if not isinstance(result, ExportError):
                _print(result)
    if refusals:
        raise _together(refusals)


def _together(refusals: Sequence[ExportError]) -> ExportError:
    """Return one error that tells them all. Its exit code is that of a failed gate, where one has failed."""
    first = next((error for error in refusals if isinstance(error, GateError)), refusals[0])
    others = [error for error in refusals if error is not first]
    first.message, first.next_step = "\nerror: ".join(map(str, (first, *others))), None
    return first


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
    precisions = (
        parameter(str(precision), bool, False, help=text, rich_help_panel="Precision")
        for precision, text in _PRECISIONS.items()
    )
    return with_parameters(
        export_command,
        "export",
        (
            *own_parameters(export_command, "model", "recipe", "dry_run"),
            *precisions,
            *own_parameters(export_command, "precisions"),
            *parameters_of(ExportOptions, without=("precision",), groups=_GROUPS),
            *own_parameters(export_command, "quiet", "as_json"),
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


def _stages(stages: Stages) -> list[dict[str, Any]]:
    return [{**asdict(stage), "seconds": round(stage.seconds, 3)} for stage in stages.done]


def _print(bundle: Bundle) -> None:
    for decision in bundle.manifest.decisions:
        print(f"- {decision}")  # noqa: T201
    print(f"{bundle.folder}: {bundle.manifest.validation.note}")  # noqa: T201
