"""Files that a command writes for CI systems: JUnit XML, and a summary in Markdown. Also where nothing was judged."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.output import write_output
from exporter.errors import BundleError, ExportError, InputError

if TYPE_CHECKING:
    from exporter.validator import Check, ParityReport

JunitOption = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", help="Write the report as JUnit XML, also if nothing can be judged."),
]
SummaryOption = Annotated[
    Path | None,
    typer.Option("--summary", metavar="FILE", help="Append a summary in Markdown, for $GITHUB_STEP_SUMMARY."),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--baseline", metavar="FILE", help="Earlier report to compare with in the summary: parity.json, or --json."
    ),
]


class Reports:
    """The files of one command.

    Args:
        junit: File of the JUnit XML, if it is wanted.
        summary: File that the Markdown is appended to, if it is wanted.
        baseline: An earlier report.

    Raises:
        InputError: A file cannot be written, or the baseline cannot be read.
    """

    def __init__(self, junit: Path | None, summary: Path | None, baseline: Path | None = None) -> None:
        for path in (junit, summary):
            if path is not None and not path.parent.is_dir():
                raise InputError(
                    f"{path}: cannot be written: No such file or directory", next_step=f"create {path.parent}"
                )
        if baseline is not None and summary is None:
            raise InputError("`baseline` is given without `summary`", next_step="give `summary` too")
        self._junit, self._summary = junit, summary
        self._baseline = None if baseline is None else _read_baseline(baseline)
        self._started = time.monotonic()

    @contextmanager
    def telling(self, subject: str) -> Iterator[None]:
        """Write what goes wrong in the block into the files too.

        Args:
            subject: What is to be judged.
        """
        try:
            yield
        except ExportError as error:
            from exporter.validator.junit import junit_of_error
            from exporter.validator.summary import markdown_of_error

            self._write(junit_of_error(subject, error, self._seconds), markdown_of_error(subject, error))
            raise

    def write(self, reports: Sequence[ParityReport], checks: Sequence[Check] = ()) -> None:
        """Write what was judged."""
        from exporter.machine import machine, tool_versions
        from exporter.validator.junit import junit_of
        from exporter.validator.summary import markdown_of

        made_on = {**machine(), **tool_versions(_TOOLS)}
        self._write(
            junit_of(reports, checks, self._seconds),
            markdown_of(reports, checks, baseline=self._baseline, made_on=made_on),
        )

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _write(self, junit: bytes, markdown: str) -> None:
        if self._junit is not None:
            write_output(self._junit, junit)
        if self._summary is not None:
            try:
                with self._summary.open("a", encoding="utf-8") as file:
                    file.write(markdown)
            except OSError as error:
                raise InputError(f"{self._summary}: cannot be written: {error.strerror or error}") from error


_TOOLS = (
    "korsbert",
    "torch",
    "transformers",
    "sentence-transformers",
    "onnxruntime",
    "openvino",
    "tokenizers",
    "numpy",
)


def _read_baseline(path: Path) -> dict[str, Any]:
    from exporter.bundle.manifest import parse_report
    from exporter.files import read_file

    try:
        return parse_report(path, read_file(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", next_step="check the path") from error
    except BundleError as error:
        raise InputError(
            error.message, next_step="give the parity.json of a bundle, or what --json has printed"
        ) from error
