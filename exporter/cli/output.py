"""Output of the commands: a table or one JSON object on stdout. ``progress`` has what stderr shows meanwhile."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.cli.columns import column_widths
from exporter.errors import InputError, printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from exporter.bundle import Bundle
    from exporter.validator import ParityReport

CLOSED_PIPE = 141  # 128 + SIGPIPE, as shells have it


def stderr_console() -> Console:
    """Return a console on stderr that does not interpret markup."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


_PIPE_WIDTH = 160  # a file or a pipe has room for more than 80 columns, if COLUMNS does not say otherwise


def table_width(*, stderr: bool = False) -> int:
    """Return how many columns ``print_table`` has: those of COLUMNS, of the terminal, or 160."""
    from rich.console import Console

    console = Console(stderr=stderr)
    return console.width if console.is_terminal or os.environ.get("COLUMNS", "").isdigit() else _PIPE_WIDTH


def print_table(
    header: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, whole_columns: int = 0, stderr: bool = False
) -> None:
    """Print a table, as wide as ``table_width`` says. Lines are broken at spaces; a hash or a path also within.

    Control characters are escaped: a terminal would obey those of a stranger's manifest.

    Args:
        header: The titles.
        rows: The cells, as many in each row as there are titles.
        whole_columns: How many columns, from the left, are not wrapped.
        stderr: Print on stderr instead of stdout.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    class Output(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1, the exit code of a failed gate
            os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if stderr else sys.stdout).fileno())
            sys.exit(CLOSED_PIPE)

    width = table_width(stderr=stderr)
    cells = [[Text(printable_lines(cell)) for cell in row] for row in (header, *rows)]
    columns = list(zip(*cells, strict=True))
    frame = 2 + 3 * (len(columns) - 1)  # the columns that edges and gaps of the box take
    widths = column_widths([tuple(map(str, column)) for column in columns], width - frame, whole_columns)
    output = Output(stderr=stderr, highlight=False, markup=False, width=width)
    if widths is None:
        _print_blocks(output, cells)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for (title, *_), wide in zip(columns, widths, strict=True):
        table.add_column(title, overflow="fold", width=wide)
    for row in cells[1:]:
        table.add_row(*row)
    output.print(table)


def _print_blocks(console: Console, cells: Sequence[Sequence[Text]]) -> None:
    """Print each row as lines of title and cell, for a table whose words do not fit beside each other."""
    from rich.padding import Padding
    from rich.text import Text

    (_, *titles), *rows = cells
    for first, *others in rows:
        console.print(first, overflow="fold")
        for title, cell in zip(titles, others, strict=True):
            if cell.plain.strip():
                named = f"{title.plain}: " if title.plain else ""
                console.print(Padding(Text(f"{named}{cell.plain}", overflow="fold"), (0, 0, 0, 2), expand=False))


def print_parity(report: ParityReport, title: str) -> None:
    """Print a table of the bounds and the checks of a report on stdout."""
    rows = [("passed" if verdict.passed else "FAILED", verdict.name, str(verdict)) for verdict in report.verdicts]
    rows += [(check.result, check.name, check.coverage) for check in report.checks]
    print_table(("", "bound", title), rows)


def print_json(content: dict[str, Any]) -> None:
    """Print a JSON object on one line of stdout; what the encoding of stdout lacks is escaped."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = json.dumps(content, allow_nan=False)
    sys.stdout.write(text + "\n")


def parity_of(bundle: Bundle) -> dict[str, Any]:
    """Return the parity report that a bundle was published with, as JSON data."""
    from exporter.bundle.manifest import PARITY, parse_report

    return parse_report(bundle.folder / PARITY, bundle.read(PARITY))


def write_output(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically; write through a link, a device or a pipe."""
    partial = path.parent / f".{path.name}.partial"
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_bytes(content)
        else:
            partial.write_bytes(content)
            partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
