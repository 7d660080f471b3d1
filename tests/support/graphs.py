"""Small graphs for tests of passes and precisions: written as ONNX text, run by the reference evaluator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator


def model_of(body: str, *, names: Mapping[str, str] | None = None) -> ir.Model:
    """Parse one graph in ONNX's text syntax into an onnx_ir model whose values carry their inferred types.

    ``names`` gives nodes their names by that of their output; the text syntax has no room for slashes.
    """
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> {body}')
    onnx.checker.check_model(proto, full_check=True)
    model: ir.Model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))
    for index, node in enumerate(model.graph):
        node.name = (names or {}).get(str(node.outputs[0].name), f"node.{index}/{node.op_type}")
    return model


def evaluate(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a model in numpy, after a strict check of its types."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    results: list[np.ndarray] = ReferenceEvaluator(proto).run(None, feeds)
    return results


def ops(model: ir.Model) -> list[str]:
    """Return the operators of a model in order."""
    return [node.op_type for node in model.graph]
