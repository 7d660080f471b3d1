"""``korsbert export``, which is also ``korsbert-export``. Its options are the fields of ``ExportOptions``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from exporter.cli.arguments import JsonFlag
from exporter.cli.output import parity_of, print_json, print_table, spinner, stderr_console
from exporter.errors import InputError
from exporter.options import ExportOptions
from exporter.targets import Precision

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from exporter.stages import Stages

_PRECISIONS = {
    Precision.FP16: "float16, after an audit of every activation's range.",
    Precision.BF16: "bfloat16 (openvino, tensorrt, or CUDA).",
    Precision.INT8: "int8 with scales from calibration text.",
    Precision.INT8_DYNAMIC: "int8 with scales from each batch (onnxruntime on the CPU).",
}


def flag_of(option: str) -> str:
    """Return the flag of an option."""
    return f"--{option.replace('_', '-')}"


def export_command(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME|FOLDER|HUB-ID", help="A recipe, a local folder, or owner/name."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="Your own recipe (YAML).")] = None,
    as_json: JsonFlag = False,
    **given: Any,
) -> None:
    """Export a checkpoint, prove the result equal to it, and publish it."""
    from exporter import api
    from exporter.errors import GateError
    from exporter.recipe import find_recipe, load_recipe
    from exporter.stages import Stages

    if (model is None) == (recipe is None):
        raise InputError("give a model or a recipe, one of the two", next_step="--model demo, or --recipe FILE")
    options = ExportOptions.of(**_options(given))
    chosen = load_recipe(recipe) if recipe is not None else find_recipe(str(model))
    stderr = stderr_console()
    with spinner(stderr, "importing torch") as show:
        stages = Stages(
            on_start=show.stage,
            on_progress=show.detail,
            on_warning=lambda warning: stderr.print(f"warning: {warning}"),
        )
        try:
            bundle = api.export(chosen, options, stages=stages)
        except GateError as error:
            if as_json:
                print_json({"error": error.message, "parity": error.report})
            raise
    if as_json:
        print_json(_as_json(bundle, stages))
    else:
        _print(bundle, stages)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the command line under the names of ``ExportOptions``."""
    precisions = [precision for precision in _PRECISIONS if given.pop(precision)]
    if len(precisions) > 1:
        flags = " and ".join(flag_of(precision) for precision in precisions[:2])
        raise InputError(f"{flags} are two precisions", next_step="one export for each")
    options = {name: value for name, value in given.items() if value is not None and value != []}
    return {**options, "precision": precisions[0] if precisions else Precision.FP32}


def command() -> Callable[..., None]:
    """Return ``export_command`` with a signature that typer reads: one option per field of ``ExportOptions``."""

    def export(**given: Any) -> None:
        export_command(**given)

    export.__doc__ = export_command.__doc__
    export.__annotations__ = {}
    export.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]
    return export


def _parameters() -> Iterator[inspect.Parameter]:
    own = inspect.signature(export_command, eval_str=True).parameters
    for name in ("model", "recipe"):
        yield own[name].replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for precision, text in _PRECISIONS.items():
        yield _parameter(str(precision), bool, False, help=text)
    for name, field in ExportOptions.model_fields.items():
        if name != "precision":
            extra = field.json_schema_extra
            metavar = extra.get("metavar") if isinstance(extra, dict) else None
            yield _parameter(name, *_type_and_default(field), help=field.description, metavar=metavar)
    yield own["as_json"].replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _parameter(name: str, kind: Any, default: Any, **settings: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(flag_of(name), **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _type_and_default(field: FieldInfo) -> tuple[Any, Any]:
    """Return the type and default for typer. An option with several values is repeated on the command line."""
    if field.default == ():
        return list[Path] | None, None
    if field.default is not None:
        return field.annotation, field.default
    kind = next(kind for kind in get_args(field.annotation) if kind is not type(None))
    return (list[str] if get_origin(kind) is tuple else kind) | None, None


def _as_json(bundle: Bundle, stages: Stages) -> dict[str, Any]:
    return {
        "bundle": str(bundle.folder),
        "size_bytes": bundle.size_bytes,
        "stages": [{**asdict(stage), "seconds": round(stage.seconds, 3)} for stage in stages.done],
        "manifest": bundle.manifest.model_dump(mode="json"),
        "parity": parity_of(bundle),
    }


def _print(bundle: Bundle, stages: Stages) -> None:
    rows = [(stage.name, f"{stage.seconds:.1f} s", stage.result) for stage in stages.done]
    rows.append(("total", f"{sum(stage.seconds for stage in stages.done):.1f} s", ""))
    print_table(("stage", "time", "result"), rows)
    for decision in bundle.manifest.decisions:
        print(f"- {decision}")  # noqa: T201
    print(f"{bundle.folder}: {bundle.manifest.validation.note}")  # noqa: T201
