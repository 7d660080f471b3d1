"""``korsbert ship`` and ``check``: a Triton model repository is written and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from exporter.cli.arguments import GatesOption, JsonFlag, QuietFlag, RecipeOption, RequireSignatureOption
from exporter.cli.completion import bundle_folders
from exporter.cli.output import print_json, print_table, stderr_console
from exporter.cli.progress import progress
from exporter.errors import InputError

if TYPE_CHECKING:
    from exporter.serving.triton import Shipped
    from exporter.serving.triton.lint import Finding

NameOption = Annotated[str | None, typer.Option("--name", help="Model name (default: the bundle's name).")]


def ship_command(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE", help="Folders of the bundles, or their ids on the hub.", autocompletion=bundle_folders
        ),
    ],
    repository: Annotated[
        Path, typer.Option("--repository", metavar="FOLDER", help="Model repository to write to; created if missing.")
    ],
    runtime: Annotated[
        Literal["engine", "python"],
        typer.Option(
            "--runtime", help="engine: Triton's backend for that engine. python: korsbert in Triton's Python backend."
        ),
    ] = "engine",
    name: NameOption = None,
    instances: Annotated[
        int, typer.Option("--instances", min=1, help="Encoder instances (per GPU if it runs on GPUs).")
    ] = 1,
    gpus: Annotated[str, typer.Option("--gpus", metavar="0,1", help="GPUs to run the encoder on.")] = "",
    accelerator: Annotated[
        Literal["cuda", "tensorrt"],
        typer.Option("--accelerator", help="Execution provider of onnxruntime engines on GPUs."),
    ] = "cuda",
    response_cache: Annotated[
        bool, typer.Option("--response-cache", help="Answer what was asked before from the server's response cache.")
    ] = False,
    queue_delay_us: Annotated[
        int | None,
        typer.Option(
            "--queue-delay-us",
            min=0,
            help="Longest wait for a batch to fill, in microseconds (default: 0 with `--runtime python` on a CPU, "
            "otherwise 500).",
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            "--force-version",
            metavar="N",
            min=1,
            help="Version number: the latest one, which is replaced, or a higher one (default: the next one).",
        ),
    ] = None,
    image_version: Annotated[
        str | None,
        typer.Option(
            "--image-version",
            metavar="YY.MM[@sha256:...]",
            help="NVIDIA's Triton image (default: one whose ONNX Runtime is new enough).",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Encode one batch of the largest size here, and take its memory for the limits in kubernetes.yaml.",
        ),
    ] = True,
    recipe: RecipeOption = None,
    gates: GatesOption = None,
    require_signature: RequireSignatureOption = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Write bundles to a Triton model repository."""
    from exporter.bundle import Bundle
    from exporter.bundle.finding import find_bundle
    from exporter.bundle.minimum_gate import minimum_gate_of
    from exporter.serving import triton

    minimum_gate = minimum_gate_of(gates, recipe)
    options = triton.Options(
        runtime=runtime,
        instances=instances,
        gpus=_numbers(gpus),
        accelerator=accelerator,
        response_cache=response_cache,
        queue_delay_us=queue_delay_us,
    )
    opened = [Bundle.open(find_bundle(path).folder, require_signature=require_signature) for path in bundles]
    name_of_stage = "measure memory, write the repository" if measure else "write the repository"
    with progress("opening the bundles", quiet=quiet) as stages, stages(name_of_stage) as stage:
        shipped = triton.ship(
            opened,
            repository,
            options,
            name=name,
            version=version,
            image_version=image_version,
            minimum_gate=minimum_gate,
            measure=measure,
        )
        stage.result = ", ".join(f"{one.ensembles[0]} version {one.version}" for one in shipped)
    if as_json:
        print_json({"repository": str(repository), "shipped": [vars(one) for one in shipped]})
    else:
        _print_shipped(shipped, bundles, repository)


def check_command(
    repository: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Model repository, written by korsbert or any other tool.")
    ],
    recipe: RecipeOption = None,
    gates: GatesOption = None,
    require_signature: RequireSignatureOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a Triton model repository for mistakes."""
    from exporter.bundle.minimum_gate import minimum_gate_of
    from exporter.serving.triton.lint import check

    findings = check(repository, minimum_gate_of(gates, recipe), require_signature)
    if as_json:
        print_json({"repository": str(repository), "findings": [_to_dict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(finding)  # noqa: T201
        print(f"{repository}: {len(findings) or 'no'} mistake{'' if len(findings) == 1 else 's'}")  # noqa: T201
    if findings:
        raise typer.Exit(1)


def _print_shipped(shipped: list[Shipped], bundles: list[Path], repository: Path) -> None:
    rows = [
        (", ".join(one.ensembles), str(one.version), one.backend, f"{one.size_bytes / 1e6:.1f} MB", str(path))
        for one, path in zip(shipped, bundles, strict=True)
    ]
    print_table(("model", "version", "encoder backend", "size", "bundle"), rows)
    for one in shipped:
        for remark in one.remarks:
            stderr_console().print(f"note: {remark}")
    print(f"{repository}/README.md describes how to start a server and how to send requests")  # noqa: T201


def _to_dict(finding: Finding) -> dict[str, Any]:
    return {field: str(value) for field, value in vars(finding).items()}


def _numbers(gpus: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in gpus.split(",") if number.strip())
    except ValueError as error:
        raise InputError(f"--gpus {gpus}: not a list of numbers", next_step="--gpus 0,1") from error
