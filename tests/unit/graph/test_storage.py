"""A model is the same whether one file holds its weights or two, and a session answers the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from exporter.graph import storage
from exporter.graph.storage import content_hash, open_model, save, saved, to_bytes
from tests.support.graphs import model_of

WEIGHT = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
IDS = np.array([[1, 5, 39], [0, 0, 7]])


def model(*tables: np.ndarray) -> ir.Model:
    """Return a model that adds up the rows of its tables, (rows, 30) float32 each."""
    tables = tables or (WEIGHT,)
    names = [f"t{number}" for number in range(len(tables))]
    inputs = ", ".join(f"float[{len(table)}, 30] {name}" for name, table in zip(names, tables, strict=True))
    rows = " ".join(f"r{name} = Gather({name}, input_ids)" for name in names)
    total = ", ".join(f"r{name}" for name in names)
    made = model_of(f"g (int64[B,S] input_ids, {inputs}) => (float[B,S,30] y) {{ {rows} y = Sum({total}) }}")
    for value, table in zip(made.graph.inputs[1:], tables, strict=True):
        value.const_value = ir.tensor(table, name=value.name)
        made.graph.register_initializer(value)
    del made.graph.inputs[1:]
    return made


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file end at 2 KiB."""
    monkeypatch.setattr(storage, "LARGEST_FILE", 2048)


def answers(session: onnxruntime.InferenceSession) -> np.ndarray:
    vectors: np.ndarray = session.run(None, {"input_ids": IDS})[0]
    return vectors


def test_a_session_reads_the_weights_where_they_lie() -> None:
    session = open_model(model())
    np.testing.assert_array_equal(answers(session), WEIGHT[IDS])
    np.testing.assert_array_equal(answers(open_model(model(np.asfortranarray(WEIGHT)))), WEIGHT[IDS])


def test_one_file_holds_a_small_model(tmp_path: Path) -> None:
    made = model()
    assert save(made, tmp_path / "model.onnx") == (tmp_path / "model.onnx",)
    assert (tmp_path / "model.onnx").read_bytes() == to_bytes(made)
    with saved(made) as given:
        assert given == to_bytes(made)


@pytest.mark.usefixtures("large")
class TestLarge:
    def test_two_files_hold_it(self, tmp_path: Path) -> None:
        made = model()
        before = dict(made.graph.initializers)
        files = save(made, tmp_path / "model.onnx")
        assert [file.name for file in files] == ["model.onnx", "model.onnx.data"]
        assert files[1].read_bytes() == WEIGHT.tobytes()
        assert dict(made.graph.initializers) == before
        assert not any(isinstance(value.const_value, ir.ExternalTensor) for value in before.values())
        np.testing.assert_array_equal(answers(onnxruntime.InferenceSession(files[0])), WEIGHT[IDS])

    def test_a_session_reads_its_files_which_end_once_it_is_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[Path] = []
        given = onnxruntime.InferenceSession

        def session(file: Path, *arguments: object, **named: object) -> onnxruntime.InferenceSession:
            opened.append(file)
            return given(file, *arguments, **named)

        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        np.testing.assert_array_equal(answers(open_model(model())), WEIGHT[IDS])
        assert [file.name for file in opened] == ["model.onnx"]
        assert not opened[0].parent.exists()

    def test_equal_models_give_equal_files(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        first, second = (save(model(), tmp_path / name / "model.onnx") for name in ("a", "b"))
        assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]

    def test_each_tensor_begins_at_a_page(self, tmp_path: Path) -> None:
        save(model(np.ones((20_000, 30), np.float32), WEIGHT), tmp_path / "model.onnx")
        proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
        stated = [{entry.key: entry.value for entry in tensor.external_data} for tensor in proto.graph.initializer]
        assert [int(entry.get("offset", 0)) % 4096 for entry in stated] == [0, 0]
        assert {entry["location"] for entry in stated} == {"model.onnx.data"}

    def test_its_hash_is_of_structure_and_weights(self) -> None:
        other = WEIGHT.copy()
        other[3, 4] += 1
        assert content_hash(model()) == content_hash(model())
        assert content_hash(model(other)) != content_hash(model())

    def test_it_has_no_bytes(self) -> None:
        with pytest.raises(ValueError, match="4800 bytes of weights, and one file holds 2048"):
            to_bytes(model())

    def test_a_tool_gets_a_path_that_ends_with_the_block(self) -> None:
        with saved(model()) as given:
            assert isinstance(given, Path)
            np.testing.assert_array_equal(answers(onnxruntime.InferenceSession(given)), WEIGHT[IDS])
        assert not given.parent.exists()


@pytest.mark.parametrize("count", [1, 3])
def test_the_pieces_of_a_model_are_what_protobuf_serializes(count: int) -> None:
    """Of every type and rank; small tensors, texts and facts of a tensor stand before and behind the weights."""
    made = model(*[WEIGHT + number for number in range(count)])
    tables = {
        "halves": WEIGHT.astype(np.float16),
        "brains": WEIGHT.astype(ir.DataType.BFLOAT16.numpy()),
        "cube": np.arange(2000, dtype=np.int64).reshape(10, 20, 10),
        "one": np.array(3.0, np.float32),
    }
    for name, table in tables.items():
        tensor = ir.tensor(table, name=name, doc_string="a table")
        tensor.metadata_props["of"] = name
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(table.shape))
        made.graph.register_initializer(value)
    made.graph.metadata_props["folded"] = "yes"
    made.metadata_props["max_sequence"] = "64"
    wanted = ir.to_proto(made).SerializeToString(deterministic=True)
    assert to_bytes(made) == wanted
    assert onnx.load_from_string(wanted).graph.initializer[-1].name == "one"
