"""ONNX as it is read: every node, tensor and input, what the file states besides, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.errors import BundleError
from exporter.validator.provenance.read_onnx import read_onnx
from exporter.validator.provenance.stored import Node, Value
from tests.support.graphs import model_of

ENCODER = """encoder (int64[b, s] input_ids, int64[b, s] attention_mask) => (float[b, s, 2] vectors)
    <float[3, 2] table = {1, 2, 3, 4, 5, 6}> {
        half = Constant <value_float = 0.5> ()
        rows = Gather <axis = 0> (table, input_ids)
        low = Constant <value = float {-1}> ()
        clipped = Clip (rows, , low)
        mask = Cast <to = 10> (attention_mask)
        wide = Cast <to = 1> (mask)
        last = Constant <value_ints = [2]> ()
        column = Unsqueeze (wide, last)
        masked = Mul (clipped, column)
        vectors = Mul (masked, half)
    }"""


def with_weights_outside(offset: int = 0) -> tuple[onnx.ModelProto, bytes]:
    proto = encoder()
    table = proto.graph.initializer[0]
    weights = onnx.numpy_helper.to_array(table).tobytes()
    for field in ("float_data", "raw_data"):
        table.ClearField(field)
    table.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "a.onnx.data"), ("offset", offset), ("length", len(weights))):
        table.external_data.add(key=key, value=str(value))
    return proto, weights


def encoder() -> onnx.ModelProto:
    return ir.to_proto(model_of(ENCODER))


def names(values: tuple[Value | None, ...]) -> list[str | None]:
    return [None if value is None else value.name for value in values]


def said(node: Node) -> tuple[object, ...]:
    outputs = [(value.name, value.dtype, value.index) for value in node.outputs]
    assert all(value.producer is node for value in node.outputs)
    return node.name, node.operator, names(node.inputs), dict(node.attributes), outputs


def test_everything_is_read() -> None:
    graph = read_onnx(encoder().SerializeToString(), "a.onnx")
    assert graph.file == "a.onnx"
    assert [(value.name, value.dtype) for value in graph.inputs] == [
        ("input_ids", "int64"),
        ("attention_mask", "int64"),
    ]
    assert [said(node) for node in graph.nodes] == [
        ("node.1/Gather", "Gather", ["table", "input_ids"], {"axis": 0}, [("rows", "float32", 0)]),
        ("node.3/Clip", "Clip", ["rows", None, "low"], {}, [("clipped", "float32", 0)]),
        ("node.4/Cast", "Cast", ["attention_mask"], {}, [("mask", "float16", 0)]),
        ("node.5/Cast", "Cast", ["mask"], {}, [("wide", "float32", 0)]),
        ("node.7/Unsqueeze", "Unsqueeze", ["wide", "last"], {}, [("column", "float32", 0)]),
        ("node.8/Mul", "Mul", ["clipped", "column"], {}, [("masked", "float32", 0)]),
        ("node.9/Mul", "Mul", ["masked", "half"], {}, [("vectors", "float32", 0)]),
    ]
    assert graph.output is graph.nodes[-1].outputs[0]
    assert {value.name: (value.dtype, value.shape, value.array().tolist()) for value in graph.stored} == {
        "table": ("float32", (3, 2), [[1, 2], [3, 4], [5, 6]]),
        "half": ("float32", (), 0.5),
        "low": ("float32", (), -1),
        "last": ("int64", (1,), [2]),
    }
    assert graph.contract == {
        "input input_ids": "int64 [b,s]",
        "input attention_mask": "int64 [b,s]",
        "output vectors": "float32 [b,s,2]",
        "operator set ai.onnx": "23",
        "IR version": "10",
    }


def test_a_tensor_that_is_an_input_too_is_a_tensor() -> None:
    proto = encoder()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("table", onnx.TensorProto.FLOAT, [3, 2]))
    graph = read_onnx(proto.SerializeToString())
    assert names(graph.inputs) == ["input_ids", "attention_mask"]
    assert "input table" not in graph.contract


def test_metadata_that_runners_heed_and_operator_sets_in_use_are_part_of_the_contract() -> None:
    model = model_of(ENCODER)
    model.metadata_props.update({"max_sequence": "64", "padding": "right", "author": "nobody"})
    model.graph.opset_imports.update({"com.microsoft": 1, "unused": 7})
    model.graph[-1].domain = "com.microsoft"
    graph = read_onnx(model)
    assert {name: value for name, value in graph.contract.items() if not name.startswith(("input", "output"))} == {
        "operator set ai.onnx": "23",
        "IR version": "10",
        "operator set com.microsoft": "1",
        "metadata max_sequence": "64",
        "metadata padding": "right",
    }
    assert graph.nodes[-1].operator == "com.microsoft.Mul"
    assert graph.file == "model.onnx"


@pytest.mark.parametrize(
    ("attribute", "dtype", "numbers"),
    [
        (ir.AttrTensor("value", ir.tensor(np.array([[1, 2]], np.int8))), "int8", [[1, 2]]),
        (ir.AttrFloat32("value_float", 0.5), "float32", 0.5),
        (ir.AttrFloat32s("value_floats", [0.5, 1]), "float32", [0.5, 1]),
        (ir.AttrInt64("value_int", 3), "int64", 3),
        (ir.AttrInt64s("value_ints", [3, 4]), "int64", [3, 4]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_constant_is_a_stored_tensor(attribute: ir.Attr, dtype: str, numbers: Any) -> None:
    (stored,) = read_onnx(one_node("Constant", attribute, inputs=False)).stored
    assert (stored.name, stored.dtype, stored.array().tolist()) == ("y", dtype, numbers)
    assert stored.array().dtype == stored.dtype
    assert stored.shape == stored.array().shape


def one_node(operator: str, *attributes: ir.Attr, inputs: bool = True, **options: Any) -> ir.Model:
    """Return a model in memory that computes ``y`` from ``x`` by one node."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
    y = ir.Value(name="y")
    node = ir.Node("", operator, [x] if inputs else [], attributes, outputs=[y], name="the node", **options)
    return ir.Model(ir.Graph([x], [y], nodes=[node], opset_imports={"": 23}), ir_version=10)


def test_attributes_are_plain_values() -> None:
    tensor = ir.tensor(np.array([7], np.float32))
    graph = read_onnx(
        one_node(
            "Any",
            ir.AttrInt64("int", 3),
            ir.AttrInt64s("ints", [3, 4]),
            ir.AttrFloat32("float", 1e-12),
            ir.AttrFloat32s("floats", [0.5]),
            ir.AttrString("string", "tanh"),
            ir.AttrTensor("tensor", tensor),
            ir.AttrInt64("to", 1),
        )
    )
    attributes = dict(graph.nodes[0].attributes)
    np.testing.assert_array_equal(attributes.pop("tensor"), np.array([7], np.float32), strict=True)
    assert attributes == {
        "int": 3,
        "ints": (3, 4),
        "float": float(np.float32(1e-12)),
        "floats": (0.5,),
        "string": "tanh",
        "to": 1,
    }
    assert [(value.name, value.dtype, value.shape) for value in graph.stored] == [("the node.tensor", "float32", (1,))]


def test_a_type_that_is_not_stated_is_unknown() -> None:
    graph = read_onnx(one_node("Any"))
    assert graph.output.dtype is None
    assert graph.contract["output y"] == "None None"


@pytest.mark.parametrize(
    ("to", "dtype"),
    [(ir.DataType.BFLOAT16, "bfloat16"), (ir.DataType.BOOL, "bool"), (ir.DataType.FLOAT16, "float16")],
)
def test_what_a_cast_is_to_is_the_type_of_its_output(to: ir.DataType, dtype: str) -> None:
    cast = [ir.AttrInt64("to", to), ir.AttrInt64("saturate", 0), ir.AttrString("round_mode", "up")]
    graph = read_onnx(one_node("Cast", *cast))
    assert graph.output.dtype == dtype
    assert graph.nodes[0].attributes == {}
    graph = read_onnx(one_node("Cast", *cast, version=1))
    assert graph.output.dtype == dtype


def test_every_output_of_a_node_has_its_place() -> None:
    model = one_node("Split")
    node = model.graph[0]
    node.resize_outputs(2)
    node.outputs[1].name = "z"
    node.outputs[1].type = ir.TensorType(ir.DataType.BFLOAT16)
    model.graph.outputs[0] = node.outputs[1]
    graph = read_onnx(model)
    assert [(value.name, value.dtype, value.index) for value in graph.nodes[0].outputs] == [
        ("y", None, 0),
        ("z", "bfloat16", 1),
    ]
    assert graph.output is graph.nodes[0].outputs[1]


def test_bfloat16_is_read() -> None:
    numbers = np.array([1.5, -2], ml_dtypes.bfloat16)
    (stored,) = read_onnx(one_node("Constant", ir.AttrTensor("value", ir.tensor(numbers)), inputs=False)).stored
    assert stored.dtype == "bfloat16"
    np.testing.assert_array_equal(stored.array(), numbers, strict=True)


def refusal(model: bytes | ir.Model) -> tuple[str, str | None]:
    with pytest.raises(BundleError) as failure:
        read_onnx(model, "a.onnx")
    return failure.value.message, failure.value.next_step


AGAIN = "export the bundle again"


class TestRefusals:
    def test_what_is_no_model(self) -> None:
        assert refusal(b"not a model") == ("a.onnx: not an ONNX model", AGAIN)
        assert refusal(b"") == ("a.onnx: 0 outputs, and an encoder has one", None)

    def test_a_model_with_an_operator_that_there_is_not(self) -> None:
        proto = encoder()
        proto.graph.node[-1].op_type = "Multiply"
        assert refusal(proto.SerializeToString()) == ("a.onnx: not an ONNX model", AGAIN)

    def test_two_tensors_of_one_name(self) -> None:
        proto = encoder()
        proto.graph.initializer.append(proto.graph.initializer[0])
        assert refusal(proto.SerializeToString()) == ("a.onnx: two tensors have the same name", AGAIN)

    @pytest.mark.parametrize("name", ["", "ai.onnx"])
    def test_two_versions_of_one_operator_set(self, name: str) -> None:
        """ONNX Runtime takes the last one, under either name."""
        proto = encoder()
        proto.opset_import.append(onnx.helper.make_opsetid(name, 24))
        assert refusal(proto.SerializeToString()) == ("a.onnx: it names an operator set twice", AGAIN)

    @pytest.mark.parametrize("place", ["initializer", "attribute", "attribute of several"])
    def test_sparse_tensors(self, place: str) -> None:
        """onnxruntime computes with a small sparse tensor where a dense one of the same name stands beside it."""
        proto = encoder()
        if place == "initializer":
            proto.graph.sparse_initializer.add().values.name = "table"
        else:
            attribute = proto.graph.node[-1].attribute.add(name="sparse_value")
            sparse = attribute.sparse_tensor if place == "attribute" else attribute.sparse_tensors.add()
            sparse.values.name = "table"
        assert refusal(proto.SerializeToString()) == ("a.onnx: it has sparse tensors, which no export writes", AGAIN)

    def test_tensors_in_another_file(self) -> None:
        proto = encoder()
        table = proto.graph.initializer[0]
        table.ClearField("float_data")
        table.data_location = onnx.TensorProto.EXTERNAL
        table.external_data.add(key="location", value="weights.bin")
        assert refusal(proto.SerializeToString()) == (
            "a.onnx: the tensor table is kept in another file",
            "export it again",
        )

    def test_tensors_in_another_file_than_that_of_the_weights(self) -> None:
        proto, weights = with_weights_outside()
        assert read_onnx(proto.SerializeToString(), "a.onnx", weights).stored
        next(entry for entry in proto.graph.initializer[0].external_data if entry.key == "location").value = "b.data"
        with pytest.raises(BundleError, match=r"a\.onnx: the tensor table is kept in another file"):
            read_onnx(proto.SerializeToString(), "a.onnx", weights)

    @pytest.mark.parametrize(("offset", "size"), [(4, 0), (0, -1)])
    def test_tensors_that_end_behind_the_file_of_weights(self, offset: int, size: int) -> None:
        proto, weights = with_weights_outside(offset=offset)
        with pytest.raises(BundleError, match=r"a\.onnx: the tensor table ends behind the file of weights"):
            read_onnx(proto.SerializeToString(), "a.onnx", weights[: len(weights) + size])

    @pytest.mark.parametrize(
        ("edit", "said"),
        [
            (lambda model: model.graph.outputs.clear(), "0 outputs, and an encoder has one"),
            (lambda model: model.graph.outputs.append(model.graph[1].outputs[0]), "2 outputs, and an encoder has one"),
            (
                lambda model: model.functions.update(
                    {("", "F", ""): ir.Function("", "F", graph=model.graph.clone(), attributes=[])}
                ),
                "it holds functions of its own, which a check cannot see through",
            ),
            (
                lambda model: setattr(model.graph.initializers["table"], "const_value", None),
                "the tensor table has no content",
            ),
            (
                lambda model: model.graph[1].replace_input_with(1, model.graph[3].outputs[0]),
                "clipped is read before it is computed",
            ),
            (
                lambda model: model.graph[1].replace_input_with(1, ir.Value(name="nothing")),
                "nothing is read before it is computed",
            ),
        ],
        ids=["no output", "two outputs", "function", "no content", "order", "no producer"],
    )
    def test_what_a_check_cannot_see_through(self, edit: Callable[[ir.Model], object], said: str) -> None:
        model = model_of(ENCODER)
        edit(model)
        assert refusal(model) == (f"a.onnx: {said}", None)

    @pytest.mark.parametrize("kind", ["graph", "graphs"])
    def test_a_subgraph(self, kind: str) -> None:
        inner = one_node("Neg").graph
        attribute = ir.AttrGraph("body", inner) if kind == "graph" else ir.AttrGraphs("bodies", [inner])
        assert refusal(one_node("Loop", attribute)) == (
            "a.onnx: the node holds a subgraph, which a check cannot see through",
            None,
        )
