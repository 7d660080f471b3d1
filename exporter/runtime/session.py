"""ONNX Runtime sessions, set up the same way wherever one is opened."""

from __future__ import annotations

from typing import Any

from exporter.dependencies import require


def session_options(threads: int | None = None) -> Any:
    """Return the options of a session that meets batches of many shapes.

    Args:
        threads: Threads of one operator; by default as many as there are cores.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    options = require("onnxruntime").SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions; the log would print them twice
    # A memory pattern is a plan for one shape, kept for every shape that is met; batches of text hardly meet twice, and
    # the plans' blocks made up 40% of the peak (606 and 374 MiB for ALBERT) at the same speed.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_on_cpu(model: bytes, options: Any = None) -> Any:
    """Open a serialized ``ModelProto`` on the CPU and return the ``InferenceSession``.

    Args:
        model: The model's bytes.
        options: From ``session_options``, which are also the default.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    ort = require("onnxruntime")
    return ort.InferenceSession(model, options or session_options(), providers=["CPUExecutionProvider"])
