"""Reading an input file, whatever its format: its columns, its rows, and where parts of it begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exporter.corpus.columnar import columns_of_table, places_in_table, windows_of_table
from exporter.corpus.files import InputFile
from exporter.corpus.lines import columns_of_lines, places_in_lines, windows_of_lines
from exporter.corpus.rows import Columns, Place, Rows


def columns_of(file: InputFile, text: str, kept: Sequence[str]) -> Columns:
    """Return the columns of a file with their types.

    Raises:
        InputError: A column is not there, or the column of texts has another type than text.
    """
    return (columns_of_lines if file.format.is_text else columns_of_table)(file, text, kept)


def places_of(file: InputFile, every: int) -> tuple[int, tuple[Place, ...]]:
    """Count the rows of a file; return the number, and the place of each ``every``-th row from the first on.

    Raises:
        InputError: The file cannot be read.
    """
    return (places_in_lines if file.format.is_text else places_in_table)(file, every)


def read_rows(file: InputFile, columns: Columns, place: Place, stop: int) -> Iterator[Rows]:
    """Yield the rows of a file from a place to ``stop`` (excluded), in windows.

    Windows begin at multiples of ``WINDOW`` rows from the place on, wherever row groups of the file begin: what shares
    a batch, and with it the last digit of a vector, depends on nothing but the part.

    Raises:
        InputError: The file cannot be read.
    """
    return (windows_of_lines if file.format.is_text else windows_of_table)(file, columns, place, stop)
