"""Positions are compared at every padded width: the number for a position must not depend on the width."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from exporter.runtime.contract import INPUTS
from exporter.runtime.session import open_on_cpu


def differing_widths(model: ir.Model, value: ir.Value, longest: int) -> list[int]:
    """Compute a value at every width, and return those at which it is no part of what it is at the longest.

    Args:
        model: The float32 graph.
        value: What is computed from the extents of the inputs alone.
        longest: The longest sequence in tokens.
    """
    part = ir.convenience.extract(model.graph, model.graph.inputs, [value])
    session = open_on_cpu(ir.to_proto(ir.Model(part, ir_version=model.ir_version)).SerializeToString())
    whole = _computed(session, longest)
    return [width for width in range(1, longest) if not _is_part(_computed(session, width), whole, width, longest)]


def _computed(session: Any, width: int) -> npt.NDArray[Any]:
    ones = np.ones((1, width), dtype=np.int64)
    needed = {value.name for value in session.get_inputs()}
    found: npt.NDArray[Any] = session.run(None, {name: ones for name in INPUTS if name in needed})[0]
    return found


def _is_part(found: npt.NDArray[Any], whole: npt.NDArray[Any], width: int, longest: int) -> bool:
    """Whether ``found`` is the first ``width`` entries of ``whole``, along each axis that has one entry per token."""
    if found.ndim != whole.ndim:
        return False
    axes = list(zip(found.shape, whole.shape, strict=True))
    if any(own != most and (own, most) != (width, longest) for own, most in axes):
        return False
    return np.array_equal(found, whole[tuple(slice(own) for own, _ in axes)])
