"""TensorRT-RTX's parser and builder, which need no GPU: they hold a graph to strong typing."""

from __future__ import annotations

from typing import Any

import pytest

MAX_BATCH = 8


def tensorrt_rtx() -> Any:
    """Return the package, or skip with the reason where it is not installed."""
    return pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13==1.7.1.116 (Linux x86_64 only)")


def build(data: bytes, max_sequence: int) -> int:
    """Parse and build a serialized ONNX model as a strongly typed network; returns the size of the engine in bytes.

    Raises:
        ValueError: The parser or the builder refuses; with what they said.
    """
    rtx = tensorrt_rtx()
    said: list[str] = []

    class Logger(rtx.ILogger):
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= rtx.ILogger.Severity.ERROR:
                said.append(message)

    logger = Logger()
    builder = rtx.Builder(logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    if not parser.parse(data):
        raise ValueError("; ".join(parser.get_error(number).desc() for number in range(parser.num_errors)))
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name in ("input_ids", "attention_mask"):
        profile.set_shape(name, (1, 1), (MAX_BATCH, max_sequence // 2), (MAX_BATCH, max_sequence))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError("; ".join(said) or "the builder returned nothing")
    return int(engine.nbytes)
