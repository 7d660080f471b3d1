"""The floor: the least time that a batch can take on a device, from two rates measured on that device.

A batch needs so many operations of its matrix units, and so many bytes must come through its memory at least once. The
larger of the two times is the floor; how near to it an engine comes is what is left to gain.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.operations import Shape, embedding_of, shape_of_config

REPEATS = 20
_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Size:
    """What of an encoder decides how much there is to compute and to move.

    Attributes:
        shape: What decides how much there is to compute.
        embedding: Width of a token's embedding.
        layer_weights: Weights that a token passes through, each counted once: all but the embedding tables.
    """

    shape: Shape
    embedding: int
    layer_weights: int


@dataclass(frozen=True)
class Ceilings:
    """What a device reached in this run.

    Attributes:
        operations_per_s: By precision, of a large matrix multiplication; a multiplication and an addition are two.
        bytes_per_s: Of a large copy within its memory, bytes read plus bytes written.
    """

    operations_per_s: dict[str, float]
    bytes_per_s: float

    def floor_ms(self, size: Size, rows: int, tokens: int, precision: str) -> float:
        """Return the floor of a batch in milliseconds.

        Args:
            size: Of the encoder.
            rows: Sentences.
            tokens: Tokens of each.
            precision: What the matrix multiplications are computed in.
        """
        computing_s = rows * size.shape.operations(tokens) / self.operations_per_s[precision]
        moving_s = least_bytes(size, rows, tokens, precision) / self.bytes_per_s
        return 1000 * max(computing_s, moving_s)


def size_of(config: Any, layer_weights: int) -> Size:
    """Read the sizes from a transformers configuration, whatever the architecture calls them."""
    return Size(shape_of_config(config), embedding_of(config), layer_weights)


def least_bytes(size: Size, rows: int, tokens: int, precision: str) -> int:
    """Return the fewest bytes that must come through memory: weights once, embeddings of the tokens, in- and output.

    Activations are not among them: a device with enough cache need not write them out.
    """
    each = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}[precision]
    tables = max(each, 2)  # embedding tables are not quantized
    weights = each * size.layer_weights
    return weights + rows * tokens * (tables * size.embedding + 16) + 4 * rows * size.shape.hidden


def measure_ceilings(device: str) -> Ceilings:
    """Measure the matrix rate of each precision and the copy bandwidth; small sizes where the device is a CPU."""
    width, copied = (8192, 2**30) if device == "cuda" else (512, 2**24)
    rates = {name: 2 * width**3 / _matmul_s(width, dtype, device) for name, dtype in _TYPES.items()}
    int8_s = _int8_matmul_s(width, device)
    if int8_s is not None:
        rates["int8"] = 2 * width**3 / int8_s
    source = torch.randint(0, 255, (copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Ceilings(rates, 2 * copied / median_s(lambda: target.copy_(source), device))


def _matmul_s(width: int, dtype: torch.dtype, device: str) -> float:
    # Not zeros: products of zeros draw less power and run faster than real data.
    first, second = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    return median_s(lambda: first @ second, device)


def _int8_matmul_s(width: int, device: str) -> float | None:
    first, second = (torch.randint(-127, 127, (width, width), dtype=torch.int8, device=device) for _ in range(2))
    try:
        return median_s(lambda: torch._int_mm(first, second.t()), device)
    except (RuntimeError, NotImplementedError):  # no such product on this device
        return None


def median_s(work: Callable[[], object], device: str) -> float:
    """Return the median time of ``work``, by device events where there are any, after a warm-up."""
    work()
    event: Any = torch.cuda.Event  # torch does not annotate how it is made
    taken_s = []
    for _ in range(REPEATS):
        if device == "cuda":
            start, end = (event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            taken_s.append(start.elapsed_time(end) / 1000)
        else:
            started = time.perf_counter()
            work()
            taken_s.append(time.perf_counter() - started)
    return float(np.median(taken_s))
