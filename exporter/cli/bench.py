"""``korsbert bench``: the speed of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.cli.arguments import BatchSizeOption, BundleArgument, CheckpointOption, JsonFlag, QuietFlag
from exporter.cli.output import print_json, print_table
from exporter.cli.progress import progress
from exporter.cli.reports import PageOption, Reports

TORCH = "torch"  # the name of the PyTorch checkpoint in --against


def bench_command(
    bundle: BundleArgument,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="torch|BUNDLE",
            help="Also measure PyTorch or a bundle (default for int8: the bundles of other precisions next to it).",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", metavar="FILE", help="Text to encode: one sentence per line, or JSONL with a text field."
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (default: all cores).")] = None,
    batch_size: BatchSizeOption = 32,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed rounds; the median is reported.")] = 5,
    page: PageOption = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure the throughput and latency of a bundle."""
    from exporter.benchmark import bench_bundle, siblings_of
    from exporter.bundle import Bundle
    from exporter.bundle.finding import find_bundle

    reports = Reports(page=page)
    with reports.telling(str(bundle)):
        opened = Bundle.open(find_bundle(bundle).folder)
        given = [Bundle.open(find_bundle(other).folder) for other in against or () if other != TORCH]
        with progress("opening the bundles", quiet=quiet) as stages:
            result = bench_bundle(
                opened,
                against_torch=TORCH in (against or ()),
                against=given or siblings_of(opened),
                text=text,
                checkpoint=checkpoint,
                threads=threads,
                batch_size=batch_size,
                rounds=rounds,
                stages=stages,
            )
    if page is not None:
        from exporter.report import PageData

        reports.write_page(PageData(throughput=result.to_dict()), opened)
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        (s.name, f"{s.sentences_per_s:.0f}", f"{s.p50_ms:.2f}", f"{s.p99_ms:.2f}", f"{s.ratio:.2f}x")
        for s in result.subjects
    ]
    print_table(("", "sentences/s", "p50 ms", "p99 ms", f"relative to {result.subjects[0].name}"), rows)
    if result.verdict is not None:
        print(result.verdict)  # noqa: T201
    print(result.conditions)  # noqa: T201
