"""``korsbert export``, which is also ``korsbert-export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from exporter.cli.arguments import CheckpointOption, JsonFlag, StsOption
from exporter.cli.output import parity_of, print_json, print_table, spinner, stderr_console
from exporter.errors import InputError

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from exporter.pipeline import Stages

DeviceOption = Annotated[Literal["cpu", "cuda"], typer.Option("--device", help="Where to compute.")]


def export_command(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME|FOLDER|HUB-ID", help="A recipe, a local folder, or owner/name."),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="float16, after an audit of every activation's range.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 (openvino, tensorrt, or CUDA).")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="int8 with scales from calibration text.")] = False,
    int8_dynamic: Annotated[
        bool, typer.Option("--int8-dynamic", help="int8 with scales from each batch (onnxruntime on the CPU).")
    ] = False,
    backend: Annotated[
        Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"],
        typer.Option("--backend", help="What serves the bundle."),
    ] = "onnxruntime",
    recipe: Annotated[Path | None, typer.Option("--recipe", metavar="FILE", help="Your own recipe (YAML).")] = None,
    checkpoint: CheckpointOption = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit on the hub.")
    ] = None,
    pooling: Annotated[
        list[str] | None,
        typer.Option(
            "--pooling",
            metavar="MODE",
            help="cls, mean, max, ...: for a checkpoint without modules.json, which does not say. Several are joined.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Your own sentences (text, one a line, or JSONL with a text field): int8 takes its scales from them, "
            "fp16 is audited on them beside the probes.",
        ),
    ] = None,
    sts: StsOption = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder of bundles.")] = Path("artifacts"),
    device: DeviceOption = "cpu",
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing bundle, once the new one has passed.")
    ] = False,
    unvalidated: Annotated[
        bool,
        typer.Option(
            "--unvalidated", help="Where this machine cannot run the engine, publish it all the same, marked as such."
        ),
    ] = False,
    workspace_mib: Annotated[
        int | None,
        typer.Option(
            "--workspace", metavar="MIB", min=1, help="Most scratch memory of a kernel (tensorrt, tensorrt-rtx)."
        ),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="An engine that newer versions open too (tensorrt).")
    ] = False,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            help="An engine for Ampere and newer, not for this GPU alone (tensorrt, tensorrt-rtx).",
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Export a checkpoint, prove the result equal to it, and publish it."""
    from exporter.dependencies import require
    from exporter.errors import GateError
    from exporter.recipe import find_recipe, load_recipe, pooling_modes

    if (model is None) == (recipe is None):
        raise InputError("give a model or a recipe, one of the two", next_step="--model demo, or --recipe FILE")
    asked = {"fp16": fp16, "bf16": bf16, "int8": int8, "int8_dynamic": int8_dynamic}
    precisions = [name for name, wanted in asked.items() if wanted]
    if len(precisions) > 1:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in precisions[:2])
        raise InputError(f"{flags} are two precisions", next_step="one export for each")
    chosen = load_recipe(recipe) if recipe is not None else find_recipe(str(model))
    stderr = stderr_console()
    with spinner(stderr, "importing torch"):
        for package in ("torch", "sentence_transformers", "optimum", "onnxscript", "onnxruntime"):
            require(package)
        from exporter import pipeline
        from exporter.engines import BuildOptions

    options = pipeline.Options(
        precision=precisions[0] if precisions else "fp32",
        backend=backend,
        out=out,
        device=device,
        checkpoint=checkpoint,
        revision=revision,
        pooling=pooling_modes(pooling) if pooling else None,
        calibration=calibration,
        sts=tuple(sts or ()),
        force=force,
        unvalidated=unvalidated,
        build=BuildOptions(
            workspace_mib=workspace_mib, version_compatible=version_compatible, hardware_compatible=hardware_compatible
        ),
    )
    with spinner(stderr, "") as show:
        stages = pipeline.Stages(
            on_start=show.stage,
            on_progress=show.detail,
            on_warning=lambda warning: stderr.print(f"warning: {warning}"),
        )
        try:
            bundle = pipeline.export(chosen, options, stages)
        except GateError as error:
            if as_json:
                print_json({"error": error.message, "parity": error.report})
            raise
    if as_json:
        print_json(
            {
                "bundle": str(bundle.folder),
                "size_bytes": bundle.size_bytes,
                "stages": [{"name": n, "seconds": round(s, 3), "result": r} for n, s, r in stages.done],
                "manifest": bundle.manifest.model_dump(mode="json"),
                "parity": parity_of(bundle),
            }
        )
    else:
        _print_export(bundle, stages)


def _print_export(bundle: Bundle, stages: Stages) -> None:
    rows = [(name, f"{seconds:.1f} s", result) for name, seconds, result in stages.done]
    rows.append(("total", f"{sum(seconds for _, seconds, _ in stages.done):.1f} s", ""))
    print_table(("stage", "time", "result"), rows)
    for decision in bundle.manifest.decisions:
        print(f"- {decision}")  # noqa: T201
    print(f"{bundle.folder}: {bundle.manifest.validation.note}")  # noqa: T201
