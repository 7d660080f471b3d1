"""``korsbert bench``: the speed of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.cli.arguments import BatchSizeOption, BundleArgument, CheckpointOption, JsonFlag
from exporter.cli.output import print_json, print_table, spinner, stderr_console

TORCH = "torch"  # the name of the PyTorch checkpoint in --against


def bench_command(
    bundle: BundleArgument,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="torch|BUNDLE",
            help="Measure in the same run; bundles of other precisions beside an int8 one are found by themselves.",
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="One sentence a line, or JSONL with text.")
    ] = None,
    checkpoint: CheckpointOption = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; by default all cores.")] = None,
    batch_size: BatchSizeOption = 32,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds; the median counts.")] = 5,
    as_json: JsonFlag = False,
) -> None:
    """Measure a bundle's throughput and latency, beside PyTorch in the same run if asked."""
    from exporter.benchmark import bench_bundle, siblings_of
    from exporter.bundle import Bundle

    opened = Bundle.open(bundle)
    given = [Bundle.open(Path(other)) for other in against or () if other != TORCH]
    with spinner(stderr_console(), "measuring"):
        result = bench_bundle(
            opened,
            against_torch=TORCH in (against or ()),
            against=given or siblings_of(opened),
            text=text,
            checkpoint=checkpoint,
            threads=threads,
            batch_size=batch_size,
            rounds=rounds,
        )
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        (s.name, f"{s.sentences_per_s:.0f}", f"{s.p50_ms:.2f}", f"{s.p99_ms:.2f}", f"{s.ratio:.2f}x")
        for s in result.subjects
    ]
    print_table(("", "sentences/s", "p50 ms", "p99 ms", f"vs {result.subjects[0].name}"), rows)
    if result.verdict is not None:
        print(result.verdict)  # noqa: T201
    print(result.conditions)  # noqa: T201
