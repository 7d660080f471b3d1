"""OpenVINO's IR as it is read: ONNX's names where the meaning is the same, OpenVINO's own elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from exporter.errors import BundleError
from exporter.validator.provenance.read_openvino import read_onnx_by_openvino, read_openvino
from exporter.validator.provenance.stored import Node, StoredGraph, Value
from tests.support.small_encoder import INNER, small_graph, small_parameters


def named(node: Any, name: str) -> Any:
    node.output(0).set_names({name})
    return node


def read(folder: Path, outputs: list[Any], inputs: list[Any]) -> StoredGraph:
    """Write a model, and read what was written."""
    ov.serialize(ov.Model(outputs, inputs, "encoder"), folder / "model.xml", folder / "model.bin")
    return read_openvino((folder / "model.xml").read_bytes(), (folder / "model.bin").read_bytes(), "a.xml")


def said(node: Node) -> tuple[object, ...]:
    inputs = [None if value is None else value.name for value in node.inputs]
    assert all(value.producer is node for value in node.outputs)
    outputs = [(value.name, value.dtype, value.index) for value in node.outputs]
    return node.name, node.operator, inputs, dict(node.attributes), outputs


def numbers(value: Value) -> tuple[str | None, tuple[int, ...], object]:
    return value.dtype, value.shape, value.array().tolist()


def test_everything_is_read(tmp_path: Path) -> None:
    ids = named(op.parameter([-1, 5], np.int64, name="ids"), "input_ids")
    table = op.constant(np.arange(6, dtype=np.float32).reshape(3, 2), name="table")
    rows = op.gather(table, ids, op.constant(np.int64(0), name="axis"), name="rows")
    wide = op.convert(op.constant(np.array([0.5], np.float16), name="half"), np.float32, name="wide")
    like = op.convert_like(op.constant(np.array([2], np.int8), name="two"), rows, name="like")
    low = op.subtract(op.multiply(rows, wide, name="scaled"), like, name="low")
    parts = op.split(low, op.constant(np.int64(1), name="second"), 5, name="parts")
    total = op.multiply(parts.output(1), parts.output(4), "none", name="total")
    flat = op.reshape(op.add(total, wide, name="sum"), op.constant([2, -1], np.int64, name="shape"), True, name="flat")
    output = named(op.relu(op.matmul(flat, flat, False, True, name="product"), name="y"), "vectors")
    graph = read(tmp_path, [output], [ids])
    assert graph.file == "a.xml"
    assert [(value.name, value.dtype, value.producer) for value in graph.inputs] == [("input_ids", "int64", None)]
    assert [said(node) for node in graph.nodes] == [
        ("rows", "Gather", ["table", "input_ids", "axis"], {"batch_dims": 0}, [("rows:0", "float32", 0)]),
        ("wide", "Cast", ["half"], {}, [("wide:0", "float32", 0)]),
        ("scaled", "Mul", ["rows:0", "wide:0"], {}, [("scaled:0", "float32", 0)]),
        ("like", "Cast", ["two"], {}, [("like:0", "float32", 0)]),
        ("low", "Sub", ["scaled:0", "like:0"], {}, [("low:0", "float32", 0)]),
        (
            "parts",
            "opset1.Split",
            ["low:0", "second"],
            {"num_splits": 5},
            [(f"parts:{index}", "float32", index) for index in range(5)],
        ),
        ("total", "Mul", ["parts:1", "parts:4"], {"auto_broadcast": "none"}, [("total:0", "float32", 0)]),
        ("sum", "Add", ["total:0", "wide:0"], {"auto_broadcast": "numpy"}, [("sum:0", "float32", 0)]),
        ("flat", "Reshape", ["sum:0", "shape"], {"special_zero": True}, [("flat:0", "float32", 0)]),
        (
            "product",
            "MatMul",
            ["flat:0", "flat:0"],
            {"transpose_a": False, "transpose_b": True},
            [("product:0", "float32", 0)],
        ),
        ("y", "opset1.Relu", ["product:0"], {}, [("y:0", "float32", 0)]),
    ]
    assert graph.output is graph.nodes[-1].outputs[0]
    assert {value.name: numbers(value) for value in graph.stored} == {
        "table": ("float32", (3, 2), [[0, 1], [2, 3], [4, 5]]),
        "axis": ("int64", (), 0),
        "half": ("float16", (1,), [0.5]),
        "two": ("int8", (1,), [2]),
        "second": ("int64", (), 1),
        "shape": ("int64", (2,), [2, -1]),
    }
    assert graph.contract == {"input input_ids": "int64 [?,5]", "output vectors": "float32 [2,2]"}


def test_types_have_the_names_that_numpy_has_for_them(tmp_path: Path) -> None:
    types = {
        "f16": "float16",
        "bf16": "bfloat16",
        "f32": "float32",
        "f64": "float64",
        "boolean": "bool",
        **{f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
        **{f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
        "f8e4m3": "f8e4m3",
    }
    inputs = [named(op.parameter([1], getattr(ov.Type, name)), name) for name in types]
    graph = read(tmp_path, [named(op.relu(inputs[2]), "y")], inputs)
    assert {value.name: value.dtype for value in graph.inputs} == types


def test_bfloat16_is_read(tmp_path: Path) -> None:
    written = np.array([1.5, -2.25], ml_dtypes.bfloat16)
    stored = op.constant(ov.Tensor(written.view(np.float16), ov.Shape([2]), ov.Type.bf16), name="w")
    (read_back,) = read(tmp_path, [named(op.relu(stored), "y")], []).stored
    assert read_back.dtype == "bfloat16"
    np.testing.assert_array_equal(read_back.array(), written, strict=True)


def test_an_onnx_model_is_read_as_the_backend_bounds_it() -> None:
    graph = read_onnx_by_openvino(small_graph(small_parameters()).to_bytes(), 64)
    assert graph.file == "the proven graph"
    assert graph.contract == {
        "input input_ids": "int64 [?,1..64]",
        "input attention_mask": "int64 [?,1..64]",
        "output sentence_embedding": f"float32 [?,{INNER}]",
    }


def with_body(operator: str) -> tuple[Any, Any]:
    """Return a parameter, and what an operator that holds a graph computes from it."""
    x, inner = op.parameter([2], np.float32), op.parameter([2], np.float32)
    true = op.constant(np.array([True]))
    results = [op.result(op.relu(inner))] + ([op.result(true)] if operator == "Loop" else [])
    body = ov.Model(results, [inner], "body")
    if operator == "If":
        node = op.if_op(true)
        node.set_then_body(body)
        node.set_else_body(body)
        node.set_input(x.output(0), inner, inner)
        return x, node.set_output(results[0], results[0])
    if operator == "Loop":
        node = op.loop(op.constant(np.int64(3)), true)
        node.set_function(body)
        node.set_special_body_ports([-1, 1])
    else:
        node = op.tensor_iterator()
        node.set_body(body)
    node.set_merged_input(inner, x.output(0), results[0].output(0))
    return x, node.get_iter_value(results[0].output(0), -1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "file"),
        [
            (lambda: read_openvino(b"<net>", b""), "openvino_model.xml"),
            (lambda: read_openvino(b"<net>", b"", "a.xml"), "a.xml"),
            (lambda: read_onnx_by_openvino(b"no model", 64), "the proven graph"),
            (lambda: read_onnx_by_openvino(b"no model", 64, "a.onnx"), "a.onnx"),
        ],
    )
    def test_what_openvino_cannot_read(self, call: Callable[[], object], file: str) -> None:
        with pytest.raises(BundleError) as failure:
            call()
        assert failure.value.message.startswith(f"{file}: openvino cannot read it: ")
        assert "\n" not in failure.value.message
        assert not failure.value.message.endswith(": None")

    def test_two_outputs(self, tmp_path: Path) -> None:
        x = op.parameter([2], np.float32)
        with pytest.raises(BundleError, match=r"^a\.xml: 2 outputs, and an encoder has one$"):
            read(tmp_path, [op.relu(x), op.abs(x)], [x])

    @pytest.mark.parametrize("operator", ["If", "Loop", "TensorIterator"])
    def test_a_subgraph(self, operator: str, tmp_path: Path) -> None:
        x, output = with_body(operator)
        output.get_node().set_friendly_name("holder")
        with pytest.raises(BundleError, match=r"^a\.xml: holder holds a subgraph, which a check cannot see$"):
            read(tmp_path, [op.relu(output)], [x])
