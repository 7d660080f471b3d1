"""Windows of rows: how many rows they have, that they depend on nothing but the range, and what is read for them."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporter.corpus import columnar, lines
from exporter.corpus.files import Format, InputFile, input_files
from exporter.corpus.reading import columns_of, places_of, read_rows
from exporter.corpus.rows import Place, Range
from exporter.errors import InputError
from tests.support.fuzzing import within_one_gibibyte

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
    return input_file(tmp_path / request.param)


def input_file(path: Path) -> InputFile:
    (found,) = input_files([str(path)])
    return found


def windows(file: InputFile, ranges: Sequence[Range], kept: Sequence[str] = ()) -> list[tuple[int, list[object]]]:
    return [(rows.start, list(rows.texts)) for rows in read_rows(file, columns_of([file], "text", kept), ranges)]


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


VALUES: dict[str, tuple[pa.DataType, Callable[[int], object], Callable[[int], int]]] = {
    # type, value of a row, bytes of it
    "numbers": (pa.decimal256(50), Decimal, lambda _: 32),
    "binary": (pa.large_binary(), lambda row: b"x" * row, lambda row: row),
    "views": (pa.binary_view(), lambda row: b"x" * row, lambda row: row),
    "missing views": (
        pa.string_view(),
        lambda row: "x" * 200 if row % 5 == 0 else None,
        lambda row: 200 * (row % 5 == 0),
    ),
    "lists": (pa.list_(pa.int64()), lambda row: [1] * (row % 9), lambda row: 8 * (row % 9)),
    "lists of texts": (pa.large_list(pa.string()), lambda row: ["가", "x" * row], lambda row: 3 + row),
    "missing lists": (pa.list_(pa.int8()), lambda row: None if row % 2 else [1] * 90, lambda row: 0 if row % 2 else 90),
    "vectors": (pa.list_(pa.float32(), 12), lambda row: [float(row)] * 12, lambda _: 48),
    "maps": (pa.map_(pa.string(), pa.int32()), lambda row: [("k" * row, 1)], lambda row: row + 4),
    "structs": (
        pa.struct([("name", pa.string()), ("of", pa.list_(pa.int8()))]),
        lambda row: {"name": "x" * (row % 40), "of": [1] * 3},
        lambda row: row % 40 + 3,
    ),
    "dictionary": (
        pa.dictionary(pa.int8(), pa.string()),
        lambda row: "x" * (row % 50) if row % 3 else None,
        lambda row: row % 50 if row % 3 else 0,
    ),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("name", ["in.parquet", "in.arrow"])
def test_kept_values_count_too(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the row groups of a file nor what was read before decide where a window ends."""
    monkeypatch.setattr(columnar, "WINDOW_BYTES", BYTES)
    type_, value, size = VALUES[kind]
    table = pa.table({"text": ["four"] * 120, "kept": pa.array([value(row) for row in range(120)], type_)})
    if name == "in.parquet":
        pq.write_table(table, tmp_path / name, row_group_size=17)
    else:
        with pa.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=17)
    file = input_file(tmp_path / name)
    parts = [Range(place, place.row + 40) for place in places_of(file, 40)[1]]
    expected = []
    for part in parts:
        left = 0
        for row in range(part.place.row, part.stop):
            if left <= 0:
                expected.append((row, 0))
                left = BYTES
            expected[-1] = (expected[-1][0], expected[-1][1] + 1)
            left -= 4 + size(row)
    assert [(start, len(texts)) for start, texts in windows(file, parts, ["kept"])] == expected
    assert [(start, len(texts)) for part in parts for start, texts in windows(file, [part], ["kept"])] == expected


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
def test_values_that_rows_share_are_not_written_out(kind: pa.DataType, tmp_path: Path) -> None:
    """A window of the most rows would have 8 GiB."""
    text = pa.array(["x" * 2**20])
    if pa.types.is_dictionary(kind):
        shared = pa.DictionaryArray.from_arrays(pa.array([0] * 8192, pa.int32()), text)
    else:
        views = text.cast(kind).buffers()
        shared = pa.Array.from_buffers(kind, 8192, [None, pa.py_buffer(views[1].to_pybytes()[:16] * 8192), *views[2:]])
    with pa.ipc.new_file(tmp_path / "in.arrow", pa.schema({"text": kind})) as writer:
        writer.write_batch(pa.record_batch({"text": shared}))
    file = input_file(tmp_path / "in.arrow")
    with within_one_gibibyte():
        found = next(read_rows(file, columns_of([file], "text", ()), [Range(Place(0), 8192)]))
    assert len(found) == 16


def test_a_part_of_an_arrow_file_is_read_from_its_record_batch(tmp_path: Path) -> None:
    texts = [f"text {row:03}" for row in range(100)]
    path = tmp_path / "in.arrow"
    with pa.ipc.new_file(path, pa.schema({"text": pa.string()})) as writer:
        writer.write_table(pa.table({"text": texts}), max_chunksize=30)
    file = input_file(path)
    count, places = places_of(file, 40)
    assert (count, places) == (100, (Place(0, 0, 0), Place(40, 1, 10), Place(80, 2, 20)))
    mark = b"\xff\xff\xff\xff"  # before every message: the schema, then the batches
    messages = path.read_bytes().split(mark)
    messages[3] = bytes(len(messages[3]))  # the batch of the rows 30 to 59
    path.write_bytes(mark.join(messages))
    assert windows(file, [Range(places[2], 100)]) == [(80, texts[80:])]
    with pytest.raises(InputError, match=r"in\.arrow: cannot be read as arrow"):
        windows(file, [Range(Place(80), 100)])


def test_many_parts_of_one_record_batch(tmp_path: Path) -> None:
    path = tmp_path / "in.arrow"
    with pa.ipc.new_file(path, pa.schema({"text": pa.string()})) as writer:
        for texts in (TEXTS[:5], TEXTS[5:5], TEXTS[5:]):
            writer.write_batch(pa.record_batch({"text": pa.array(texts, pa.string())}))
    file = input_file(path)
    count, places = places_of(file, 100)
    assert (count, places) == (300, (Place(0), Place(100, 2, 95), Place(200, 2, 195)))
    assert [windows(file, [Range(one, one.row + 100)]) for one in places] == [
        [(row, TEXTS[row : row + 100])] for row in (0, 100, 200)
    ]


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow", "in.jsonl.gz"])
def test_who_waits_is_told_while_rows_are_skipped(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    table = pa.table({"text": ["a"] * 20_000})
    if name == "in.parquet":
        pq.write_table(table, path)
    elif name == "in.arrow":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    else:
        path.write_bytes(gzip.compress(_line("a") * 20_000))
    file = input_file(path)
    told: list[None] = []
    last = places_of(file, 19_000)[1][1]
    assert last == Place(19_000)
    rows = read_rows(file, columns_of([file], "text", ()), [Range(last, 20_000)], lambda: told.append(None))
    assert sum(map(len, rows)) == 1000
    assert len(told) >= 19_000 // 8192


LONG: dict[str, tuple[bytes, int, str]] = {
    # content, the byte that its long row begins at, what to do
    "in.jsonl": (_line("a") + _line("x" * 1200), 14, "split it into rows"),
    "in.txt": (b"a\n\n" + b"x" * 1200, 3, "split it into rows"),
    "in.csv": (b'text\na\n\n"open\n' + b"a\n" * 600, 8, "close the quote that was left open there, or split the row"),
    "in.tsv": (b'te"xt\n' + b"x" * 1200, 6, "close the quote that was left open there, or split the row"),
}


@pytest.mark.parametrize("name", [*LONG, "in.jsonl.gz"])
def test_a_row_that_is_too_long_is_refused_where_it_begins(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "ROW_BYTES", 1000)
    content, byte, mend = LONG[name.removesuffix(".gz")]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    where = f"{byte} of the unpacked file" if name.endswith(".gz") else str(byte)
    with pytest.raises(InputError, match=rf"{name}: the row that begins at byte {where} has more than .*MiB\n.*{mend}"):
        places_of(input_file(tmp_path / name), 100)


@pytest.mark.parametrize(
    ("name", "content"),
    [("in.jsonl", _line("x" * 987)), ("in.txt", b"x" * 999 + b"\n"), ("in.csv", b'text\n"' + b"x\n" * 498 + b'x"\n')],
)
def test_a_row_may_be_as_long_as_that(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "ROW_BYTES", 1000)
    (tmp_path / name).write_bytes(content + content.removeprefix(b"text\n"))
    assert len(content.removeprefix(b"text\n")) == 1000
    assert places_of(input_file(tmp_path / name), 100)[0] == 2


@pytest.mark.parametrize(("name", "begin"), [("in.jsonl", b""), ("in.txt", b""), ("in.csv", b'text\n"')])
def test_a_row_without_an_end_is_not_read_whole(name: str, begin: bytes, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as file:
        file.write(begin)
        os.truncate(file.fileno(), 2**34)  # 16 GiB of zeros, which take no room on a disk
    with within_one_gibibyte(), pytest.raises(InputError, match=r"the row that begins at byte \d has more than 64 MiB"):
        places_of(input_file(tmp_path / name), 100)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.jsonl", "\ufeff\n" + '{"text": "가"}\n\n{"text": "나"}\n{"text": "다"}'),
        ("in.csv", 'text\n\n"가\n\n"\n\n나\n다\n'),
        ("in.txt", "가\n\n나\n다"),
    ],
)
def test_rows_of_text_know_where_they_begin(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    file = input_file(tmp_path / name)
    (rows,) = read_rows(file, columns_of([file], "text", ()), [Range(Place(0), 9)])
    begins = [content.encode()[begin:] for begin in rows.offsets]
    for text, after in zip(rows.texts, begins, strict=True):
        assert after.lstrip(b'{"tex: ').startswith(str(text).encode()) or not text
    assert rows.named(1).startswith(f"row 1 (counted from 0, at byte {rows.offsets[1]})")
    count, places = places_of(file, 1)
    assert [place.offset for place in places] == list(rows.offsets)
    last = Range(places[-1], count)
    assert [list(found.texts) for found in read_rows(file, columns_of([file], "text", ()), [last])] == [["다"]]
