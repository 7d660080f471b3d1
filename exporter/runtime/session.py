"""ONNX Runtime sessions, set up the same way wherever one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from exporter.dependencies import require


def session_options(threads: int | None = None, device: str = "cpu", *, spinning: bool = True) -> Any:
    """Return the options of a session that meets batches of many shapes.

    Args:
        threads: Threads of one operator; by default as many as there are cores.
        device: Where the session computes, ``"cpu"`` or ``"cuda"``.
        spinning: Whether threads keep their core busy while they wait for the next operator, or for the next batch.
            A batch then starts some microseconds earlier, at the cost of everything else that wants the core.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    options = require("onnxruntime").SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions; the log would print them twice
    # A memory pattern is a plan for one shape, kept for every shape that is met; batches of text hardly meet twice, and
    # the plans' blocks made up 40% of the peak (606 and 374 MiB for ALBERT) at the same speed.
    options.enable_mem_pattern = False
    if device == "cpu":
        # The fused kernel of Add and LayerNormalization was slower there than the two that it replaces, by 1.1 times in
        # fp32 and 1.3 in dynamic int8 (ALBERT, AMD EPYC; benchmarks/packed.py).
        options.add_session_config_entry("optimization.disable_specified_optimizers", "SkipLayerNormFusion")
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_on_cpu(model: bytes | Path, weights: Mapping[str, npt.NDArray[Any]], options: Any = None) -> Any:
    """Open a model on the CPU and return the ``InferenceSession``.

    Args:
        model: A serialized ``ModelProto``, or a file of one.
        weights: Tensors that are external data in the model and not in its file of weights, by name. They are not
            copied.
        options: From ``session_options``, which are also the default.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    ort = require("onnxruntime")
    options = options or session_options()
    options.add_external_initializers(
        list(weights), [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    )
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    session.weights = weights  # it reads them, and does not keep them alive
    return session
