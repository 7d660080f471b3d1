"""What this processor computes at most: a large matrix product, by each library and in each number format.

    python -m benchmarks.matrix_rates --threads 2

Prints operations per second as JSON; a multiplication and an addition are two. Weights are constants of the graphs, as
in an engine, so a library may store them in the layout of its kernels. torch and OpenVINO compute with oneDNN.

Products in int8 include what follows them in an engine: MatMulInteger, torch and OpenVINO make float32 of the sums, and
QLinearMatMul rounds them to the uint8 that the next product reads. OpenVINO also quantizes its float32 input; the
others read uint8.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino
import openvino.opset15 as ops
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.floor import median_s
from exporter.benchmark import torch_threads
from exporter.engines.openvino import shared_core

ROWS, INNER, COLUMNS = 1024, 1024, 4096  # 1,024 tokens in the feed-forward part of a large encoder
_OPSET, _IR = 21, 10
_LEVELS = 256

Rates = dict[str, dict[str, float]]
"""Operations per second, by precision (``fp32``, ``bf16``, ``int8``) and library."""


def main() -> None:
    """Print the rates of this machine."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of every library")
    parser.add_argument("--scale", type=int, default=1, help="divide every extent by it, for a dry run")
    options = parser.parse_args()
    shape = tuple(extent // options.scale for extent in (ROWS, INNER, COLUMNS))
    print(json.dumps(matrix_rates(options.threads, shape)))


def matrix_rates(threads: int, shape: tuple[int, ...] = (ROWS, INNER, COLUMNS)) -> Rates:
    """Measure every product.

    Args:
        threads: Of every library.
        shape: Rows, inner extent and columns.
    """
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    left = rng.standard_normal((rows, inner), np.float32)
    right = rng.standard_normal((inner, columns), np.float32)
    products: dict[str, dict[str, Callable[[], object]]] = {
        "fp32": {
            "torch": _torch(left, right, torch.float32),
            "ONNX Runtime MatMul": _onnx(_matmul(left, right), left, threads),
            "OpenVINO": _openvino(left, right, "f32", threads),
        },
        "bf16": {
            "torch": _torch(left, right, torch.bfloat16),
            "OpenVINO": _openvino(left, right, "bf16", threads),
        },
        "int8": {
            "torch": _torch_int8(left, right),
            "ONNX Runtime MatMulInteger": _onnx(_matmul_integer(left, right), _unsigned(left), threads),
            "ONNX Runtime QLinearMatMul": _onnx(_qlinear_matmul(left, right), _unsigned(left), threads),
            "OpenVINO": _openvino(left, right, "int8", threads),
        },
    }
    work = 2 * rows * inner * columns
    with torch_threads(threads), torch.no_grad():
        return {
            precision: {library: work / median_s(product, "cpu") for library, product in found.items()}
            for precision, found in products.items()
        }


def _unsigned(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint(values * 32 + 128), 0, 255).astype(np.uint8)


def _signed(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    return np.clip(np.rint(values * 32), -127, 127).astype(np.int8)


def _torch(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], dtype: torch.dtype) -> Callable[[], object]:
    layer = torch.nn.Linear(right.shape[0], right.shape[1], bias=False).to(dtype)
    layer.weight = torch.nn.Parameter(torch.from_numpy(right.T.copy()).to(dtype), requires_grad=False)
    rows = torch.from_numpy(left).to(dtype)
    return lambda: layer(rows)


def _torch_int8(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> Callable[[], object]:
    """Return oneDNN's product of uint8 and int8 with float32 sums, which torch's quantized engines use."""
    columns = right.shape[1]
    packed = torch.ops.onednn.qlinear_prepack(torch.from_numpy(_signed(right).T.copy()), list(left.shape))
    scales, zeros = torch.full((columns,), 1 / 32), torch.zeros(columns, dtype=torch.int64)
    rows = torch.from_numpy(_unsigned(left))
    return lambda: torch.ops.onednn.qlinear_pointwise(
        rows, 1 / 32, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def _onnx(graph: onnx.GraphProto, rows: npt.NDArray[Any], threads: int) -> Callable[[], object]:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": rows}
    return lambda: session.run(None, feed)


def _graph(
    nodes: list[onnx.NodeProto],
    x_type: int,
    y_type: int,
    shapes: tuple[int, ...],
    constants: dict[str, npt.NDArray[Any]],
) -> onnx.GraphProto:
    rows, inner, columns = shapes
    return helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", x_type, (rows, inner))],
        [helper.make_tensor_value_info("y", y_type, (rows, columns))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def _matmul(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> onnx.GraphProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return _graph(nodes, TensorProto.FLOAT, TensorProto.FLOAT, (*left.shape, right.shape[1]), {"w": right})


def _matmul_integer(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> onnx.GraphProto:
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w", "x_zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "scale"], ["y"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "w": _signed(right),
        "x_zero": np.array(128, np.uint8),
        "scale": np.array(1 / 32**2, np.float32),
    }
    return _graph(nodes, TensorProto.UINT8, TensorProto.FLOAT, (*left.shape, right.shape[1]), constants)


def _qlinear_matmul(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> onnx.GraphProto:
    names = ["x", "scale", "x_zero", "w", "scale", "w_zero", "y_scale", "x_zero"]
    constants: dict[str, npt.NDArray[Any]] = {
        "w": _signed(right),
        "scale": np.array(1 / 32, np.float32),
        "y_scale": np.array(1.0, np.float32),
        "x_zero": np.array(128, np.uint8),
        "w_zero": np.array(0, np.int8),
    }
    nodes = [helper.make_node("QLinearMatMul", names, ["y"])]
    return _graph(nodes, TensorProto.UINT8, TensorProto.UINT8, (*left.shape, right.shape[1]), constants)


def _openvino(
    left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], precision: str, threads: int
) -> Callable[[], object]:
    parameter = ops.parameter(left.shape, np.float32, name="x")
    rows: Any = parameter
    weights: Any = ops.constant(right)
    if precision == "int8":
        low, high = np.float32(-4), np.float32(4 * 127 / 128)
        rows = ops.fake_quantize(rows, low, high, low, high, _LEVELS)
        weights = ops.multiply(ops.convert(ops.constant(_signed(right)), "f32"), ops.constant(np.float32(1 / 32)))
    model = openvino.Model([ops.matmul(rows, weights, False, False)], [parameter], "product")
    hint = "f32" if precision == "int8" else precision
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    request = shared_core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: left}, share_inputs=True, share_outputs=True)


if __name__ == "__main__":
    main()
