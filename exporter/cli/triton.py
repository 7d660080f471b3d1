"""``korsbert ship``: bundles into a server's model repository, the repository checked, the running server verified."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from exporter.cli.arguments import GatesOption, JsonFlag, RecipeOption, RequireSignatureOption
from exporter.cli.output import print_json, print_table, spinner, stderr_console
from exporter.errors import InputError

if TYPE_CHECKING:
    from exporter.bundle.floor import Floor
    from exporter.serving.triton.verify import Verification


def ship_command(
    bundles: Annotated[list[Path] | None, typer.Argument(metavar="BUNDLE...", help="Folders of bundles.")] = None,
    repository: Annotated[
        Path | None, typer.Option("--repository", metavar="FOLDER", help="Model repository to put them into.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="FOLDER", help="Look for mistakes in a repository, ours or not.")
    ] = None,
    verify: Annotated[
        str | None, typer.Option("--verify", metavar="URL", help="Hold a running server against BUNDLE's checkpoint.")
    ] = None,
    runtime: Annotated[
        Literal["engine", "python"],
        typer.Option("--runtime", help="Triton's backend for the engine, or korsbert in its python backend."),
    ] = "engine",
    name: Annotated[str | None, typer.Option("--name", help="Of the model; by default the recipe's.")] = None,
    instances: Annotated[int, typer.Option("--instances", min=1, help="Copies of the encoder, per GPU if any.")] = 1,
    gpus: Annotated[str, typer.Option("--gpus", metavar="0,1", help="GPUs the encoder runs on.")] = "",
    accelerator: Annotated[
        Literal["cuda", "tensorrt"],
        typer.Option("--accelerator", help="For onnxruntime engines on GPUs; verify a server that uses tensorrt."),
    ] = "cuda",
    response_cache: Annotated[
        bool, typer.Option("--response-cache", help="Answer texts seen before from the server's cache.")
    ] = False,
    queue_delay_us: Annotated[
        int, typer.Option("--queue-delay-us", min=0, help="How long a request may wait for others, in microseconds.")
    ] = 500,
    version: Annotated[
        int | None, typer.Option("--force-version", metavar="N", min=1, help="Replace version N, or jump to it.")
    ] = None,
    image_version: Annotated[
        str | None, typer.Option("--image-version", metavar="YY.MM", help="Of NVIDIA's Triton image.")
    ] = None,
    grpc: Annotated[
        str | None, typer.Option("--grpc", metavar="HOST:PORT", help="With --verify; by default HTTP's port plus 1.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FOLDER", help="With --verify: a copy of the checkpoint.")
    ] = None,
    clients: Annotated[int, typer.Option("--clients", min=1, help="With --verify: at the same time.")] = 32,
    requests: Annotated[int, typer.Option("--requests", min=1, help="With --verify: how many under load.")] = 512,
    recipe: RecipeOption = None,
    gates: GatesOption = None,
    require_signature: RequireSignatureOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put bundles into a Triton model repository; check one; or verify a running server."""
    from exporter.bundle import Bundle
    from exporter.bundle.floor import floor_of

    if sum(option is not None for option in (repository, check, verify)) != 1:
        raise InputError(
            "give one of --repository, --check and --verify", next_step="korsbert ship BUNDLE --repository FOLDER"
        )
    if check is not None:
        if bundles:
            raise InputError("--check reads a repository, and takes no bundle", next_step="leave the bundles out")
        _check(check, floor_of(gates, recipe), require_signature, as_json)
        return
    if not bundles or (verify is not None and len(bundles) != 1):
        raise InputError("give a bundle" if verify is None else "give the one bundle that the server serves")
    floor = floor_of(gates, recipe)
    opened = [Bundle.open(path, require_signature=require_signature) for path in bundles]
    if verify is not None:
        if (warning := floor.warning(opened[0].manifest)) is not None:
            stderr_console().print(f"warning: {warning}")
        with spinner(stderr_console(), "importing torch"):
            from exporter.dependencies import require

            for package in ("torch", "sentence_transformers", "optimum", "tritonclient"):
                require(package)
            from exporter.serving.triton.verify import verify as verify_server
        with spinner(stderr_console(), "the server encodes the probes"):
            result = verify_server(
                opened[0],
                verify,
                grpc=grpc,
                model=name,
                checkpoint=checkpoint,
                clients=clients,
                requests=requests,
                floor=floor,
            )
        _print_verification(result, as_json)
        return
    from exporter.serving import triton
    from exporter.serving.triton.deployment import IMAGE_VERSION

    options = triton.Options(
        runtime=runtime,
        instances=instances,
        gpus=_numbers(gpus),
        accelerator=accelerator,
        response_cache=response_cache,
        queue_delay_us=queue_delay_us,
    )
    with spinner(stderr_console(), "writing"):
        shipped = triton.ship(
            opened,
            Path(str(repository)),
            options,
            name=name,
            version=version,
            image_version=image_version or IMAGE_VERSION,
            floor=floor,
        )
    if as_json:
        print_json({"repository": str(repository), "shipped": [vars(one) for one in shipped]})
        return
    rows = [
        (one.ensemble, str(one.version), one.backend, f"{one.size_bytes / 1e6:.1f} MB", str(path))
        for one, path in zip(shipped, bundles, strict=True)
    ]
    print_table(("model", "version", "encoder's backend", "size", "bundle"), rows)
    for one in shipped:
        for remark in one.remarks:
            stderr_console().print(f"note: {remark}")
    print(f"{repository}/README.md says how to start a server and how to ask it")  # noqa: T201


def _check(folder: Path, floor: Floor, require_signature: Path | None, as_json: bool) -> None:
    from exporter.serving.triton.lint import check

    findings = check(folder, floor, require_signature)
    if as_json:
        print_json({"repository": str(folder), "findings": [_finding(one) for one in findings]})
    else:
        for finding in findings:
            print(finding)  # noqa: T201
        print(f"{folder}: {len(findings) or 'no'} mistake{'' if len(findings) == 1 else 's'}")  # noqa: T201
    if findings:
        raise typer.Exit(1)


def _finding(finding: Any) -> dict[str, str]:
    return {field: str(value) for field, value in vars(finding).items()}


def _print_verification(result: Verification, as_json: bool) -> None:
    if as_json:
        print_json(result.to_dict())
    else:
        rows = [
            ("passed" if report.passed else "FAILED", report.execution, report.summary()) for report in result.reports
        ]
        load = result.load
        rows.append(
            (
                "passed" if load.passed else "FAILED",
                f"{load.clients} clients, {load.requests} requests",
                f"{len(load.lost)} lost, {load.swapped} swapped, deviation {load.max_deviation:.2g} (bound "
                f"{load.bound:.2g}), {load.inferences} inferences in {load.executions} executions: "
                f"{load.batching:.2f} a batch",
            )
        )
        print_table(("", "server", "against the checkpoint"), rows)
        for report in result.reports:
            if not report.passed:
                stderr_console().print(report.failure())
        if load.note:
            stderr_console().print(f"note: {load.note}")
        if load.lost:
            stderr_console().print(f"first lost request: {load.lost[0]}")
    if not result.passed:
        raise typer.Exit(1)


def _numbers(gpus: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in gpus.split(",") if number.strip())
    except ValueError as error:
        raise InputError(f"--gpus {gpus}: not a list of numbers", next_step="--gpus 0,1") from error
