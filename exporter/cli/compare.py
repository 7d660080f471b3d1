"""``korsbert compare``: whether vectors that are stored with one model, server or file can be searched with another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from exporter.cli.arguments import GATES, JsonFlag, QuietFlag, RequireSignatureOption, StsOption
from exporter.cli.output import print_json, print_table, stderr_console
from exporter.cli.progress import in_turn, progress
from exporter.cli.reports import JunitOption, PageOption, Reports, SummaryOption
from exporter.cli.verify import (
    SERVER,
    Api,
    ApiOption,
    CaFileOption,
    DeadlineOption,
    HeaderOption,
    KeyEnvOption,
    ModelOption,
    TimeoutOption,
    server_options,
)
from exporter.errors import without_credentials
from exporter.serving.limits import REQUEST_S, TOTAL_S
from exporter.targets import Precision

if TYPE_CHECKING:
    from exporter.comparison import Comparison

_SIDE = "Folder of a bundle, URL of a server, .npy, .parquet or .arrow, or what `korsbert embed` wrote."


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
        typer.Option("--id", metavar="COLUMN", help="Column, or field of JSONL, that joins rows (default: id)."),
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
            rich_help_panel=GATES,
        ),
    ] = None,
    min_overlap: Annotated[
        float | None,
        typer.Option(
            "--min-overlap",
            metavar="SHARE",
            help="Least mean overlap of searches (default: by the gates).",
            rich_help_panel=GATES,
        ),
    ] = None,
    precision_a: Annotated[
        Precision | None,
        typer.Option(
            "--precision-a", help="Whose gate counts for A (default: what A says, or fp16).", rich_help_panel=GATES
        ),
    ] = None,
    precision_b: Annotated[
        Precision | None,
        typer.Option(
            "--precision-b", help="Whose gate counts for B (default: what B says, or fp16).", rich_help_panel=GATES
        ),
    ] = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure the speed of two bundles.")] = True,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (default: all cores).")] = None,
    api: ApiOption = "triton",
    api_b: Annotated[
        Api | None, typer.Option("--api-b", help="What B speaks (default: as --api).", rich_help_panel=SERVER)
    ] = None,
    model: ModelOption = None,
    model_b: Annotated[
        str | None,
        typer.Option("--model-b", metavar="NAME", help="Model of B (default: as --model).", rich_help_panel=SERVER),
    ] = None,
    header: HeaderOption = None,
    header_b: Annotated[
        list[str] | None,
        typer.Option(
            "--header-b",
            metavar="'NAME: VALUE'",
            help="Header of every request to B, if A is a server too.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    key_env: KeyEnvOption = None,
    key_env_b: Annotated[
        str | None,
        typer.Option(
            "--key-env-b",
            metavar="VARIABLE",
            help="As --key-env for B, if A is a server too.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    ca_file: CaFileOption = None,
    timeout_s: TimeoutOption = REQUEST_S,
    deadline_s: DeadlineOption = TOTAL_S,
    require_signature: RequireSignatureOption = None,
    junit: JunitOption = None,
    summary: SummaryOption = None,
    page: PageOption = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Say whether vectors that are stored with A can be searched with B."""
    import exporter

    reports, stderr = Reports(junit, summary, page=page), stderr_console()
    told: list[str] = []

    def tell(note: str) -> None:
        told.append(note)
        stderr.print(f"note: {note}")

    subject = " against ".join(without_credentials(side) if "://" in side else side for side in (a, b))
    with (
        reports.telling(subject),
        progress("opening A and B", quiet=quiet) as stages,
        in_turn(stages) as begin,
    ):
        from exporter.comparison import Watcher
        from exporter.comparison.sides import is_url

        limits = (ca_file, timeout_s, deadline_s)
        alone = not is_url(a)  # then what is said of servers is said of B
        server = server_options(api, model, header or (), key_env, *limits)
        server_b = server_options(
            api_b or api,
            model_b or model,
            header_b or (header if alone else None) or (),
            key_env_b or (key_env if alone else None),
            *limits,
        )
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
            watcher=Watcher(on_stage=begin, on_note=tell),
        )
    reports.write_comparison(result)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result, told)
    if not result.passed:
        raise typer.Exit(1)


def _print(result: Comparison, told: list[str]) -> None:
    from exporter.comparison.summary import rows_of_search, rows_of_sides, rows_of_verdicts

    print_table(("", "A", "B"), rows_of_sides(result))
    text = result.text
    search = result.search
    head = (
        f"top {search.k} of {search.corpus:,} texts by {search.similarity}, {search.queries:,} queries: {text.source}"
    )
    print_table((head, "mean overlap", "smallest"), rows_of_search(result))
    if result.verdicts:
        print_table(("", "bound", "A against B", "limit"), rows_of_verdicts(result))
    rows = [(check.result, check.name, "; ".join(check.failures) or check.coverage) for check in result.checks]
    print_table(("", "check", "coverage"), rows)
    for note in result.notes:
        if note not in told:
            print(f"note: {note}")  # noqa: T201
    if result.speed is not None:
        print(result.speed.conditions)  # noqa: T201
    if not result.passed and result.worst:
        print(f"differs most: {result.differs_most()}")  # noqa: T201
    print(result.sentence)  # noqa: T201
