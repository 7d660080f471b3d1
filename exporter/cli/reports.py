"""Files that a command writes: JUnit XML and a summary in Markdown for CI systems, a page to read.

All of them are also written where nothing could be judged.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.output import write_output
from exporter.errors import BundleError, ExportError, InputError, first_line, without_credentials

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from exporter.comparison import Comparison
    from exporter.report import PageData
    from exporter.validator import Check, ParityReport

REPORTS = "Reports"
JunitOption = Annotated[
    Path | None,
    typer.Option(
        "--junit",
        metavar="FILE",
        help="Write the report as JUnit XML, also if nothing can be judged.",
        rich_help_panel=REPORTS,
    ),
]
SummaryOption = Annotated[
    Path | None,
    typer.Option(
        "--summary",
        metavar="FILE",
        help="Append a summary in Markdown, for $GITHUB_STEP_SUMMARY.",
        rich_help_panel=REPORTS,
    ),
]
PageOption = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE.html",
        help="Write a page with the result and its plots, also if nothing can be judged.",
        rich_help_panel=REPORTS,
    ),
]
BaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="FILE",
        help="Earlier report to compare with in the summary: parity.json, or --json.",
        rich_help_panel=REPORTS,
    ),
]


class Reports:
    """The files of one command.

    Args:
        junit: File of the JUnit XML, if it is wanted.
        summary: File that the Markdown is appended to, if it is wanted.
        baseline: An earlier report.
        page: File of the page, if it is wanted.

    Raises:
        InputError: A file cannot be written, or would be one of a bundle, or would replace something else than an
            earlier report; two of them are one file; or the baseline cannot be read.
        MissingDependencyError: A page is wanted, and what draws it is not installed.
    """

    def __init__(
        self,
        junit: Path | None = None,
        summary: Path | None = None,
        baseline: Path | None = None,
        page: Path | None = None,
    ) -> None:
        from exporter.bundle.manifest import MANIFEST, PARITY

        for path in (junit, summary, page):
            if path is not None and not path.parent.is_dir():
                raise InputError(
                    f"{path}: cannot be written: No such file or directory", next_step=f"create {path.parent}"
                )
            if path is not None and all((path.parent / name).is_file() for name in (MANIFEST, PARITY)):
                raise InputError(
                    f"{path}: is in the folder of a bundle, which holds only what its {MANIFEST} lists",
                    next_step="write it to another folder",
                )
        given = [path.resolve() for path in (junit, summary, page) if path is not None]
        if len(set(given)) < len(given):
            raise InputError("two of `junit`, `summary` and `report` are the same file", next_step="give each its own")
        _refuse_other_file(junit, "JUnit XML", _is_junit)
        _refuse_other_file(page, "page of korsbert", _is_page)
        _refuse_other_file(summary, "text", _is_text)
        if baseline is not None and summary is None:
            raise InputError("`baseline` is given without `summary`", next_step="give `summary` too")
        if page is not None:
            from exporter.report import refuse_without_packages

            refuse_without_packages()
        self._junit, self._summary, self._before, self._page = junit, summary, baseline, page
        self._baseline: dict[str, Any] | None = None
        self._started = time.monotonic()
        for path in (junit, page):
            if path is not None and path.is_file() and not path.is_symlink():
                with suppress(OSError):  # what cannot be removed cannot be written either, which is told then
                    path.unlink()  # an old one must not be taken for that of this run

    @contextmanager
    def telling(self, subject: str) -> Iterator[None]:
        """Write what goes wrong in the block into the files too.

        Args:
            subject: What is to be judged.
        """
        try:
            if self._before is not None:
                self._baseline = _read_baseline(self._before)
            yield
        except BaseException as error:
            from exporter.validator.junit import junit_of_error
            from exporter.validator.summary import markdown_of_error

            told = error if isinstance(error, ExportError) else _told(error, self._seconds)
            with suppress(InputError):  # the first error is the one to be told
                self._write(junit_of_error(subject, told, self._seconds), markdown_of_error(subject, told))
            if self._page is not None:
                from exporter.report import error_page

                with suppress(InputError):
                    write_output(self._page, error_page(subject, str(told), command=_command(), date=_now()))
            raise

    def write(
        self,
        reports: Sequence[ParityReport],
        checks: Sequence[Check] = (),
        *,
        bundle: Bundle | None = None,
        compared_with: str | None = None,
    ) -> None:
        """Write what was judged.

        Args:
            reports: One or more.
            checks: Of all of them together.
            bundle: What was judged, or what a server serves, where it is known: the page shows where it came from.
            compared_with: Whose answers it was compared with, where that is neither its checkpoint nor a golden file.
        """
        self._write_for_ci(reports, checks)
        if self._page is not None:
            from exporter.report import PageData

            data = PageData(
                reports=[report.to_dict() for report in reports],
                checks=[check.to_dict() for check in checks],
                compared_with=compared_with,
            )
            self.write_page(data, bundle)

    def write_page(self, data: PageData, bundle: Bundle | None = None) -> None:
        """Write the page, if it is wanted, with this machine, the command and the date.

        Args:
            data: What was judged or measured.
            bundle: What it is about, where that is one bundle: the page shows where it came from.
        """
        if self._page is None:
            return
        from exporter.machine import machine, tool_versions
        from exporter.report import report_page

        data = replace(data, machine=machine(), tools=tool_versions(_TOOLS), command=_command(), date=_now())
        if bundle is not None:
            data = replace(data, **_of_bundle(bundle))
        write_output(self._page, report_page(data))

    def _write_for_ci(self, reports: Sequence[ParityReport], checks: Sequence[Check]) -> None:
        if self._junit is None and self._summary is None:
            return
        from exporter.machine import machine, tool_versions
        from exporter.validator.junit import junit_of
        from exporter.validator.summary import markdown_of

        made_on = {**machine(), **tool_versions(_TOOLS)}
        self._write(
            junit_of(reports, checks, self._seconds),
            markdown_of(reports, checks, baseline=self._baseline, made_on=made_on),
        )

    def write_comparison(self, comparison: Comparison) -> None:
        """Write what was compared."""
        if self._page is not None:
            from exporter.report import PageData

            self.write_page(PageData(comparison=comparison.to_dict()))
        if self._junit is None and self._summary is None:
            return
        from exporter.comparison.summary import markdown_of_comparison
        from exporter.machine import machine, tool_versions
        from exporter.validator.junit import junit_of

        made_on = {**machine(), **tool_versions(_TOOLS)}
        self._write(junit_of([comparison], (), self._seconds), markdown_of_comparison(comparison, made_on))

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
            except (OSError, UnicodeEncodeError) as error:
                told = getattr(error, "strerror", None) or first_line(error)
                raise InputError(f"{self._summary}: cannot be written: {told}") from error


def _told(error: BaseException, seconds: float) -> ExportError:
    if isinstance(error, KeyboardInterrupt):
        return ExportError(f"interrupted after {seconds:.0f} s; nothing was judged")
    return ExportError(f"{type(error).__name__}: {error}")


def _refuse_other_file(path: Path | None, kind: str, is_own: Callable[[bytes], bool]) -> None:
    """Refuse to replace a file that is no earlier report: an input of the command, for example."""
    if path is None or path.is_symlink() or not path.is_file():
        return
    try:
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING)
    except OSError:  # what cannot be read cannot be written either, which is told then
        return
    if beginning and not is_own(beginning):
        raise InputError(
            f"{path}: is there, and is no {kind}, so nothing is written to it", next_step="give another file"
        )


def _is_junit(beginning: bytes) -> bool:
    return beginning.startswith(b"<?xml") and b"<testsuite" in beginning


def _is_page(beginning: bytes) -> bool:
    return beginning.startswith(b"<!DOCTYPE html>") and b"korsbert" in beginning


def _is_text(beginning: bytes) -> bool:
    return b"\0" not in beginning


def _of_bundle(bundle: Bundle) -> dict[str, Any]:
    """Return what a page shows of a bundle, under the names of ``PageData``."""
    from exporter.bundle import TOKENIZER
    from exporter.bundle.bundle import parse_tokenizer
    from exporter.report import SHOWN_FILES
    from exporter.runtime.tokens import pieces

    tokenizer = parse_tokenizer(bundle.folder / TOKENIZER, bundle.read(TOKENIZER))
    prompt = bundle.manifest.encoder.prompt
    return {
        "manifest": bundle.manifest.model_dump(mode="json"),
        "files": {name: bundle.read(name) for name in SHOWN_FILES if name in bundle.manifest.files},
        "split": lambda text: pieces(tokenizer, prompt + text),
    }


def _command() -> str:
    """Return the command that runs, without what may be secret: values of headers, and credentials in addresses."""
    return shlex.join(["korsbert", *_without_secrets(sys.argv[1:])])


_BEGINNING = 65_536  # bytes of a file that tell what it is
_AS_OF_ADDRESS = re.compile(r"^([^/@]*:).*(?=@)|([?&][^=]*=).*", re.DOTALL)
"""A password, or a query with a value, of an address without its scheme."""


def _without_secrets(words: Sequence[str]) -> Iterator[str]:
    value_follows = variable_follows = False
    for word in words:
        if variable_follows and word not in os.environ:  # a key, given where the name of its variable belongs
            yield "…"
            variable_follows = False
            continue
        variable_follows = word in {"--key-env", "--key-env-b"}
        is_header, has_value = word.startswith("--header"), "=" in word
        if word.startswith(("--key-env=", "--key-env-b=")) and word.partition("=")[2] not in os.environ:
            yield f"{word.partition('=')[0]}=…"
        elif value_follows or (is_header and has_value):
            yield f"{word.partition(':')[0]}: …"
        else:
            yield without_credentials(word) if "://" in word else _AS_OF_ADDRESS.sub(r"\1\2…", word)
        value_follows = is_header and not has_value and not value_follows


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


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
        content = read_file(path)
        with suppress(ValueError, RecursionError):  # parse_report says what is wrong
            parity = json.loads(content).get("parity")  # of `korsbert verify --json`
            content = json.dumps(parity[0]).encode() if isinstance(parity, list) and parity else content
        return parse_report(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", next_step="check the path") from error
    except (BundleError, AttributeError) as error:
        raise InputError(
            f"{path}: not a parity report", next_step="give the parity.json of a bundle, or what --json wrote"
        ) from error
