"""Reading input files, whatever their format: their columns, their rows, and where parts of them begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from exporter.corpus.columnar import columns_of_tables, places_in_table, windows_of_table
from exporter.corpus.files import InputFile
from exporter.corpus.lines import columns_of_lines, places_in_lines, windows_of_lines
from exporter.corpus.rows import Columns, Place, Range, Rows


def columns_of(files: Sequence[InputFile], text: str, kept: Sequence[str]) -> Columns:
    """Return the columns of files of one format, with their types.

    Raises:
        InputError: A file lacks a column or has it twice, the column of texts has another type than text, or a kept
            column has two types.
    """
    return (columns_of_lines if files[0].format.is_text else columns_of_tables)(files, text, kept)


def places_of(file: InputFile, every: int) -> tuple[int, tuple[Place, ...]]:
    """Count the rows of a file; return the number, and the place of each ``every``-th row from the first on.

    Raises:
        InputError: The file cannot be read, or a row of text has more than ``ROW_BYTES``.
    """
    return (places_in_lines if file.format.is_text else places_in_table)(file, every)


def read_rows(
    file: InputFile, columns: Columns, ranges: Sequence[Range], on_progress: Callable[[], None] = lambda: None
) -> Iterator[Rows]:
    """Yield the rows of ranges of a file, one range after another, in windows.

    A window has ``WINDOW`` rows, and fewer at the end of a range or where they have ``WINDOW_BYTES`` (of lines, or of
    the values in the columns that are read). Windows are counted from the first row of a range, wherever row groups of
    the file begin: what shares a batch, and with it the last digit of a vector, depends on nothing but the range.

    Args:
        file: The file.
        columns: What is read.
        ranges: One or more, in the order of the file.
        on_progress: Called while rows before a range are skipped, which may take long.

    Raises:
        InputError: The file cannot be read, or a row of text has more than ``ROW_BYTES``.
    """
    return (windows_of_lines if file.format.is_text else windows_of_table)(file, columns, ranges, on_progress)
