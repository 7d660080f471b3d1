"""``korsbert embed``: the vectors of a dataset. Its options are the fields of ``EmbedOptions``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.arguments import BundleArgument, JsonFlag, QuietFlag
from exporter.cli.from_options import flags_of, own_parameters, parameters_of, with_parameters
from exporter.cli.interruption import resumable
from exporter.cli.output import print_json, print_table, stderr_console
from exporter.corpus.options import EmbedEngine, EmbedOptions
from exporter.errors import without_credentials

if TYPE_CHECKING:
    from rich.console import Console

    from exporter.corpus import EmbedReport
    from exporter.corpus.output import PartManifest
    from exporter.corpus.plan import Plan
    from exporter.corpus.results import Counts

_SECONDS_BETWEEN_LINES = 10
_RAY = "Ray"
_GROUPS = {
    "Run": ("resume", "dry_run", "on_error", "batch_size", "threads", "require_signature"),
    "Input and output": ("column", "id", "keep", "rows_per_part"),
    "Vectors": ("dtype", "truncate_dim", "normalize", "prompt_name"),
    _RAY: ("engine", "address", "workers", "stall_timeout"),
}
"""Fields of ``EmbedOptions`` by their group on the help page."""


def embed_command(
    bundle: BundleArgument,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders or globs of Parquet, Arrow, JSON Lines, CSV or plain text, here or on an object store "
            "(s3://...).",
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", metavar="FOLDER", help="Folder of the output, or a URL of one, new or empty.")
    ],
    rayjob: Annotated[
        str | None,
        typer.Option(
            "--rayjob",
            metavar="IMAGE",
            help="Run nothing; print a manifest for KubeRay that does it with this image.",
            rich_help_panel=_RAY,
        ),
    ] = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
    **given: Any,
) -> None:
    """Encode the texts of a dataset to Parquet, every row once. A run that was interrupted goes on."""
    from exporter import api
    from exporter.corpus import Progress

    options = EmbedOptions.of(**{name: value for name, value in given.items() if value is not None})
    if rayjob is not None:
        print(_rayjob(rayjob, bundle, inputs, out, options), end="")  # noqa: T201
        return
    stderr = stderr_console()
    # Ray prints to stdout what its processes report.
    with (
        redirect_stdout(sys.stderr),
        _progress(stderr, quiet=quiet) as shown,
        resumable(lambda: without_credentials(out) if options.resume and shown.has_parts else None),
    ):
        report = api.embed(
            bundle,
            inputs,
            out,
            options,
            progress=Progress(
                shown.plan,
                shown.counts,
                on_warning=lambda warning: stderr.print(f"warning: {warning}"),
                on_stage=shown.stage,
                on_parts=shown.parts,
            ),
        )
    if as_json:
        print_json(report.to_dict())
    else:
        print_table(("", report.folder), _rows(report))


def command() -> Callable[..., None]:
    """Return ``embed_command`` with a signature that typer reads: one option per field of ``EmbedOptions``."""
    return with_parameters(
        embed_command,
        "embed",
        (
            *own_parameters(embed_command, "bundle", "inputs", "out"),
            *parameters_of(EmbedOptions, groups=_GROUPS),
            *own_parameters(embed_command, "rayjob", "quiet", "as_json"),
        ),
    )


def _rayjob(image: str, bundle: Path, inputs: Sequence[str], out: str, options: EmbedOptions) -> str:
    """Return the manifest of a job that runs this command on a cluster of its own."""
    from exporter.bundle import Bundle
    from exporter.bundle.finding import find_bundle
    from exporter.corpus.kuberay import rayjob

    there = options.model_copy(update={"engine": EmbedEngine.RAY, "address": "auto"})
    flags = [
        word
        for name, value in there.model_dump(mode="json", exclude_defaults=True).items()
        for word in flags_of(name, value)
    ]
    found = find_bundle(bundle)
    place = str(bundle) if found.commit is None else str(found)  # the commit that is there now
    command = ["korsbert", "embed", place, *inputs, "--out", out, *flags]
    return rayjob(command, image, Bundle.open_manifest(found.folder), options)


@contextmanager
def _progress(stderr: Console, *, quiet: bool = False) -> Iterator[_Shown]:
    """Show a bar on a terminal, and a line now and then elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=quiet or not stderr.is_terminal) as bar:
        yield _Shown(stderr, bar, bar.add_task("reading the input"), quiet=quiet)


class _Shown:
    def __init__(self, stderr: Console, bar: Any, task: Any, *, quiet: bool) -> None:
        self._stderr, self._bar, self._task, self._quiet = stderr, bar, task, quiet
        self._started = self._told = time.monotonic()
        self._rows = self._done = self._tokens = self._faults = self._total = 0
        self._parts_done = self._parts = 0

    @property
    def has_parts(self) -> bool:
        """Whether there are parts that are complete, of this run or of an earlier one."""
        return self._parts_done > 0

    def stage(self, name: str) -> None:
        self._bar.update(self._task, description=name)
        if not self._stderr.is_terminal:
            self._tell(name)

    def plan(self, plan: Plan, done: Sequence[PartManifest]) -> None:
        self._total = sum(plan.rows)
        self._done = sum(manifest.counts.rows for manifest in done)
        self._parts, self._parts_done = len(plan.parts), len(done)
        self._started = self._told = time.monotonic()
        self._bar.update(self._task, total=self._total, completed=self._done)
        resumed = f", {len(done)} of them from an earlier run" if done else ""
        parts = "1 part" if len(plan.parts) == 1 else f"{len(plan.parts):,} parts"
        self._tell(f"{self._total:,} rows in {parts}{resumed}")

    def parts(self, count: int) -> None:
        self._parts_done += count

    def counts(self, counts: Counts) -> None:
        self._rows += counts.rows
        self._tokens += counts.tokens
        self._faults += sum(counts.faults.values())
        now = time.monotonic()
        seconds = max(now - self._started, 1e-9)
        text = f"{self._parts_done:,} of {self._parts:,} parts"
        text += f", {self._rows / seconds:,.0f} rows/s, {self._tokens / seconds:,.0f} tokens/s"
        text += f", {self._faults:,} rows without a vector" if self._faults else ""
        self._bar.update(self._task, completed=self._done + self._rows, description=text)
        if not self._stderr.is_terminal and now - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = now
            if self._rows:  # a task on a cluster may have nothing to do but to compare rows of a part that is there
                text += f", {(self._total - self._done - self._rows) * seconds / self._rows:,.0f} s left"
            self._tell(f"{self._done + self._rows:,} of {self._total:,} rows, {text}")

    def _tell(self, line: str) -> None:
        if not self._quiet:
            self._stderr.print(line)


def _rows(report: EmbedReport) -> list[tuple[str, str]]:
    counts, stages, sample = report.counts, report.stages, report.sample
    if sample is None:
        left = report.parts - report.resumed
        return [("rows", f"{report.rows:,}"), ("parts", f"{report.parts:,}, left to do: {left:,}")]
    faults = ", ".join(f"{number:,} {fault}" for fault, number in sorted(counts.faults.items())) or "none"
    processor = report.cpu_seconds_per_million_rows
    padding = counts.padding / max(counts.tokens + counts.padding, 1)
    return [
        ("rows", f"{counts.rows:,}"),
        ("with a vector", f"{counts.encoded:,}"),
        ("without", faults),
        ("truncated", f"{counts.truncated:,}"),
        ("duplicates", f"{counts.duplicates:,} (encoded once in their window)"),
        ("tokens", f"{counts.tokens:,}, and {padding:.1%} of padding"),
        ("parts", f"{report.parts:,}, from earlier runs: {report.resumed:,}"),
        (
            "time",
            f"{report.seconds:.1f} s, {report.rows_per_second:,.0f} rows/s, {report.tokens_per_second:,.0f} tokens/s",
        ),
        (
            "stages",
            f"read {stages.read:.1f} s and tokenize {stages.tokenize:.1f} s beside encode {stages.encode:.1f} s, "
            f"write {stages.write:.1f} s",
        ),
        *(() if processor is None else (("processor", f"{processor:,.0f} s per million rows"),)),
        ("encoded again", f"{sample.rows} rows, largest difference {sample.largest:.2g}, allowed {sample.bound:g}"),
    ]
