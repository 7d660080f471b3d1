"""Windows of rows: how many rows they have, and that they depend on nothing but the range."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporter.corpus import columnar, lines
from exporter.corpus.files import Format, InputFile, input_files
from exporter.corpus.reading import columns_of, places_of, read_rows
from exporter.corpus.rows import Range

TEXTS = ["가" * (1 + 7 * (number % 11)) for number in range(300)]
BYTES = 1000


def parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=77)


def arrow_of_views(path: Path) -> None:
    table = pa.table({"text": pa.array(TEXTS, pa.string_view())})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=41)


def arrow_of_a_dictionary(path: Path) -> None:
    table = pa.table({"text": pa.array(TEXTS).dictionary_encode()})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def json_lines(path: Path) -> None:
    path.write_bytes(b"".join(map(_line, TEXTS)))


def _line(text: object) -> bytes:
    return f"{json.dumps({'text': text})}\n".encode()


def comma_separated(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.parquet": parquet,
    "a.arrow": arrow_of_views,
    "b.arrow": arrow_of_a_dictionary,
    "a.jsonl": json_lines,
    "a.csv": comma_separated,
}


@pytest.fixture(params=WRITERS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> InputFile:
    WRITERS[request.param](tmp_path / request.param)
    (found,) = input_files([str(tmp_path / request.param)])
    return found


def windows(file: InputFile, ranges: Sequence[Range]) -> list[tuple[int, list[object]]]:
    return [(rows.start, list(rows.texts)) for rows in read_rows(file, columns_of([file], "text", ()), ranges)]


def test_a_window_ends_with_the_row_that_reaches_the_bytes(file: InputFile, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (columnar, lines):
        monkeypatch.setattr(module, "WINDOW_BYTES", BYTES)
    found = windows(file, [Range(places_of(file, 300)[1][0], 300)])
    assert [text for _, texts in found for text in texts] == TEXTS
    lengths = [len(texts) for _, texts in found]
    assert [start for start, _ in found] == [sum(lengths[:number]) for number in range(len(found))]
    for _, texts in found[:-1]:
        sizes = [len(_line(text) if file.format is Format.JSONL else str(text).encode()) for text in texts]
        assert sum(sizes) >= BYTES > sum(sizes[:-1])


def test_windows_of_a_range_do_not_depend_on_those_before(file: InputFile, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (columnar, lines):
        monkeypatch.setattr(module, "WINDOW_BYTES", BYTES)
    first, second, third = (Range(place, place.row + 100) for place in places_of(file, 100)[1])
    whole = windows(file, [first, second, third])
    assert whole == [window for one in (first, second, third) for window in windows(file, [one])]
    assert [window for window in whole if not 100 <= window[0] < 200] == windows(file, [first, third])


def test_a_window_has_so_many_rows(file: InputFile, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (columnar, lines):
        monkeypatch.setattr(module, "WINDOW", 64)
    found = windows(file, [Range(place, place.row + 150) for place in places_of(file, 150)[1]])
    assert [len(texts) for _, texts in found] == [64, 64, 22] * 2
