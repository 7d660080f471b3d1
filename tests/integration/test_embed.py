"""Bulk embedding: every format, every row once, whatever interrupts it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import exporter
from exporter.bundle import Bundle
from exporter.corpus import EmbedOptions, EmbedReport, Progress, columnar, embed, lease, lines, worker
from exporter.corpus.output import vector_array
from exporter.corpus.places import opened_place
from exporter.corpus.reading import read_rows
from exporter.corpus.worker import Worker
from exporter.errors import BundleError, ExportError, GateError, InputError
from exporter.runtime.contract import VECTOR_TYPES, VectorType
from exporter.runtime.encoder import Encoder
from exporter.runtime.tokens import TextTokenizer
from tests.conftest import SCRIPTS
from tests.support.process import refused, run_program, wait_until
from tests.support.s3_server import s3_server

TEXTS = [f"{number} 번째 문장은 {'길고 ' * (number % 9)}다르다." for number in range(230)]
IDS = [f"id-{number}" for number in range(len(TEXTS))]
ROWS_PER_PART = 60  # the last part has fewer


def table_of(texts: Sequence[object] = TEXTS) -> pa.Table:
    return pa.table({"key": IDS[: len(texts)], "text": pa.array(texts, pa.string()), "year": range(len(texts))})


def write_parquet(folder: Path, rows: int = 64) -> Path:
    pq.write_table(table_of(), folder / "in.parquet", row_group_size=rows)
    return folder / "in.parquet"


def write_arrow(folder: Path, *, stream: bool = False) -> Path:
    table = table_of()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(folder / "in.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    return folder / "in.arrow"


def write_saved_dataset(folder: Path) -> Path:
    """Write what ``datasets.Dataset.save_to_disk`` does: streams, named in ``state.json``."""
    saved = folder / "saved"
    saved.mkdir()
    table = table_of()
    names = ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]  # in the order of state.json, not by name
    for name, part in zip(names, (table.slice(0, 100), table.slice(100)), strict=True):
        with pa.ipc.new_stream(saved / name, part.schema) as writer:
            writer.write_table(part)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (saved / "dataset_info.json").write_text("{}")
    return saved


def write_jsonl(folder: Path, *, zipped: bool = False) -> Path:
    rows = [json.dumps(row, ensure_ascii=False) for row in table_of().to_pylist()]
    content = "\n\n".join(rows).encode()  # blank lines are no rows
    path = folder / ("in.jsonl.gz" if zipped else "in.jsonl")
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def write_csv(folder: Path, *, delimiter: str = ",", mark: str = "") -> Path:
    path = folder / ("in.csv" if delimiter == "," else "in.tsv")
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["key", "text", "year"])
        writer.writerows(row.values() for row in table_of().to_pylist())
    return path


def write_folder(folder: Path) -> Path:
    """Write a folder as on the hub: files in folders, and some that are no data."""
    root = folder / "hub"
    for name, part in (("train-0", table_of().slice(0, 90)), ("train-1", table_of().slice(90))):
        (root / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(part, root / "data" / f"{name}.parquet")
    (root / "README.md").write_text("a data set")
    (root / ".hidden.parquet").write_text("not Parquet")
    (root / "_SUCCESS").write_text("")
    return root


INPUTS: dict[str, Callable[[Path], Path]] = {
    "parquet": write_parquet,
    "parquet of small row groups": lambda folder: write_parquet(folder, 7),
    "arrow": write_arrow,
    "arrow stream": lambda folder: write_arrow(folder, stream=True),
    "saved dataset": write_saved_dataset,
    "jsonl": write_jsonl,
    "jsonl.gz": lambda folder: write_jsonl(folder, zipped=True),
    "csv": write_csv,
    "csv with a byte order mark": lambda folder: write_csv(folder, mark="\ufeff"),
    "tsv": lambda folder: write_csv(folder, delimiter="\t"),
    "folder": write_folder,
}


def run(bundle: Path, source: Path | str, out: Path | str, **options: Any) -> EmbedReport:
    named = {"rows_per_part": ROWS_PER_PART, "threads": 1, **options}
    return embed(bundle, [str(source)], str(out), EmbedOptions.of(**named))


def read(out: Path) -> pa.Table:
    return pa.dataset.dataset(out, format="parquet").to_table()


def vectors_of(table: pa.Table, dtype: Any = np.float32) -> np.ndarray:
    return np.array(table["vector"].to_pylist(), dtype)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def encoder(demo_fp32: Path) -> Iterator[exporter.Encoder]:
    with exporter.load(demo_fp32, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("input"))


@pytest.fixture(scope="module")
def whole(demo_fp32: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(demo_fp32, source, out, id="key")
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


class TestFormats:
    @pytest.mark.parametrize("name", INPUTS)
    def test_every_row_has_the_vector_of_its_text(
        self, name: str, demo_fp32: Path, encoder: exporter.Encoder, tmp_path: Path
    ) -> None:
        report = run(demo_fp32, INPUTS[name](tmp_path), tmp_path / "out", id="key", keep="year")
        table = read(tmp_path / "out")
        assert table["key"].to_pylist() == IDS
        assert [int(year) for year in table["year"].to_pylist()] == list(range(len(TEXTS)))
        assert table["position"].to_pylist() == list(range(len(TEXTS)))
        assert table["error"].null_count == len(TEXTS)
        np.testing.assert_allclose(vectors_of(table), encoder.encode_document(TEXTS), rtol=0, atol=2e-5)
        assert (report.counts.rows, report.counts.encoded, report.resumed) == (len(TEXTS), len(TEXTS), 0)
        assert report.tokens_per_second == pytest.approx(report.counts.tokens / report.seconds)
        assert report.sample is not None
        assert report.sample.rows > 10

    def test_plain_text(self, demo_fp32: Path, encoder: exporter.Encoder, tmp_path: Path) -> None:
        (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
        run(demo_fp32, tmp_path / "in.txt", tmp_path / "out")
        table = read(tmp_path / "out")
        assert table.column_names == ["position", "vector", "error"]
        np.testing.assert_allclose(vectors_of(table), encoder.encode_document(TEXTS), rtol=0, atol=2e-5)

    def test_a_field_of_several_lines_is_one_row(self, demo_fp32: Path, tmp_path: Path) -> None:
        texts = [f'첫 줄 {number}\n둘째 줄, "따옴표"' for number in range(130)]
        with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
        run(demo_fp32, tmp_path / "in.csv", tmp_path / "out", keep="text")
        assert read(tmp_path / "out")["text"].to_pylist() == texts

    def test_a_field_longer_than_the_limit_of_csv_is_one_row(self, demo_fp32: Path, tmp_path: Path) -> None:
        limit = csv.field_size_limit()
        (tmp_path / "in.csv").write_text(f'text\n첫 줄\n"{"가" * (limit + 1)}"\n셋째 줄\n', encoding="utf-8")
        report = run(demo_fp32, tmp_path / "in.csv", tmp_path / "out")
        assert report.counts.encoded == 3
        assert csv.field_size_limit() == limit, "the limit is the process's, and other readers rely on it"

    def test_vectors_do_not_depend_on_row_groups_and_formats(
        self, demo_fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (columnar, lines):
            monkeypatch.setattr(module, "WINDOW", 16)
        found = []
        for number, name in enumerate(("parquet", "parquet of small row groups", "arrow stream", "csv")):
            folder = tmp_path / str(number)
            folder.mkdir()
            run(demo_fp32, INPUTS[name](folder), folder / "out")
            found.append(vectors_of(read(folder / "out")))
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])

    @pytest.mark.parametrize("name", ["parquet", "arrow stream", "jsonl", "csv"])
    def test_long_texts_make_small_windows(
        self, name: str, demo_fp32: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Vectors of other batches may differ in their last digit; the sample is compared all the same."""
        for module in (columnar, lines):
            monkeypatch.setattr(module, "WINDOW_BYTES", 700)
        report = run(demo_fp32, INPUTS[name](tmp_path), tmp_path / "out")
        assert report.sample is not None
        assert report.sample.rows == 16
        assert pq.ParquetFile(tmp_path / "out" / "part-000000.parquet").num_row_groups > 3
        table, expected = read(tmp_path / "out"), read(whole)
        assert table["position"].to_pylist() == expected["position"].to_pylist()
        np.testing.assert_allclose(vectors_of(table), vectors_of(expected), rtol=0, atol=2e-5)

    def test_several_inputs_are_one(self, demo_fp32: Path, encoder: exporter.Encoder, tmp_path: Path) -> None:
        first = write_rows(tmp_path / "a.jsonl", *({"text": text} for text in TEXTS[5:9]))
        second = write_rows(tmp_path / "b.jsonl", *({"text": text} for text in TEXTS[:5]))
        embed(demo_fp32, [str(second), str(first)], str(tmp_path / "out"), EmbedOptions.of(threads=1))
        table = read(tmp_path / "out")
        assert table["position"].to_pylist() == list(range(9))
        np.testing.assert_allclose(vectors_of(table), encoder.encode_document(TEXTS[:9]), rtol=0, atol=2e-5)

    def test_no_row_at_all(self, demo_fp32: Path, tmp_path: Path) -> None:
        (tmp_path / "in.jsonl").write_text("")
        report = run(demo_fp32, tmp_path / "in.jsonl", tmp_path / "out")
        assert (report.parts, report.counts.rows) == (0, 0)
        assert json.loads((tmp_path / "out" / "_SUCCESS").read_text())["counts"]["rows"] == 0


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server() as system:
        yield system


OFFLINE = {
    "credentials": {
        **{"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"},
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    },
    "network": {
        **{"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"},
        **{"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"},
    },
}
"""Environments in which a store cannot be used: nobody has credentials, or nobody listens at its address."""


class TestObjectStore:
    def test_from_a_store_to_a_store(self, s3: Any, demo_fp32: Path, whole: Path, source: Path, tmp_path: Path) -> None:
        s3.put_file(str(source), "corpus/a/in.jsonl")
        report = run(demo_fp32, "s3://corpus/a/*.jsonl", "s3://vectors/a", id="key")
        assert (report.folder, report.parts, report.resumed) == ("s3://vectors/a", 4, 0)
        s3.get("vectors/a", str(tmp_path / "got"), recursive=True)
        assert {path.name for path in (tmp_path / "got").iterdir()} == {path.name for path in whole.iterdir()}
        for path in whole.glob("*.parquet"):
            assert (tmp_path / "got" / path.name).read_bytes() == path.read_bytes()

    def test_a_part_that_was_changed_or_is_gone_is_made_again(self, s3: Any, demo_fp32: Path, source: Path) -> None:
        run(demo_fp32, source, "s3://vectors/b")
        content = s3.cat_file("vectors/b/part-000001.parquet")
        s3.pipe_file("vectors/b/part-000001.parquet", content[:-1] + b"x")
        s3.rm_file("vectors/b/part-000002.parquet")
        report = run(demo_fp32, source, "s3://vectors/b")
        assert (report.parts, report.resumed) == (4, 2)
        assert s3.cat_file("vectors/b/part-000001.parquet") == content

    def test_an_object_that_was_replaced_is_another_input(self, s3: Any, demo_fp32: Path, source: Path) -> None:
        content = source.read_bytes()
        s3.pipe_file("corpus/c/in.jsonl", content)
        run(demo_fp32, "s3://corpus/c", "s3://vectors/c")
        s3.pipe_file("corpus/c/in.jsonl", content.replace(b"id-0", b"id-x"))  # of the same size
        with pytest.raises(InputError, match=r"the version of s3://corpus/c/in\.jsonl was .* when it was begun"):
            run(demo_fp32, "s3://corpus/c", "s3://vectors/c")

    def test_one_run_at_a_time(self, s3: Any, demo_fp32: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lease, "RENEWED", 0.1)
        with opened_place("s3://vectors/d"), pytest.raises(BundleError, match=r"another embed is writing there"):
            run(demo_fp32, source, "s3://vectors/d")
        assert run(demo_fp32, source, "s3://vectors/d").parts == 4
        assert not s3.exists("vectors/d/_lock")

    def test_a_command_that_is_killed_is_finished_by_the_same_command(
        self, s3: Any, demo_fp32: Path, tmp_path: Path
    ) -> None:
        """Its lock stays, and expires."""
        rows = ({"key": f"{row}", "text": f"{row}: {TEXTS[row % len(TEXTS)]}"} for row in range(3000))
        source, undisturbed = write_rows(tmp_path / "in.jsonl", *rows), tmp_path / "undisturbed"
        quick = "import sys; from exporter.corpus import lease; from exporter.cli.main import main; "
        quick += "lease.RENEWED, lease.EXPIRES, lease.SETTLES = 0.2, 2, 0.2; sys.argv[0:1] = []; main()"
        words = [str(word) for word in command(demo_fp32, source, "s3://vectors/k")]
        arguments = [sys.executable, "-c", quick, *words]
        with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as one:
            wait_until(lambda: s3.exists("vectors/k/_part-000000.json") or one.poll() is not None)
            one.kill()
        assert s3.exists("vectors/k/_lock")
        assert not s3.exists("vectors/k/_SUCCESS")
        done = run_program(arguments)
        assert done.status == 0, done
        assert "s3://vectors/k: another embed has locked it, or one was killed: waiting up to 2 s" in done.stderr
        assert "of them from an earlier run" in done.stderr
        run(demo_fp32, source, undisturbed, id="key")
        s3.get("vectors/k", str(tmp_path / "got"), recursive=True)
        assert {path.name for path in (tmp_path / "got").iterdir()} == set(contents(undisturbed))
        for path in undisturbed.glob("*.parquet"):
            assert (tmp_path / "got" / path.name).read_bytes() == path.read_bytes()

    @pytest.mark.parametrize("given", ["input", "output"])
    @pytest.mark.parametrize("lacking", list(OFFLINE))
    def test_a_store_that_cannot_be_reached(
        self, lacking: str, given: str, demo_fp32: Path, source: Path, tmp_path: Path
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
        environment |= OFFLINE[lacking]
        inputs, out = ("s3://corpus/in.jsonl", tmp_path / "out") if given == "input" else (source, "s3://vectors/x")
        done = run_program(command(demo_fp32, inputs, out), environment=environment)
        said = {"credentials": "credentials", "network": "http://127.0.0.1:1"}[lacking]
        refused(done, 2, "s3://", "cannot be read", said, "check the address, the credentials and the network")

    @pytest.mark.usefixtures("s3")
    def test_a_bucket_that_is_not_there(self, demo_fp32: Path, source: Path) -> None:
        with pytest.raises(BundleError, match=r"s3://nothing/a: cannot be written: .*bucket"):
            run(demo_fp32, source, "s3://nothing/a")
        with pytest.raises(InputError, match=r"s3://nothing/\*\.jsonl: there is no such file or folder"):
            run(demo_fp32, "s3://nothing/*.jsonl", "s3://vectors/e")

    def test_the_output_does_not_lie_in_the_input(self, s3: Any, demo_fp32: Path, source: Path) -> None:
        s3.put_file(str(source), "corpus/f/in.jsonl")
        with pytest.raises(InputError, match=r"lies in the input"):
            run(demo_fp32, "s3://corpus/f/", "s3://corpus/f/out")


def test_the_server_leaves_no_instance_behind() -> None:
    """An instance keeps the address of its server, and the next server has another one."""
    for _ in range(2):
        with s3_server() as system:
            system.pipe_file("corpus/a.txt", b"a")
            assert fsspec.filesystem("s3").cat_file("corpus/a.txt") == b"a"


def by_pandas(out: Path) -> dict[str, list[Any]]:
    frame = pandas.read_parquet(out)
    return {name: list(frame[name]) for name in ("key", "position", "vector")}


def by_polars(out: Path) -> dict[str, list[Any]]:
    return polars.read_parquet(out / "*.parquet").select("key", "position", "vector").to_dict(as_series=False)


def by_duckdb(out: Path) -> dict[str, list[Any]]:
    rows = duckdb.sql(f"select key, position, vector from read_parquet('{out}/*.parquet') order by position").fetchall()
    return dict(zip(("key", "position", "vector"), map(list, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("read_by", [by_pandas, by_polars, by_duckdb])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "ubinary"])
def test_others_read_the_output(
    read_by: Callable[[Path], dict[str, list[Any]]],
    dtype: VectorType,
    demo_fp32: Path,
    encoder: exporter.Encoder,
    tmp_path: Path,
) -> None:
    texts = TEXTS[:9]
    run(
        demo_fp32,
        write_rows(tmp_path / "a.jsonl", *({"key": text, "text": text} for text in texts)),
        tmp_path / "out",
        dtype=dtype,
        id="key",
        rows_per_part=4,
    )
    found = read_by(tmp_path / "out")
    assert found["key"] == texts
    assert found["position"] == list(range(9))
    wanted = encoder.encode_document(texts, precision=dtype)
    np.testing.assert_allclose(np.array(found["vector"], float), wanted.astype(float), rtol=0, atol=2e-3)


def test_duckdb_searches_the_output(whole: Path, encoder: exporter.Encoder) -> None:
    query = encoder.encode_query(["100 번째 문장은 길고 다르다."])
    found = duckdb.execute(
        f"select key from read_parquet('{whole}/*.parquet') "
        f"order by array_cosine_similarity(vector::float[256], ?::float[256]) desc limit 3",
        query.tolist(),
    ).fetchall()
    scores = encoder.similarity(encoder.encode_query(["100 번째 문장은 길고 다르다."]), encoder.encode_document(TEXTS))[
        0
    ]
    assert [key for (key,) in found] == [IDS[row] for row in np.argsort(-scores)[:3]]


@pytest.mark.parametrize("dtype", VECTOR_TYPES)
def test_vectors_are_stored_as_the_encoder_stores_them(
    dtype: VectorType, demo_fp32: Path, encoder: exporter.Encoder, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(demo_fp32, source, out, dtype=dtype, truncate_dim=64)
    table = read(out)
    wanted = encoder.encode_document(TEXTS, precision=dtype, truncate_dim=64)
    assert table.schema.field("vector").type == pa.list_(pa.from_numpy_dtype(wanted.dtype), wanted.shape[1])
    found = vectors_of(table, wanted.dtype)
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 if dtype == "float32" else 2e-3)
    else:
        assert np.mean(found != wanted) < 0.01
    facts = json.loads(table.schema.metadata[b"korsbert"])
    assert (facts["dtype"], facts["dimension"], facts["normalized"]) == (dtype, 64, False)
    assert facts["bundle"] == Bundle.open(demo_fp32).manifest.seal


@pytest.fixture
def prompted(demo_fp32: Path, tmp_path: Path) -> Path:
    """A copy of the demo's bundle with prompts that are not empty."""
    copy = Path(shutil.copytree(demo_fp32, tmp_path / "prompted"))
    manifest = Bundle.open(copy).manifest
    facts = manifest.encoder.model_copy(update={"prompts": {"query": "질문: ", "passage": "문서: "}})
    (copy / "manifest.json").write_bytes(manifest.model_copy(update={"encoder": facts}).sealed().to_json())
    return copy


def test_prompts(prompted: Path, encoder: exporter.Encoder, source: Path, tmp_path: Path) -> None:
    run(prompted, source, tmp_path / "documents")
    run(prompted, source, tmp_path / "queries", prompt_name="query")
    for out, prompt in (("documents", "문서: "), ("queries", "질문: ")):
        found = vectors_of(read(tmp_path / out))
        np.testing.assert_allclose(found, encoder.encode(TEXTS, prompt=prompt), rtol=0, atol=2e-5)
    with pytest.raises(InputError, match=r"`prompt` was 문서:  when it was begun, and now it is 질문: "):
        run(prompted, source, tmp_path / "documents", prompt_name="query")
    with pytest.raises(InputError, match=r"the model has no prompt 'title'"):
        run(prompted, source, tmp_path / "other", prompt_name="title")


BAD = {
    "null": '{"key": "a", "text": null}',
    "wrong type": '{"key": "a", "text": 7}',
    "empty": '{"key": "a", "text": " "}',
    "undecodable": '{"key": "a", "text": "b',
    "too long": json.dumps({"key": "a", "text": "a" * 1_000_001}),
}


class TestFaults:
    @pytest.mark.parametrize("fault", BAD)
    def test_a_run_stops_at_the_row_and_keeps_the_parts_before(
        self, fault: str, demo_fp32: Path, tmp_path: Path
    ) -> None:
        source = write_jsonl(tmp_path)
        content = source.read_text(encoding="utf-8").split("\n\n")
        source.write_text("\n".join([*content[:100], BAD[fault], *content[100:]]), encoding="utf-8")
        row = rf"row 100 \(counted from 0, at byte {len(chr(10).join(content[:100]).encode()) + 1}\)"
        with pytest.raises(InputError, match=rf"in\.jsonl: {row} cannot be encoded: {fault}"):
            run(demo_fp32, source, tmp_path / "out")
        left = {path.name for path in (tmp_path / "out").iterdir()}
        assert left == {"_plan.json", "part-000000.parquet", "_part-000000.json"}

    def test_rows_are_recorded(self, demo_fp32: Path, encoder: exporter.Encoder, tmp_path: Path) -> None:
        rows = [line for text in TEXTS[:5] for line in (json.dumps({"key": "s", "text": text}),)]
        mixed = [line for pair in zip(rows, BAD.values(), strict=True) for line in pair]
        lone = '{"key": "a", "text": "\\ud800"}'
        (tmp_path / "in.jsonl").write_text("\n".join([*mixed, lone, rows[0]]), encoding="utf-8")
        report = run(demo_fp32, tmp_path / "in.jsonl", tmp_path / "out", on_error="record", id="key")
        table = read(tmp_path / "out")
        assert table["error"].to_pylist()[:10:2] == [None] * 5
        assert table["error"].to_pylist()[1:10:2] == list(BAD)
        assert table["error"].to_pylist()[10:] == ["undecodable", None]
        assert [vector is None for vector in table["vector"].to_pylist()] == [
            error is not None for error in table["error"].to_pylist()
        ]
        counts = report.counts
        assert counts.faults == {**dict.fromkeys(BAD, 1), "undecodable": 2}
        assert (counts.rows, counts.encoded, counts.duplicates) == (12, 6, 1)
        first, last = table["vector"].to_pylist()[0], table["vector"].to_pylist()[11]
        assert first == last
        np.testing.assert_allclose(first, encoder.encode_document(TEXTS[0]), rtol=0, atol=2e-5)

    def test_bad_rows_of_csv(self, demo_fp32: Path, tmp_path: Path) -> None:
        (tmp_path / "in.csv").write_bytes(b"key,text\na,one\nb,two,three\nc,\xff\nd,four\n")
        run(demo_fp32, tmp_path / "in.csv", tmp_path / "out", on_error="record", id="key")
        table = read(tmp_path / "out")
        assert table["error"].to_pylist() == [None, "undecodable", "undecodable", None]
        assert table["key"].to_pylist() == ["a", None, None, "d"]

    def test_truncated_rows_are_counted(self, demo_fp32: Path, tmp_path: Path) -> None:
        texts = ["짧다.", "길다 " * 400, "길다 " * 400, "짧다."]
        pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
        counts = run(demo_fp32, tmp_path / "in.parquet", tmp_path / "out").counts
        assert (counts.truncated, counts.duplicates, counts.encoded) == (2, 2, 4)

    @pytest.mark.parametrize(
        ("name", "content", "options", "told"),
        [
            ("in.jsonl", b'{"a": "b"}', {}, r"there is no column 'text'\n  next: its columns are 'a'"),
            ("in.csv", b"text\na\n", {"id": "key"}, r"there is no column 'key'"),
            ("in.parquet", b"PAR1", {}, r"in\.parquet: cannot be read as parquet"),
            ("in.arrow", b"ARROW1", {}, r"in\.arrow: cannot be read as arrow"),
            ("in.jsonl.gz", b"not zipped", {}, r"in\.jsonl\.gz: cannot be read as jsonl"),
            ("in.doc", b"", {}, r"in\.doc: its name says no format"),
        ],
    )
    def test_inputs_that_cannot_be_read(
        self, name: str, content: bytes, options: dict[str, Any], told: str, demo_fp32: Path, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=told):
            run(demo_fp32, tmp_path / name, tmp_path / "out", **options)

    def test_a_column_of_numbers_is_no_text(self, demo_fp32: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"the column 'year' has the type int64, and must be text"):
            run(demo_fp32, write_parquet(tmp_path), tmp_path / "out", column="year")

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("nothing/there", "there is no such file or folder"),
            ("nothing-*.jsonl", "there is no such file or folder"),
            ("unknown://x/in.jsonl", "Protocol not known: unknown"),
            ("zip://in.jsonl::nothing.zip", "nothing.zip"),
        ],
    )
    def test_inputs_that_are_not_there(self, given: str, told: str, demo_fp32: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=told):
            run(demo_fp32, given, tmp_path / "out")


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def pack(path: Path, content: bytes) -> None:
    """Write a compressed file, by the suffix of its name."""
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(content)
        return
    with fsspec.open(path, "wb", compression="infer") as file:
        file.write(content)


class TestOddInputs:
    def test_a_glob_finds_folders_too_and_a_name_is_no_glob(self, demo_fp32: Path, tmp_path: Path) -> None:
        folder = tmp_path / "spark"
        (folder / "x.parquet").mkdir(parents=True)
        pq.write_table(table_of().slice(0, 2), folder / "x.parquet" / "part-0.parquet")
        pq.write_table(table_of().slice(2, 1), folder / "y.parquet")
        for number, pattern in enumerate(("*.parquet", "**/*.parquet", "**")):
            assert run(demo_fp32, folder / pattern, tmp_path / f"out-{number}").counts.rows == 3
        named = write_rows(tmp_path / "a[1].jsonl", {"text": "a"})
        assert run(demo_fp32, named, tmp_path / "named").counts.rows == 1

    def test_a_link_to_a_folder_is_followed(self, demo_fp32: Path, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "there").mkdir()
        write_rows(tmp_path / "in" / "a.jsonl", {"text": "a"})
        write_rows(tmp_path / "there" / "b.jsonl", {"text": "b"}, {"text": "c"})
        (tmp_path / "in" / "link").symlink_to(tmp_path / "there")
        (tmp_path / "there" / "circle").symlink_to(tmp_path / "in")
        assert run(demo_fp32, tmp_path / "in", tmp_path / "out").counts.rows == 3

    def test_a_file_is_not_given_twice_and_not_none(self, demo_fp32: Path, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.jsonl", {"text": "a"})
        with pytest.raises(InputError, match=r"a\.jsonl: is given twice"):
            embed(demo_fp32, [str(source), str(tmp_path / "*.jsonl")], str(tmp_path / "out"), EmbedOptions())
        (tmp_path / "link.jsonl").symlink_to(source)
        with pytest.raises(InputError, match=r"a\.jsonl: is given twice"):
            embed(demo_fp32, [str(source), str(tmp_path / "link.jsonl")], str(tmp_path / "out"), EmbedOptions())
        with pytest.raises(InputError, match=r"there is no input"):
            embed(demo_fp32, [], str(tmp_path / "out"), EmbedOptions())

    def test_the_output_does_not_lie_in_the_input(self, demo_fp32: Path, tmp_path: Path) -> None:
        write_rows(tmp_path / "a.jsonl", {"text": "a"})
        for given in (tmp_path, f"file://{tmp_path}", tmp_path / "*"):
            with pytest.raises(InputError, match=r"out: lies in the input"):
                run(demo_fp32, given, tmp_path / "out")
        assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl"}
        (tmp_path / "p").mkdir()
        write_parquet(tmp_path / "p")
        with pytest.raises(InputError, match=r"out: lies in the input"):
            run(demo_fp32, tmp_path / "**" / "*.parquet", tmp_path / "p" / "out")
        assert run(demo_fp32, tmp_path / "*.jsonl", tmp_path / "out").counts.rows == 1
        with pytest.raises(InputError, match=r"a\.jsonl: lies in the output"):
            run(demo_fp32, tmp_path / "a.jsonl", tmp_path)

    def test_a_dataset_that_names_files_elsewhere_is_refused(self, demo_fp32: Path, tmp_path: Path) -> None:
        saved = write_saved_dataset(tmp_path)
        (tmp_path / "in.arrow").write_bytes((saved / "data-00000-of-00002.arrow").read_bytes())
        (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../in.arrow"}]}))
        with pytest.raises(InputError, match=r"state\.json: names '\.\./in\.arrow', which is no file of this folder"):
            run(demo_fp32, saved, tmp_path / "out")

    def test_kept_values_of_another_type_are_bad_rows(self, demo_fp32: Path, tmp_path: Path) -> None:
        rows: list[object] = [{"text": "a", "n": 1, "s": "x", "m": [1]}] * 1000
        rows += [{"text": "a", "n": 1.5}, {"text": "a", "n": 2**70}, {"text": "a", "n": True}, {"text": "a", "s": 5}]
        rows += [{"text": "a", "s": "\ud800"}, {"text": "a", "n": 7, "s": "y", "m": {"new": None}}]
        source = write_rows(tmp_path / "a.jsonl", *rows)
        run(demo_fp32, source, tmp_path / "out", keep=("n", "s", "m"), on_error="record")
        table = read(tmp_path / "out")
        assert table["error"].to_pylist()[999:] == [None, *["a kept column of another type"] * 5, None]
        assert table["n"].to_pylist()[999:] == [1, *[None] * 5, 7]
        assert table["m"].to_pylist()[0] == "[1]"
        assert table["m"].to_pylist()[-1] == '{"new": null}'

    def test_a_whole_number_that_no_float_is_is_a_bad_row(self, demo_fp32: Path, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.jsonl", *({"text": "a", "n": n} for n in (1.5, 2**53 + 1, 10**400, 3)))
        run(demo_fp32, source, tmp_path / "out", keep="n", on_error="record")
        assert read(tmp_path / "out")["n"].to_pylist() == [1.5, None, None, 3.0]

    def test_kept_text_that_is_not_unicode_and_damaged_arrow(self, demo_fp32: Path, tmp_path: Path) -> None:
        buffers = pa.array([b"fine", b"\xff\xfe"], pa.binary()).buffers()
        broken = pa.StringArray.from_buffers(2, buffers[1], buffers[2], buffers[0])
        pq.write_table(pa.table({"text": ["a", "b"], "key": broken}), tmp_path / "in.parquet")
        with pytest.raises(InputError, match=r"in\.parquet: cannot be read as parquet: the column 'key'"):
            run(demo_fp32, tmp_path / "in.parquet", tmp_path / "out", id="key")
        with pa.ipc.new_file(tmp_path / "in.arrow", pa.schema([("text", pa.string())])) as writer:
            writer.write_batch(pa.record_batch([broken], ["text"]))
        with pytest.raises(InputError, match=r"in\.arrow: cannot be read as arrow: .*UTF"):
            run(demo_fp32, tmp_path / "in.arrow", tmp_path / "other")

    def test_the_types_of_kept_columns_are_those_of_all_files(self, demo_fp32: Path, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        (folder / "0.jsonl").write_text("")
        write_rows(folder / "1.jsonl", {"text": "a", "n": 1})
        write_rows(folder / "2.jsonl", {"text": "b", "n": 1.5})
        run(demo_fp32, folder, tmp_path / "out", keep="n")
        assert read(tmp_path / "out")["n"].to_pylist() == [1.0, 1.5]

    @pytest.mark.parametrize("name", ["position", "vector", "error"])
    def test_names_of_the_output_are_taken(self, name: str, demo_fp32: Path, tmp_path: Path) -> None:
        source = write_rows(tmp_path / "a.jsonl", {"text": "a", name: "b"})
        with pytest.raises(InputError, match=rf"a kept column is called '{name}', which every output has"):
            run(demo_fp32, source, tmp_path / "out", keep=name)

    def test_a_column_that_is_there_twice(self, demo_fp32: Path, tmp_path: Path) -> None:
        texts = pa.array(["a"])
        pq.write_table(pa.Table.from_arrays([texts, texts, texts], ["text", "x", "x"]), tmp_path / "in.parquet")
        with pytest.raises(InputError, match=r"the column 'x' is there twice"):
            run(demo_fp32, tmp_path / "in.parquet", tmp_path / "out", keep="x")
        (tmp_path / "in.csv").write_text("text,text\na,b\n")
        with pytest.raises(InputError, match=r"the column 'text' is there twice"):
            run(demo_fp32, tmp_path / "in.csv", tmp_path / "csv")

    def test_text_of_parquet_that_is_not_unicode(self, demo_fp32: Path, tmp_path: Path) -> None:
        buffers = pa.array([b"fine", b"\xff\xfe", None, b"too"], pa.binary()).buffers()
        broken = pa.StringArray.from_buffers(4, buffers[1], buffers[2], buffers[0])
        pq.write_table(pa.table({"text": broken}), tmp_path / "in.parquet")
        run(demo_fp32, tmp_path / "in.parquet", tmp_path / "out", on_error="record")
        assert read(tmp_path / "out")["error"].to_pylist() == [None, "undecodable", "null", None]

    def test_dictionaries_and_texts_that_are_all_null(self, demo_fp32: Path, tmp_path: Path) -> None:
        names = pa.array([f"n{number % 200}" for number in range(300)]).dictionary_encode()
        pq.write_table(pa.table({"text": names, "name": names}), tmp_path / "in.parquet")
        run(demo_fp32, tmp_path / "in.parquet", tmp_path / "out", keep="name")
        assert read(tmp_path / "out")["name"].to_pylist() == names.to_pylist()
        pq.write_table(pa.table({"text": pa.nulls(3)}), tmp_path / "null.parquet")
        counts = run(demo_fp32, tmp_path / "null.parquet", tmp_path / "null", on_error="record").counts
        assert counts.faults == {"null": 3}

    def test_a_kept_type_that_parquet_has_not(self, demo_fp32: Path, tmp_path: Path) -> None:
        table = pa.table({"text": ["a"], "span": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})
        with pa.ipc.new_file(tmp_path / "in.arrow", table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(InputError, match=r"a kept column cannot be written as Parquet"):
            run(demo_fp32, tmp_path / "in.arrow", tmp_path / "out", keep="span")

    @pytest.mark.parametrize(
        ("content", "byte"),
        [
            (b'text\na\n"b\nc\n', 7),
            (b'text,x\na,b\nc,"d\n\n\ne,f\n', 11),
            (b'text,x\na,b\n"c"d,"e\nf",g\nh,i\n', 11),
        ],
    )
    def test_quotes_that_are_wrong_stop_the_run(
        self, content: bytes, byte: int, demo_fp32: Path, tmp_path: Path
    ) -> None:
        """Where the next row begins is not known: it must not be guessed."""
        (tmp_path / "in.csv").write_bytes(content)
        with pytest.raises(InputError, match=rf"the row that begins at byte {byte}: "):
            run(demo_fp32, tmp_path / "in.csv", tmp_path / "out", on_error="record")

    @pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
    @pytest.mark.parametrize("write", [write_csv, write_jsonl])
    def test_compressed_files(
        self, suffix: str, write: Callable[[Path], Path], demo_fp32: Path, whole: Path, tmp_path: Path
    ) -> None:
        source = write(tmp_path)
        packed = source.with_name(f"{source.name}.{suffix}")
        pack(packed, source.read_bytes())
        source.unlink()
        run(demo_fp32, packed, tmp_path / "out", id="key")
        np.testing.assert_array_equal(vectors_of(read(tmp_path / "out")), vectors_of(read(whole)))

    @pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zst"])
    def test_compressed_files_that_are_cut(self, suffix: str, demo_fp32: Path, tmp_path: Path) -> None:
        packed = tmp_path / f"in.jsonl.{suffix}"
        pack(packed, np.random.default_rng(0).bytes(5000).hex().encode())
        packed.write_bytes(packed.read_bytes()[:-900])
        with pytest.raises(InputError, match=r"cannot be read as jsonl"):
            run(demo_fp32, packed, tmp_path / "out")

    def test_folders_with_a_state_of_something_else(self, demo_fp32: Path, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        write_rows(folder / "a.jsonl", {"text": "a"})
        for name in ("state.json", "dataset_dict.json"):
            (folder / name).write_text('{"_data_files": [1, {}], "splits": 3}')
        assert run(demo_fp32, folder, tmp_path / "out").counts.rows == 1
        (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        with pytest.raises(InputError, match=r"several splits\n  next: give the folder of one: train, test"):
            run(demo_fp32, folder, tmp_path / "other")

    def test_an_input_that_grows_while_it_is_read(self, demo_fp32: Path, tmp_path: Path) -> None:
        source = write_jsonl(tmp_path)

        def grow(_: object) -> None:
            with source.open("a", encoding="utf-8") as file:
                file.write('\n{"text": "늦게 왔다"}')

        options = EmbedOptions.of(threads=1)
        with pytest.raises(InputError, match=r"the size of .*in\.jsonl was \d+ when it was begun, and now it is \d+"):
            embed(demo_fp32, [str(source)], str(tmp_path / "out"), options, Progress(on_counts=grow))
        assert not (tmp_path / "out" / "_SUCCESS").exists()

    def test_vectors_that_are_not_finite_and_texts_without_a_token(
        self, demo_fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given, tokens = Encoder.encode_padded, TextTokenizer.ids_and_truncated

        def broken(self: Encoder, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            vectors = given(self, ids, mask)
            vectors[(ids == marked).any(axis=1), 3] = np.nan
            return vectors

        def none(self: TextTokenizer, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
            ids, cut = tokens(self, texts)
            return [[] if text == "없다" else row for text, row in zip(texts, ids, strict=True)], cut

        with exporter.load(demo_fp32) as opened:
            marked = TextTokenizer(opened.tokenizer).ids(["비"])[0][1]
        monkeypatch.setattr(Encoder, "encode_padded", broken)
        monkeypatch.setattr(TextTokenizer, "ids_and_truncated", none)
        source = write_rows(tmp_path / "a.jsonl", *({"text": text} for text in ("비", "물", "없다", "비")))
        with pytest.raises(InputError, match=r"row 2 \(counted from 0, at byte 38\) cannot be encoded: no token"):
            run(demo_fp32, source, tmp_path / "out")
        report = run(demo_fp32, source, tmp_path / "out", on_error="record")
        table = read(tmp_path / "out")
        assert table["error"].to_pylist() == ["not finite", None, "no token", "not finite"]
        assert [vector is None for vector in table["vector"].to_pylist()] == [True, False, True, True]
        assert (report.counts.encoded, report.counts.faults) == (1, {"no token": 1, "not finite": 2})

    def test_a_number_beyond_float16(self, demo_fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given = Encoder.encode_padded
        monkeypatch.setattr(Encoder, "encode_padded", lambda *arguments: given(*arguments) * np.float32(1e6))
        source = write_rows(tmp_path / "a.jsonl", {"text": "a"})
        run(demo_fp32, source, tmp_path / "out", dtype="float16", on_error="record")
        assert read(tmp_path / "out")["error"].to_pylist() == ["not finite"]


class TestResume:
    @pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "no manifest", "a manifest of nothing"])
    def test_a_damaged_part_is_made_again(
        self, damage: str, whole: Path, copy: Path, demo_fp32: Path, source: Path
    ) -> None:
        part, manifest = copy / "part-000001.parquet", copy / "_part-000001.json"
        content = bytearray(part.read_bytes())
        match damage:
            case "cut":
                part.write_bytes(content[: len(content) // 2])
            case "flipped":
                content[len(content) // 2] ^= 1
                part.write_bytes(content)
            case "gone":
                part.unlink()
            case "no manifest":
                manifest.unlink()
            case _:
                manifest.write_text("{}")
        report = run(demo_fp32, source, copy, id="key")
        assert (report.parts, report.resumed) == (4, 3)
        assert report.counts.rows == len(TEXTS)
        assert contents(copy) == contents(whole)

    def test_what_is_complete_is_not_made_again(self, whole: Path, copy: Path, demo_fp32: Path, source: Path) -> None:
        before = {path.name: path.stat().st_mtime_ns for path in copy.glob("part-*")}
        report = run(demo_fp32, source, copy, id="key")
        assert report.resumed == report.parts == 4
        assert {path.name: path.stat().st_mtime_ns for path in copy.glob("part-*")} == before
        assert contents(copy) == contents(whole)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"dtype": "float16"}, r"`dtype` was float32 when it was begun, and now it is float16"),
            ({"rows_per_part": 50}, r"`rows_per_part` was 60 when it was begun, and now it is 50"),
            ({"truncate_dim": 8}, r"`truncate_dim` was None when it was begun, and now it is 8"),
        ],
    )
    def test_other_options_are_refused(
        self, options: dict[str, Any], told: str, copy: Path, demo_fp32: Path, source: Path
    ) -> None:
        before = contents(copy)
        with pytest.raises(InputError, match=rf"{told}\n  next: .* use `resume=False` to begin again"):
            run(demo_fp32, source, copy, **{"id": "key", **options})
        assert contents(copy) == before

    def test_another_bundle_and_another_input_are_refused(
        self, copy: Path, demo_fp32: Path, demo_fp16: Path, source: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=r"the bundle was [0-9a-f]{12} when .* now it is [0-9a-f]{12}"):
            run(demo_fp16, source, copy, id="key")
        with pytest.raises(InputError, match=r"an input file was .* when it was begun, and now it is "):
            run(demo_fp32, write_jsonl(tmp_path), copy, id="key")

    def test_an_input_that_has_changed_is_refused(self, demo_fp32: Path, tmp_path: Path) -> None:
        source = write_jsonl(tmp_path)
        run(demo_fp32, source, tmp_path / "out")
        source.write_text(source.read_text(encoding="utf-8") + '\n{"text": "하나 더"}', encoding="utf-8")
        with pytest.raises(InputError, match=r"the size of .*in\.jsonl was \d+ when it was begun, and now it is \d+"):
            run(demo_fp32, source, tmp_path / "out")

    def test_an_input_of_the_same_size_that_has_changed_is_refused(self, demo_fp32: Path, tmp_path: Path) -> None:
        source = write_jsonl(tmp_path)
        run(demo_fp32, source, tmp_path / "out")
        facts = source.stat()
        os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
        with pytest.raises(
            InputError, match=r"the version of .*in\.jsonl was \d+ when it was begun, and now it is \d+"
        ):
            run(demo_fp32, source, tmp_path / "out")

    def test_a_copied_input_in_the_same_place_goes_on(self, demo_fp32: Path, tmp_path: Path) -> None:
        source = write_jsonl(tmp_path)
        run(demo_fp32, source, tmp_path / "out")
        shutil.copy2(source, tmp_path / "copy")
        (tmp_path / "copy").replace(source)
        report = run(demo_fp32, source, tmp_path / "out")
        assert report.resumed == report.parts

    def test_recording_bad_rows_goes_on_where_stopping_at_them_has_ended(self, demo_fp32: Path, tmp_path: Path) -> None:
        rows: list[object] = [*({"text": text} for text in TEXTS[:70]), {"text": None}]
        source = write_rows(tmp_path / "a.jsonl", *rows)
        with pytest.raises(InputError, match=r"row 70 \(counted from 0, at byte \d+\) cannot be encoded: null"):
            run(demo_fp32, source, tmp_path / "out")
        report = run(demo_fp32, source, tmp_path / "out", on_error="record")
        assert (report.parts, report.resumed, report.counts.faults) == (2, 1, {"null": 1})

    @pytest.mark.parametrize("left", [(), ("part-000002.parquet", "_SUCCESS")])
    def test_stopping_at_bad_rows_does_not_go_on_behind_those_that_were_recorded(
        self, left: Sequence[str], demo_fp32: Path, tmp_path: Path
    ) -> None:
        texts: list[object] = [*TEXTS[:70], None, "", None, *TEXTS[73:130]]
        source = write_rows(tmp_path / "a.jsonl", *({"text": text} for text in texts))
        run(demo_fp32, source, tmp_path / "out", on_error="record")
        for name in left:
            (tmp_path / "out" / name).unlink()
        before = contents(tmp_path / "out")
        with pytest.raises(
            InputError,
            match=r"a\.jsonl: an earlier run has recorded rows that cannot be encoded in .*/part-000001\.parquet: "
            r"1 empty, 2 null\n  next: go on with `on_error=record`",
        ):
            run(demo_fp32, source, tmp_path / "out")
        assert contents(tmp_path / "out") == before
        assert run(demo_fp32, source, tmp_path / "out", on_error="record").counts.faults == {"empty": 1, "null": 2}

    @pytest.mark.parametrize("damage", ["cut", "rows", "empty"])
    def test_a_damaged_plan_is_refused(self, damage: str, copy: Path, demo_fp32: Path, source: Path) -> None:
        content = (copy / "_plan.json").read_text(encoding="utf-8")
        changed = {"cut": content[:-40], "rows": content.replace('\\"rows\\": 60', '\\"rows\\": 61'), "empty": "{}"}
        assert changed[damage] != content
        (copy / "_plan.json").write_text(changed[damage], encoding="utf-8")
        with pytest.raises(
            InputError, match=r"_plan\.json: damaged, or of another version.*\n.*remove the whole folder"
        ):
            run(demo_fp32, source, copy, id="key")

    def test_a_part_of_another_plan_is_made_again(
        self, whole: Path, copy: Path, demo_fp32: Path, source: Path, tmp_path: Path
    ) -> None:
        """A late worker of an earlier run may write its part, and its manifest too."""
        run(demo_fp32, source, tmp_path / "other", id="key", dtype="float16")
        for name in ("part-000001.parquet", "_part-000001.json"):
            shutil.copy(tmp_path / "other" / name, copy)
        report = run(demo_fp32, source, copy, id="key")
        assert (report.parts, report.resumed) == (4, 3)
        assert contents(copy) == contents(whole)

    @pytest.mark.parametrize("name", ["part-000077.parquet", "_part-000077.json"])
    def test_parts_that_the_plan_does_not_have_are_refused(
        self, name: str, whole: Path, copy: Path, demo_fp32: Path, source: Path
    ) -> None:
        shutil.copy(copy / name.replace("77", "03"), copy / name)
        with pytest.raises(BundleError, match=rf"{name}: is of an earlier run, and this output has 4 parts"):
            run(demo_fp32, source, copy, id="key")
        assert not (copy / "_SUCCESS").exists()
        run(demo_fp32, source, copy, id="key", resume=False)
        assert contents(copy) == contents(whole)

    @pytest.mark.parametrize("kind", ["not Parquet", "no row", "another dimension", "no vector", "no column"])
    def test_a_part_that_is_something_else_is_told_of(
        self, kind: str, copy: Path, demo_fp32: Path, source: Path
    ) -> None:
        """Its manifest has the right SHA-256."""
        part, manifest = copy / "part-000000.parquet", copy / "_part-000000.json"
        table = pq.read_table(part)
        vectors = table.schema.get_field_index("vector")
        short = pa.array([[0.5] * 8] * len(table), pa.list_(pa.float32(), 8))
        none = pa.nulls(len(table), table.schema.field("vector").type)
        match kind:
            case "not Parquet":
                part.write_bytes(b"PAR1 or not")
            case "no row":
                pq.write_table(table.slice(0, 0), part)
            case "another dimension":
                pq.write_table(table.set_column(vectors, "vector", short), part)
            case "no vector":
                pq.write_table(table.set_column(vectors, "vector", none), part)
            case _:
                pq.write_table(table.drop_columns("error"), part)
        stated = json.loads(manifest.read_text(encoding="utf-8"))
        stated["sha256"] = hashlib.sha256(part.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(stated), encoding="utf-8")
        with pytest.raises(BundleError, match=r"part-000000\.parquet: cannot be read as a part: "):
            run(demo_fp32, source, copy, id="key")
        part.unlink()
        assert run(demo_fp32, source, copy, id="key").resumed == 3

    def test_without_resume_everything_is_made_again(self, copy: Path, demo_fp32: Path, source: Path) -> None:
        report = run(demo_fp32, source, copy, dtype="float16", resume=False)
        assert (report.resumed, read(copy).schema.field("vector").type.value_type) == (0, pa.float16())

    @pytest.mark.parametrize("options", [{"keep": "position"}, {"column": "nothing"}, {"truncate_dim": 0}])
    def test_what_cannot_be_done_removes_nothing(
        self, options: dict[str, Any], copy: Path, demo_fp32: Path, tmp_path: Path
    ) -> None:
        source = write_rows(tmp_path / "a.jsonl", {"text": "a", "position": 1})
        before = contents(copy)
        with pytest.raises(InputError):
            run(demo_fp32, source, copy, resume=False, **options)
        assert contents(copy) == before
        with pytest.raises(InputError):
            run(demo_fp32, source, tmp_path / "new" / "out", **options)
        assert not (tmp_path / "new").exists()

    def test_an_input_that_is_cut_behind_the_last_window(
        self, demo_fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = write_jsonl(tmp_path)
        given = Worker.embed

        def and_cut(*arguments: Any) -> Any:
            made = given(*arguments)
            source.write_text("")
            return made

        monkeypatch.setattr(Worker, "embed", and_cut)
        with pytest.raises(InputError, match=r"the size of .*in\.jsonl was \d+ when it was begun, and now it is 0"):
            run(demo_fp32, source, tmp_path / "out")

    def test_a_folder_of_something_else_is_left_alone(self, demo_fp32: Path, source: Path, tmp_path: Path) -> None:
        mine = {".movie.partial": b"mine", "notes.txt": b"mine"}
        for name, content in mine.items():
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"has other files, \.movie\.partial for one"):
            run(demo_fp32, source, tmp_path)
        assert contents(tmp_path) == mine

    def test_the_working_folder_and_a_link_are_the_folder_that_they_are(
        self, whole: Path, demo_fp32: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "out")
        monkeypatch.chdir(tmp_path / "out")
        run(demo_fp32, source, Path(), id="key")
        assert contents(tmp_path / "out") == contents(whole)
        with opened_place(str(tmp_path / "link")), pytest.raises(BundleError, match=r"another embed is writing there"):
            run(demo_fp32, source, tmp_path / "out", id="key")

    def test_an_input_that_shrinks_while_it_is_read(
        self, demo_fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The plan was made with more rows than there are."""
        source = write_jsonl(tmp_path)
        monkeypatch.setattr(
            worker,
            "read_rows",
            lambda file, columns, ranges, _: read_rows(file, columns, [replace(ranges[0], stop=59)]),
        )
        with pytest.raises(InputError, match=r"has 59 rows from row 0 on, and had 60: it has changed"):
            run(demo_fp32, source, tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["_plan.json"]


def command(bundle: Path, source: Path | str, out: Path | str, *options: str) -> list[object]:
    return [
        SCRIPTS / "korsbert",
        *("embed", bundle, source, "--out", out, "--id", "key", "--threads", "1"),
        *("--rows-per-part", str(ROWS_PER_PART), *options),
    ]


class TestProcesses:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_a_process_that_is_ended_is_finished_by_the_next(
        self, number: signal.Signals, demo_fp32: Path, tmp_path: Path
    ) -> None:
        """The input is long, so that the process is still at it when the first part is seen."""
        rows = ({"key": f"{row}", "text": f"{row}: {TEXTS[row % len(TEXTS)]}"} for row in range(3000))
        source, out, undisturbed = write_rows(tmp_path / "in.jsonl", *rows), tmp_path / "out", tmp_path / "undisturbed"
        arguments = [str(word) for word in command(demo_fp32, source, out)]
        with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as one:
            wait_until(lambda: (out / "_part-000000.json").exists() or one.poll() is not None)
            one.send_signal(number)
        assert not (out / "_SUCCESS").exists()
        done = run_program(command(demo_fp32, source, out))
        assert done.status == 0, done
        assert "of them from an earlier run" in done.stderr
        run(demo_fp32, source, undisturbed, id="key")
        assert contents(out) == contents(undisturbed)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out", "undisturbed"]

    def test_two_runs_at_once(self, demo_fp32: Path, source: Path, tmp_path: Path) -> None:
        with opened_place(str(tmp_path / "out")):
            refused(run_program(command(demo_fp32, source, tmp_path / "out")), 2, "another embed is writing there")

    def test_a_full_disk(self, whole: Path, demo_fp32: Path, source: Path, tmp_path: Path) -> None:
        """A limit on the size of files stands in for a full disk: the same call fails, with another number."""
        out = tmp_path / "out"
        limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); "
        limited += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.argv[0:1] = []; "
        limited += "from exporter.cli.main import main; main()"
        arguments = [str(word) for word in command(demo_fp32, source, out)]
        done = run_program([sys.executable, "-c", limited, *arguments])
        assert done.status == 2, done
        assert "Traceback" not in done.stderr
        assert "the disk is full" in done.stderr
        assert not [*out.glob("part-*"), *out.glob(".*")]
        assert run_program(arguments).status == 0
        assert contents(out) == contents(whole)

    def test_the_command_tells_what_came_of_it(self, demo_fp32: Path, source: Path, tmp_path: Path) -> None:
        done = run_program(command(demo_fp32, source, tmp_path / "out"))
        assert (done.status, done.stderr) == (0, "reading the input\n230 rows in 4 parts\n")
        assert "tokens/s" in done.stdout
        for line in ("with a vector   230", "without         none", "parts           4, from earlier runs: 0"):
            assert line in done.stdout
        told = run_program(command(demo_fp32, source, tmp_path / "out", "--json"))
        assert json.loads(told.stdout)["counts"]["rows"] == 230
        assert told.stderr.startswith("looking at the parts of earlier runs\n")
        assert "4 of them from an earlier run" in told.stderr

    def test_a_dry_run_writes_nothing(self, copy: Path, demo_fp32: Path, source: Path, tmp_path: Path) -> None:
        done = run_program(command(demo_fp32, source, tmp_path / "new" / "out", "--dry-run"))
        assert (done.status, done.stderr) == (0, "reading the input\n230 rows in 4 parts\n")
        assert "parts   4, left to do: 4" in done.stdout
        assert not (tmp_path / "new").exists()
        (copy / "part-000002.parquet").unlink()
        before = contents(copy)
        for option in ("--resume", "--no-resume"):
            told = run_program(command(demo_fp32, source, copy, "--dry-run", "--json", option))
            report = json.loads(told.stdout)
            assert (report["rows"], report["resumed"]) == (230, 3 if option == "--resume" else 0)
        assert contents(copy) == before

    def test_a_bad_row_is_told_with_the_flag(self, demo_fp32: Path, tmp_path: Path) -> None:
        (tmp_path / "in.jsonl").write_text('{"key": "a", "text": ""}')
        done = run_program(command(demo_fp32, tmp_path / "in.jsonl", tmp_path / "out"))
        assert done.status == 2
        assert "row 0 (counted from 0, at byte 0) cannot be encoded: empty" in done.stderr
        assert "--on-error record" in done.stderr


def test_a_vector_of_another_text_fails_the_sample(
    demo_fp32: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled = lambda vectors, missing: vector_array(np.roll(vectors, 1, axis=0), missing)  # noqa: E731
    monkeypatch.setattr(worker, "vector_array", rolled)
    with pytest.raises(GateError, match=r"part-000000\.parquet, row 0: the vector differs from that of its text by"):
        run(demo_fp32, source, tmp_path / "out")
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_parts_are_told_when_they_are_committed(demo_fp32: Path, source: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", []
    progress = Progress(on_parts=lambda count: told.append((count, len([*out.glob("_part-*")]))))
    embed(demo_fp32, [str(source)], str(out), EmbedOptions.of(threads=1, rows_per_part=ROWS_PER_PART), progress)
    assert told == [(1, 1), (1, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize("given", [True, False])
def test_threads_are_those_of_the_readers_too(given: bool, demo_fp32: Path, source: Path, tmp_path: Path) -> None:
    """Where nothing is asked for, the process keeps what it has."""
    before, found = pa.cpu_count(), set()
    options = EmbedOptions.of(threads=before + 1 if given else None)
    progress = Progress(on_counts=lambda _: found.add(pa.cpu_count()))
    embed(demo_fp32, [str(source)], str(tmp_path / "out"), options, progress)
    assert found == {before + 1 if given else before}
    assert pa.cpu_count() == before


def test_a_bundle_that_was_not_validated_is_refused(demo_fp32: Path, source: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(demo_fp32, tmp_path / "bundle"))
    manifest = Bundle.open(copy).manifest
    pending = manifest.validation.model_copy(update={"state": "pending"})
    altered = manifest.model_copy(update={"validation": pending}).sealed()
    (copy / "manifest.json").write_bytes(altered.to_json())
    with pytest.raises(BundleError, match=r"has not been validated"):
        run(copy, source, tmp_path / "out")


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match=r"`dtype` is 'float8'"):
        EmbedOptions.of(dtype="float8")
    with pytest.raises(ExportError, match=r"there is no option 'rows'"):
        EmbedOptions.of(rows=3)
