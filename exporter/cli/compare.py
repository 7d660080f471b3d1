"""``korsbert compare``: whether vectors that are stored with one model, server or file can be searched with another."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from exporter.cli.arguments import JsonFlag, RequireSignatureOption, StsOption
from exporter.cli.output import print_json, print_table, spinner, stderr_console
from exporter.cli.reports import JunitOption, Reports, SummaryOption
from exporter.errors import InputError

if TYPE_CHECKING:
    from exporter.comparison import Comparison
    from exporter.serving.embeddings import ServerOptions

_SIDE = "Folder of a bundle, URL of a server, .npy, .parquet or .arrow, or what `korsbert embed` wrote."
_Api = Literal["triton", "tei", "openai"]
_Precision = Literal["fp32", "fp16", "bf16", "int8", "int8_dynamic"]


def compare_command(
    a: Annotated[str, typer.Argument(metavar="A", help=f"What vectors are stored with. {_SIDE}")],
    b: Annotated[str, typer.Argument(metavar="B", help="What they are to be searched with: as A.")],
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE",
            help="Text to compare on: one sentence per line, or JSONL with a text field (default: the probes that "
            "ship). Of vectors in a file: the text that they were made from.",
        ),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option("--id-column", metavar="NAME", help="Column, or field of JSONL, that joins rows (default: id)."),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many nearest are compared.")] = 10,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows that are compared at most, evenly spread.")] = 10_000,
    sts: StsOption = None,
    similarity: Annotated[
        Literal["cosine", "dot", "euclidean"] | None,
        typer.Option("--similarity", help="How vectors are compared (default: as the model says, or cosine)."),
    ] = None,
    gates: Annotated[
        Path | None,
        typer.Option(
            "--gates",
            metavar="FILE",
            help="YAML file with the key `gates`: how far each side may be from its checkpoint, by precision. A and B "
            "may be as far from each other as both together (default: korsbert's gates).",
        ),
    ] = None,
    min_overlap: Annotated[
        float | None,
        typer.Option("--min-overlap", metavar="SHARE", help="Least mean overlap of searches (default: by the gates)."),
    ] = None,
    precision_a: Annotated[
        _Precision | None,
        typer.Option("--precision-a", help="Whose gate counts for A (default: what A says, or fp16)."),
    ] = None,
    precision_b: Annotated[
        _Precision | None,
        typer.Option("--precision-b", help="Whose gate counts for B (default: what B says, or fp16)."),
    ] = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure the speed of two bundles.")] = True,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (default: all cores).")] = None,
    api: Annotated[_Api, typer.Option("--api", help="What servers speak.")] = "tei",
    api_b: Annotated[_Api | None, typer.Option("--api-b", help="What B speaks (default: as --api).")] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Model of a server; of Triton, the encoder's name.")
    ] = None,
    model_b: Annotated[
        str | None, typer.Option("--model-b", metavar="NAME", help="Model of B (default: as --model).")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="'NAME: VALUE'", help="Sent to servers (repeatable).")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option("--key-env", metavar="NAME", help="Environment variable with the key of servers.")
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", metavar="FILE", help="Certificates (PEM) that vouch for servers' certificates."),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Longest time for one request.")
    ] = 60,
    deadline_s: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", help="Longest time for all requests together.")
    ] = 1800,
    require_signature: RequireSignatureOption = None,
    junit: JunitOption = None,
    summary: SummaryOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say whether vectors that are stored with A can be searched with B."""
    import exporter

    reports, stderr = Reports(junit, summary), stderr_console()
    told: list[str] = []

    def tell(note: str) -> None:
        told.append(note)
        stderr.print(f"note: {note}")

    with reports.telling(f"{a} against {b}"), spinner(stderr, "opening A and B") as shown:
        from exporter.comparison import Watcher

        server = _server(api, model, header or (), key_env, ca_file, timeout_s, deadline_s)
        server_b = _server(api_b or api, model_b or model, header or (), key_env, ca_file, timeout_s, deadline_s)
        result = exporter.compare(
            a,
            b,
            text=text,
            id_column=id_column,
            k=k,
            rows=rows,
            sts=sts or (),
            gates=gates,
            min_overlap=min_overlap,
            precision_a=precision_a,
            precision_b=precision_b,
            similarity=similarity,
            speed=speed,
            threads=threads,
            server=server,
            server_b=server_b,
            require_signature=require_signature,
            watcher=Watcher(on_stage=shown.stage, on_note=tell),
        )
    reports.write_comparison(result)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result, told)
    if not result.passed:
        raise typer.Exit(1)


def _server(
    api: _Api,
    model: str | None,
    headers: list[str] | tuple[str, ...],
    key_env: str | None,
    ca_file: Path | None,
    timeout_s: float,
    deadline_s: float,
) -> ServerOptions:
    from exporter.serving.embeddings import ServerOptions, header_of

    key = None
    if key_env is not None:
        key = os.environ.get(key_env)
        if not key:
            raise InputError(f"`key_env` is {key_env}, and there is no such environment variable")
    return ServerOptions(
        api=api,
        model=model,
        headers=tuple(header_of(one) for one in headers),
        key=key,
        ca_file=ca_file,
        timeout_s=timeout_s,
        deadline_s=deadline_s,
    )


def _print(result: Comparison, told: list[str]) -> None:
    from exporter.comparison.summary import rows_of_search, rows_of_sides, rows_of_verdicts

    print_table(("", "A", "B"), rows_of_sides(result))
    text = result.text
    search = result.search
    head = (
        f"top {search.k} of {search.corpus:,} texts by {search.similarity}, {search.queries:,} queries: {text.source}"
    )
    print_table((head, "mean overlap", "smallest"), rows_of_search(result))
    print_table(("", "bound", "A against B", "limit"), rows_of_verdicts(result))
    rows = [(check.result, check.name, "; ".join(check.failures) or check.coverage) for check in result.checks]
    print_table(("", "check", "coverage"), rows)
    for note in result.notes:
        if note not in told:
            print(f"note: {note}")  # noqa: T201
    if result.speed is not None:
        print(result.speed.conditions)  # noqa: T201
    print(result.sentence)  # noqa: T201
    if not result.passed:
        print(result.failure(), file=sys.stderr)  # noqa: T201
