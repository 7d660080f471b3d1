"""What a check cannot see through is refused, in one sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.errors import BundleError
from exporter.validator.provenance import read_onnx
from exporter.validator.provenance.read_openvino import read_openvino
from tests.support.graphs import model_of
from tests.support.small_encoder import small_graph, small_parameters


def test_tensors_of_constant_nodes_are_stored_tensors() -> None:
    model = model_of(
        """encoder (int64[b, s] input_ids, int64[b, s] attention_mask) => (float[b, s, 2] vectors) {
            table = Constant <value = float[3, 2] {1, 2, 3, 4, 5, 6}> ()
            half = Constant <value_float = 0.5> ()
            rows = Gather (table, input_ids)
            vectors = Mul (rows, half)
        }"""
    )
    graph = read_onnx(ir.to_proto(model).SerializeToString())
    assert {(value.name, value.shape) for value in graph.stored} == {("table", (3, 2)), ("half", ())}
    assert [node.operator for node in graph.nodes] == ["Gather", "Mul"]


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x0a"])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx"):
        read_onnx(data)


def test_a_sparse_tensor_is_refused() -> None:
    """onnxruntime computes with a small sparse tensor where a dense one of the same name stands beside it."""
    proto = ir.to_proto(small_graph(small_parameters()).model)
    sparse = proto.graph.sparse_initializer.add()
    sparse.values.name = proto.graph.initializer[0].name
    with pytest.raises(BundleError, match=r"model\.onnx: it has sparse tensors"):
        read_onnx(proto.SerializeToString())


def test_two_tensors_of_one_name_are_refused() -> None:
    proto = ir.to_proto(small_graph(small_parameters()).model)
    proto.graph.initializer.append(proto.graph.initializer[0])
    with pytest.raises(BundleError, match=r"model\.onnx: two tensors have the same name"):
        read_onnx(proto.SerializeToString())


def test_a_tensor_in_another_file_is_refused(tmp_path: Path) -> None:
    proto = ir.to_proto(small_graph(small_parameters()).model)
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(BundleError, match=r"the tensor .* is kept in another file"):
        read_onnx((tmp_path / "model.onnx").read_bytes())


def test_a_subgraph_is_refused() -> None:
    model = model_of(
        """encoder (int64[b, s] input_ids, bool flag) => (int64[b, s] vectors) {
            vectors = If (flag) <
                then_branch = yes () => (int64[b, s] x) { x = Identity (input_ids) },
                else_branch = no () => (int64[b, s] y) { y = Neg (input_ids) }
            >
        }"""
    )
    with pytest.raises(BundleError, match="holds a subgraph"):
        read_onnx(ir.to_proto(model).SerializeToString())


def test_a_second_output_is_refused() -> None:
    model = small_graph(small_parameters()).model
    model.graph.outputs.append(model.graph[0].outputs[0])
    with pytest.raises(BundleError, match="2 outputs"):
        read_onnx(model)


def test_what_openvino_cannot_read_is_refused() -> None:
    with pytest.raises(BundleError, match=r"openvino_model\.xml: openvino cannot read it"):
        read_openvino(b"<net>", b"")


def test_numbers_are_read_as_they_are_stored() -> None:
    parameters = small_parameters()
    graph = read_onnx(small_graph(parameters).to_bytes())
    words = next(value for value in graph.stored if value.name == "words")
    np.testing.assert_array_equal(words.array(), parameters["0.model.embeddings.word_embeddings.weight"].values)
