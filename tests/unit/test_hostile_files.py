"""Every reader of a stranger's file ends with what the file says, or with one sentence: never in another way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings

import exporter
from exporter.bundle.manifest import parse_manifest, parse_record, read_manifest
from exporter.bundle.signing import refuse_other_file
from exporter.calibration import read_sentences
from exporter.checkpoint import load_checkpoint
from exporter.checkpoint.declared_sizes import check_declared_sizes
from exporter.checkpoint.snapshot import snapshot_of
from exporter.checkpoint.weights import StoredWeights
from exporter.corpus.files import Format, InputFile, input_files
from exporter.corpus.output import Output
from exporter.corpus.places import place_of
from exporter.corpus.plan import Identity, Part, Plan
from exporter.corpus.reading import columns_of, places_of, read_rows
from exporter.corpus.results import Counts
from exporter.corpus.rows import Place, Range
from exporter.errors import InputError
from exporter.recipe import Recipe, load_gates, load_recipe, recipes_folder
from exporter.serving.triton.config import read_config
from exporter.serving.triton.memory import read_peak
from exporter.validator.sts import read_sts
from tests.support import fuzzing
from tests.support.checkpoints import save_checkpoint
from tests.support.deployment_files import peak
from tests.support.fuzzing import (
    CASES,
    changed_bytes,
    changed_json,
    changed_json_bytes,
    many,
    told_in_a_sentence,
    within_one_gibibyte,
)
from tests.support.manifests import edit_manifest

STS = [{"sentence1": "가", "sentence2": "나", "labels": {"real-label": score}} for score in (1.0, 2.5, 4)]
TABLE = "score\tsentence1\tsentence2\n1.0\t가\t나\n2.5\t다\t라\n4\t마\t바\n"
CONFIGURATION = """
name: "demo"
backend: "onnxruntime"
max_batch_size: 128
input [{ name: "input_ids", data_type: TYPE_INT64, dims: [-1] }]
parameters [{ key: "korsbert_bundle", value: { string_value: "x" } }]
"""
RECIPE = yaml.safe_load((recipes_folder() / "demo.yaml").read_text(encoding="utf-8"))

TEXTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "sentences.txt": ("한 문장\n두 문장\n", read_sentences),
    "sentences.jsonl": ('{"text": "한 문장"}\n{"text": "두\u2028문장"}\n', read_sentences),
    "sts.tsv": (TABLE, read_sts),
    "sts.csv": ('"가","나",1.0\n"다","라",2.5\n"마","바",4\n', read_sts),
    "sts.json": (json.dumps(STS), read_sts),
    "recipe.yaml": (yaml.safe_dump(RECIPE, allow_unicode=True), load_recipe),
    "config.pbtxt": (CONFIGURATION, read_config),
}
DOCUMENTS: dict[str, tuple[Any, Callable[[Path], object]]] = {
    "sentences.jsonl": ({"text": "한 문장"}, read_sentences),
    "sts.json": (STS, read_sts),
    "recipe.yaml": (RECIPE, load_recipe),  # JSON is YAML
    "korsbert_memory.json": (peak(10**9).model_dump(), lambda path: read_peak(path.parent)),
    "gates.yaml": ({"gates": {"fp16": {"min_cosine": 0.99995, "max_batch_deviation": None}}}, load_gates),
}


def test_the_bounds_of_these_tests_bite(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError), within_one_gibibyte():
        bytearray(b"x" * 1100 * 2**20)
    with within_one_gibibyte():
        bytearray(b"x" * 2**20)
    monkeypatch.setattr(fuzzing, "LONGEST_CASE", 1)
    with pytest.raises(AssertionError, match="for 1 seconds"), told_in_a_sentence():
        time.sleep(10)


@pytest.mark.parametrize("name", TEXTS)
def test_any_bytes_of_a_text_file(name: str, tmp_path: Path) -> None:
    sound, read = TEXTS[name]
    path = tmp_path / name
    path.write_text(sound, encoding="utf-8")
    read(path)

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_bytes(sound.encode()))
    def one(content: bytes) -> None:
        path.write_bytes(content)
        with told_in_a_sentence():
            read(path)

    with within_one_gibibyte():
        one()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_any_values_of_a_document(name: str, tmp_path: Path) -> None:
    sound, read = DOCUMENTS[name]
    path = tmp_path / name

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json_bytes(sound))
    def one(content: bytes) -> None:
        path.write_bytes(content)
        with told_in_a_sentence():
            read(path)

    with within_one_gibibyte():
        one()


@pytest.mark.parametrize("value", ["[]", "{}", "0", '"가"', "[[0]]", '{"text":"x"}'])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_as_large_as_it_may_be(name: str, value: str, tmp_path: Path) -> None:
    sound, read = DOCUMENTS[name]
    path = tmp_path / name
    keys = list(sound) if isinstance(sound, dict) else []
    for content in (many(value), *(json.dumps({**sound, key: "@"}).replace('"@"', many(value)) for key in keys)):
        path.write_text(content, encoding="utf-8")
        with within_one_gibibyte(), told_in_a_sentence():
            read(path)


def test_any_manifest(twin_bundle: Path, tmp_path: Path) -> None:
    """A manifest of another content has no seal that agrees, unless its author seals it again."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    shutil.copy(twin_bundle / "manifest.json", bundle)
    sound = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json_bytes(sound))
    def one(content: bytes) -> None:
        with told_in_a_sentence():
            parse_manifest(bundle / "manifest.json", content)

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json(sound))
    def sealed(content: Any) -> None:
        (bundle / "manifest.json").write_text(json.dumps(content if isinstance(content, dict) else {}))
        edit_manifest(bundle, lambda _: None)
        with told_in_a_sentence():
            read_manifest(bundle)

    with within_one_gibibyte():
        one()
        sealed()


CORPUS = Identity("0" * 64, {"prompt": ""}, (InputFile("/in.jsonl", Format.JSONL, 100, "1"),))
PART = Part(0, 0, Place(0), 3, 0)
PLAN = Plan(CORPUS, (3,), (PART,))


def test_any_plan_of_an_embedding(tmp_path: Path) -> None:
    """A plan of another content has no SHA-256 that agrees, unless its author states it again."""
    sound = json.loads(PLAN.to_json())
    path, output = tmp_path / "_plan.json", Output(place_of(str(tmp_path)))

    def read(stated: bytes) -> None:
        path.write_bytes(stated)
        with told_in_a_sentence():
            plan = output.plan()
            assert plan is not None
            assert [part.number for part in plan.parts] == list(range(len(plan.parts)))
            assert sum(part.rows for part in plan.parts) == sum(plan.rows)

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json_bytes(sound))
    def one(content: bytes) -> None:
        read(content)

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json_bytes(json.loads(sound["plan"])))
    def stated_again(content: bytes) -> None:
        plan = content.decode(errors="replace")
        read(json.dumps({"sha256": hashlib.sha256(plan.encode()).hexdigest(), "plan": plan}).encode())

    with within_one_gibibyte():
        one()
        stated_again()


def test_any_manifest_of_a_part(tmp_path: Path) -> None:
    """It may be anything, and then the part is made again."""
    output = Output(place_of(str(tmp_path)))
    with output.writing_part(PART, pa.schema([("position", pa.int64())])) as writer:
        writer.write(pa.table({"position": [0, 1, 2]}))
    sound = json.loads(output.commit(PART, CORPUS, writer, Counts(rows=3)).to_json())

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json_bytes(sound))
    def one(content: bytes) -> None:
        (tmp_path / PART.manifest).write_bytes(content)
        with told_in_a_sentence():
            found = output.committed(PART, CORPUS)
            assert found is None or found.counts.rows == 3

    with within_one_gibibyte():
        one()


def test_any_signature(tmp_path: Path) -> None:
    sound = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": {}}
    refuse_other_file(tmp_path / "model.sig", json.dumps(sound).encode())

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json_bytes(sound))
    def one(content: bytes) -> None:
        with told_in_a_sentence():
            refuse_other_file(tmp_path / "model.sig", content)

    with within_one_gibibyte():
        one()


def test_any_record_of_validation(twin_bundle: Path) -> None:
    manifest = read_manifest(twin_bundle)
    sound = {
        "manifest_seal": manifest.seal,
        "report": {"passed": True, "statistics": {}},
        "machine": {},
        "tools": {},
        "created": "",
        "seal": "",
    }

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json_bytes(sound))
    def one(content: bytes) -> None:
        with told_in_a_sentence():
            parse_record(twin_bundle / "validation.json", content, manifest)

    with within_one_gibibyte():
        one()


LAYOUT = ("modules.json", "config.json", "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/config.json")
LOADED = (*LAYOUT, "config_sentence_transformers.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("saved"), "bert", "mean", ("dense",))


def _changed(folder: Path, name: str, one: Callable[[], object]) -> Callable[[bytes], None]:
    """Return a test of one case: the file gets other content, and what is called ends as it may."""
    path = folder / name

    def case(content: bytes) -> None:
        path.write_bytes(content)
        with told_in_a_sentence():
            one()

    return case


@pytest.mark.parametrize("name", LAYOUT)
def test_any_layout_of_a_checkpoint(name: str, saved: Path, tmp_path: Path) -> None:
    """The sizes that it states are compared with the weights before any library builds a model of them."""
    folder = Path(shutil.copytree(saved, tmp_path / "checkpoint"))

    def read() -> None:
        with snapshot_of(folder) as snapshot:
            for place, files in snapshot.weights.items():
                check_declared_sizes(place, StoredWeights(files))

    sound = json.loads((folder / name).read_text(encoding="utf-8"))
    with within_one_gibibyte():
        settings(max_examples=CASES, derandomize=True)(given(changed_json_bytes(sound))(_changed(folder, name, read)))()


@pytest.mark.parametrize("name", LOADED)
def test_any_checkpoint_that_is_loaded(name: str, saved: Path, tmp_path: Path) -> None:
    """A tenth of the cases: each loads a model."""
    folder = Path(shutil.copytree(saved, tmp_path / "checkpoint"))
    recipe = Recipe(name="case", source=str(folder))
    sound = json.loads((folder / name).read_text(encoding="utf-8"))
    case = _changed(folder, name, lambda: load_checkpoint(recipe))
    with within_one_gibibyte():
        settings(max_examples=CASES // 10, derandomize=True)(given(changed_json_bytes(sound))(case))()


def test_any_tokenizer(saved: Path, tmp_path: Path) -> None:
    """Its code is Rust, which panics where a document is not what it expects."""
    folder = Path(shutil.copytree(saved, tmp_path / "checkpoint"))
    recipe = Recipe(name="case", source=str(folder))
    sound = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = sound["model"].pop("vocab")
    path = folder / "tokenizer.json"

    @settings(max_examples=CASES // 10, derandomize=True)
    @given(changed_json(sound))
    def one(document: Any) -> None:
        if isinstance(document, dict) and isinstance(document.get("model"), dict):
            document["model"].setdefault("vocab", vocabulary)
        path.write_text(json.dumps(document), encoding="utf-8")
        with told_in_a_sentence():
            load_checkpoint(recipe)

    with within_one_gibibyte():
        one()


ROWS = pa.table({"text": ["한 문장", "두 문장", "한 문장"], "n": [1, None, 3]})


def write_corpus(path: Path) -> None:
    match path.suffix:
        case ".parquet":
            pq.write_table(ROWS, path)
        case ".arrow":
            with pa.ipc.new_file(path, ROWS.schema) as writer:
                writer.write_table(ROWS, max_chunksize=2)
        case ".jsonl":
            path.write_text(
                "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS.to_pylist()), encoding="utf-8"
            )
        case ".txt":
            path.write_text("\n".join(ROWS["text"].to_pylist()), encoding="utf-8")
        case _:
            path.write_text('text,n\n"한\n문장",1\n두 문장,\n', encoding="utf-8")


def read_corpus(given: Path) -> None:
    """Read a corpus as ``korsbert embed`` does, in parts of two rows."""
    files = input_files([str(given)])
    columns = columns_of(files, "text", () if given.suffix == ".txt" else ("n",))
    for file in files:
        count, places = places_of(file, 2)
        for place in places:
            for rows in read_rows(file, columns, [Range(place, min(place.row + 2, count))]):
                len(rows)


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow", "in.jsonl", "in.csv", "in.txt"])
def test_any_bytes_of_a_corpus(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_corpus(path)
    read_corpus(path)

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_bytes(path.read_bytes()))
    def one(content: bytes) -> None:
        path.write_bytes(content)
        with told_in_a_sentence():
            read_corpus(path)

    with within_one_gibibyte():
        one()


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
def test_any_description_of_a_saved_dataset(name: str, tmp_path: Path) -> None:
    write_corpus(tmp_path / "in.arrow")
    read_corpus(tmp_path)

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json_bytes({"_data_files": [{"filename": "in.arrow"}], "splits": ["train"]}))
    def one(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with told_in_a_sentence():
            read_corpus(tmp_path)

    with within_one_gibibyte():
        one()


@pytest.mark.parametrize("content", [b"[" * 20_000, b'{"_data_files": ' * 20_000])
def test_a_description_that_is_nested_deeply_is_none(content: bytes, tmp_path: Path) -> None:
    write_corpus(tmp_path / "in.arrow")
    (tmp_path / "state.json").write_bytes(content)
    assert [Path(file.url).name for file in input_files([str(tmp_path)])] == ["in.arrow"]


@pytest.mark.parametrize("name", ["x.arrow/../../in.arrow", "/in.arrow", "..", ".", ""])
def test_a_saved_dataset_has_its_files_in_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with (
        told_in_a_sentence(),
        pytest.raises(InputError, match=r"state\.json: names '.*', which is no file of this folder"),
    ):
        input_files([str(tmp_path)])


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet", "in.csv.gz", "state.json", "dataset_dict.json"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_pipe_is_not_waited_for(name: str, inside: bool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with told_in_a_sentence(), pytest.raises(InputError, match=rf"{name}: is not a regular file"):
        read_corpus(tmp_path if inside or name.endswith(".json") else tmp_path / name)


def test_a_device_is_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "in.txt").symlink_to("/dev/zero")
    with told_in_a_sentence(), pytest.raises(InputError, match=r"in\.txt: is not a regular file"):
        read_corpus(tmp_path / "in.txt")


VECTORS = np.arange(600, dtype=np.float32).reshape(60, 10) % 7 + 1


def write_vectors(path: Path) -> None:
    ids = [f"d{row}" for row in range(60)]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), 10)
    table = pa.table({"id": ids, "vector": lists}).replace_schema_metadata(
        {b"korsbert": json.dumps({"dtype": "float32", "dimension": 10, "precision": "fp32"}).encode()}
    )
    match path.suffix:
        case ".npy":
            np.save(path, VECTORS)
        case ".parquet":
            pq.write_table(table, path)
        case _:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=25)


@pytest.mark.parametrize("name", ["in.npy", "in.parquet", "in.arrow"])
def test_any_bytes_of_vectors(name: str, tmp_path: Path) -> None:
    """Also as both sides of a comparison, which then has what the file says twice."""
    path = tmp_path / name
    write_vectors(path)
    assert exporter.compare(path, path, k=5).passed

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_bytes(path.read_bytes()))
    def one(content: bytes) -> None:
        path.write_bytes(content)
        with told_in_a_sentence():
            exporter.compare(path, path, k=5).to_json()

    with within_one_gibibyte():
        one()


def test_any_facts_of_vectors(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    write_vectors(path)
    content = pq.read_table(path)
    sound = {"bundle": "0" * 64, "recipe": "demo", "precision": "fp32", "dimension": 10, "dtype": "float32"}

    @settings(max_examples=CASES, derandomize=True)
    @given(changed_json_bytes(sound))
    def one(facts: bytes) -> None:
        pq.write_table(content.replace_schema_metadata({b"korsbert": facts}), path)
        with told_in_a_sentence():
            exporter.compare(path, path, k=5).to_json()

    with within_one_gibibyte():
        one()


def npy_header(header: str, version: bytes = b"\x01\x00") -> bytes:
    length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + header.encode()


HEADERS: dict[str, tuple[bytes, str]] = {
    "a giant array": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000, 768), }"),
        "has 0 bytes of numbers, and its header says 30,720,000,000,000",
    ),
    "more numbers than there are": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }") + bytes(31),
        "has 31 bytes of numbers, and its header says 32",
    ),
    "a giant header": (
        b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{" * 100_000,
        "not readable as .npy",
    ),
    "a nested header": (npy_header("(" * 9000), "not readable as .npy"),
    "objects": (npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }"), "holds objects"),
    "a structure": (
        npy_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 2), }") + bytes(16),
        "vectors are numbers of",
    ),
    "text": (npy_header("{'descr': '<U4', 'fortran_order': False, 'shape': (2, 2), }") + bytes(64), "vectors are"),
    "complex numbers": (
        npy_header("{'descr': '<c8', 'fortran_order': False, 'shape': (2, 2), }") + bytes(32),
        "vectors are numbers of",
    ),
    "one axis": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }") + bytes(16),
        r"has the shape \(4,\)",
    ),
    "a negative number of rows": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }"),
        r"has the shape \(-1, 4\)",
    ),
    "very long vectors": (
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 100000000000), }"),
        "a vector has 1 to 65,536 numbers|has the shape",
    ),
    "no row": (npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4), }"), "has no vector"),
    "columns": (
        npy_header("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 4), }") + bytes(32),
        "is stored by columns",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_arrays(case: str, tmp_path: Path) -> None:
    content, told = HEADERS[case]
    path = tmp_path / "in.npy"
    path.write_bytes(content)
    with within_one_gibibyte(), told_in_a_sentence(), pytest.raises(InputError, match=told):
        exporter.compare(path, path)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    np.save(tmp_path / "in.npy", np.array([[Evil()]], dtype=object), allow_pickle=True)
    with told_in_a_sentence(), pytest.raises(InputError, match="holds objects"):
        exporter.compare(tmp_path / "in.npy", tmp_path / "in.npy")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["in.npy", "in.parquet"])
def test_vectors_in_a_pipe_or_a_device(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with told_in_a_sentence(), pytest.raises(InputError, match="is not a regular file"):
        exporter.compare(tmp_path / name, tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with told_in_a_sentence(), pytest.raises(InputError, match="is not a regular file"):
        exporter.compare(tmp_path / name, tmp_path / name)


COLUMNS: dict[str, tuple[Any, str]] = {
    "no vectors": (None, "there is no column 'vector'"),
    "texts": (pa.array(["a"] * 60), "has the type string"),
    "lists of texts": (pa.array([["a"]] * 60), "it must be lists of float16|has the type list"),
    "lengths that differ": (pa.array([[1.0] * (5 + row % 2) for row in range(60)]), "vectors of 5 to 6 numbers"),
    "empty lists": (pa.array([[]] * 60, pa.list_(pa.float32())), "has vectors of 0 to 0 numbers|has no vector"),
    "a number that is missing": (pa.array([[1.0, None]] * 60), "has a number that is missing"),
    "nothing at all": (pa.array([None] * 60, pa.list_(pa.float32(), 4)), "has no vector"),
    "very long vectors": (pa.array([[1.0] * 70_000] * 2 + [None] * 58), "vectors of 70,000 to 70,000 numbers"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_that_hold_no_vectors(case: str, tmp_path: Path) -> None:
    column, told = COLUMNS[case]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": list(range(60)), **({} if column is None else {"vector": column})}), path)
    with within_one_gibibyte(), told_in_a_sentence(), pytest.raises(InputError, match=told):
        exporter.compare(path, path, k=5)


@pytest.mark.parametrize("ids", [[None] * 60, [1.5] * 60, [True] * 60, [["a"]] * 60], ids=str)
def test_ids_that_are_none(ids: list[Any], tmp_path: Path) -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), 10)
    pq.write_table(pa.table({"id": ids, "vector": lists}), tmp_path / "in.parquet")
    with told_in_a_sentence(), pytest.raises(InputError, match="the column 'id' has the value"):
        exporter.compare(tmp_path / "in.parquet", tmp_path / "in.parquet", k=5)
