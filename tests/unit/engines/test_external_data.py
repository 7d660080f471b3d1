"""A model that refers to another file is found wherever in the model the reference is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from exporter.engines.external_data import _MESSAGES, refuse_external_data
from exporter.errors import BundleError

PATH = Path("model.onnx")


def external(name: str = "w", location: str = "weights.data") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def model(change: Callable[[onnx.ModelProto], object]) -> bytes:
    inside = helper.make_tensor("inside", TensorProto.FLOAT, [2], [1.0, 2.0])
    node = helper.make_node("Add", ["x", "inside"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [inside],
    )
    made = helper.make_model(graph, ir_version=10)
    change(made)
    return bytes(made.SerializeToString())


def in_a_subgraph(made: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [external()])
    made.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner))


def in_a_function(made: onnx.ModelProto) -> None:
    function = made.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["c"], value=external()))


def in_a_sparse_tensor(made: onnx.ModelProto) -> None:
    made.graph.sparse_initializer.add(values=external())


def by_its_location_alone(made: onnx.ModelProto) -> None:
    made.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.graph.initializer.append(external()),
        lambda made: made.graph.node.append(helper.make_node("Constant", [], ["c"], value=external())),
        in_a_subgraph,
        in_a_function,
        in_a_sparse_tensor,
        by_its_location_alone,
        lambda made: made.training_info.add().initialization.initializer.append(external()),
    ],
    ids=["initializer", "attribute", "subgraph", "function", "sparse", "location alone", "training"],
)
def test_a_reference_is_refused(change: Callable[[onnx.ModelProto], object]) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx: this model reads weights from a file that is not its own"):
        refuse_external_data(model(change), PATH)


def test_a_model_with_all_its_weights_is_returned_as_it_is() -> None:
    content = model(lambda _: None)
    assert refuse_external_data(content, PATH) is content


def test_the_own_file_of_weights_may_be_read() -> None:
    content = model(lambda made: made.graph.initializer.append(external()))
    assert refuse_external_data(content, PATH, "weights.data") is content


@pytest.mark.parametrize(
    "location", ["other.data", "../weights.data", "./weights.data", "/weights.data", "weights", ""]
)
def test_no_other_file_may_be_read_beside_the_own_one(location: str) -> None:
    def both(made: onnx.ModelProto) -> None:
        made.graph.initializer.append(external())
        made.graph.initializer.append(external("v", location))

    with pytest.raises(BundleError, match="reads weights from a file that is not its own"):
        refuse_external_data(model(both), PATH, "weights.data")


def test_a_location_that_is_stated_again_is_refused() -> None:
    tensor = external()
    tensor.external_data.add(key="location", value="other.data")
    with pytest.raises(BundleError, match="reads weights from a file that is not its own"):
        refuse_external_data(model(lambda made: made.graph.initializer.append(tensor)), PATH, "weights.data")


def test_a_graph_that_is_stated_twice_is_read_twice() -> None:
    """Protobuf merges two statements of one message, so a second graph adds to the first."""
    content = model(lambda made: made.graph.initializer.append(external()))
    with pytest.raises(BundleError, match="reads weights from a file that is not its own"):
        refuse_external_data(model(lambda _: None) + content, PATH)


@pytest.mark.parametrize(
    "content",
    [b"\x08", b"\x3a\x7f", b"\x3b", b"\xff" * 12, b"\xff\xff\xff\xff\xff\x01\x00", b"\x3d\x00", b"{}"],
    ids=["no value", "too short", "a group", "no end", "a large tag", "half a number", "JSON"],
)
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx: this is not an ONNX model"):
        refuse_external_data(content, PATH)


def test_every_field_that_can_hold_a_tensor_is_followed() -> None:
    """The table of fields against ONNX's own description of its messages."""

    def holds_tensors(name: str) -> bool:
        seen, left = set(), [getattr(onnx, name).DESCRIPTOR]
        while left:
            message = left.pop()
            if message.name == "TensorProto":
                return True
            if message.full_name not in seen:
                seen.add(message.full_name)
                left += [field.message_type for field in message.fields if field.message_type]
        return False

    for name, followed in _MESSAGES.items():
        if name == "TensorProto":
            continue
        fields = getattr(onnx, name).DESCRIPTOR.fields
        messages = {field.number: field.message_type.name for field in fields if field.message_type}
        known = {number: found for number, found in messages.items() if hasattr(onnx, found) and holds_tensors(found)}
        assert followed == known, name
