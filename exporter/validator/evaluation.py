"""Evaluate a part of a float32 graph: what one value is, for given inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.graph.storage import open_model
from exporter.runtime.contract import INPUTS

Evaluate = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[Any]]


def evaluator_of(model: ir.Model, value: ir.Value) -> Evaluate:
    """Return a function of ``input_ids`` and ``attention_mask``, (batch, sequence) int64, that computes ``value``."""
    part = ir.convenience.extract(model.graph, model.graph.inputs, [value])
    session = open_model(ir.Model(part, ir_version=model.ir_version))
    needed = {given.name for given in session.get_inputs()}

    def evaluate(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        feeds = {name: array for name, array in zip(INPUTS, (ids, mask), strict=True) if name in needed}
        (found,) = session.run(None, feeds)
        return np.asarray(found)

    return evaluate
