"""Add a constant to a model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def add_constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Register ``array`` as an initializer called ``name`` (made unique if taken) and return its value."""
    unique, number = name, 1
    while unique in model.graph.initializers:
        number += 1
        unique = f"{name}.{number}"
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(name=unique, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    model.graph.register_initializer(value)
    return value
