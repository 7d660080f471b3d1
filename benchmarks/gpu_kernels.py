"""Where an ONNX file spends its time on a GPU: a batch as it is, the same as a CUDA graph, and its kernels by time.

    python -m benchmarks.gpu_kernels artifacts/ko-sbert-sts/fp16-onnxruntime-cuda/model.onnx

Random ids of full rows. Every replay of a graph is compared with the run without one, on the ids it was captured with
and on others. Kernels are counted by torch's profiler, which sees all of a process. Prints; writes nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch.profiler import ProfilerActivity, profile

from exporter.runtime.contract import INPUTS, OUTPUT

SHAPES = ((1, 16), (1, 128), (8, 32), (32, 32), (32, 128), (128, 128))
PROFILED = ((1, 16), (32, 128))
WARM_UPS, REPEATS, PROFILED_RUNS, KERNELS = 5, 30, 5, 22


class Bound:
    """A session's inputs and output in GPU memory that stays.

    Args:
        session: On the CUDA provider.
        ids: (batch, sequence) int64 on the GPU.
    """

    def __init__(self, session: Any, ids: torch.Tensor) -> None:
        self._session, self.ids, self._mask = session, ids.clone(), torch.ones_like(ids)
        self.vectors = torch.zeros((len(ids), session.get_outputs()[0].shape[1]), device="cuda")
        self._binding = session.io_binding()
        for name, array in zip(INPUTS, (self.ids, self._mask), strict=True):
            self._binding.bind_input(name, "cuda", 0, np.int64, tuple(array.shape), array.data_ptr())
        self._binding.bind_output(OUTPUT, "cuda", 0, np.float32, tuple(self.vectors.shape), self.vectors.data_ptr())

    def run(self, options: Any = None) -> None:
        """Run one batch, and wait for it."""
        self._session.run_with_iobinding(self._binding, options)
        torch.cuda.synchronize()


def main() -> None:
    """Print the times of every shape with and without a CUDA graph, and the kernels of two."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL.ONNX")
    path = parser.parse_args().model
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    ort.preload_dlls()
    plain, graphs = _session(path, use_tf32="0"), _session(path, use_tf32="0", enable_cuda_graph="1")
    for number, (rows, tokens) in enumerate(SHAPES, 1):
        ids = torch.randint(5, 2000, (rows, tokens), dtype=torch.int64, device="cuda")
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))
        one, other = Bound(plain, ids), Bound(graphs, ids)
        plain_ms, graph_ms = _median_ms(one.run), _median_ms(partial(other.run, options))
        same = _difference(one, other)
        for bound in (one, other):
            bound.ids.copy_(ids.flip(0).roll(1, 1))
        torch.cuda.synchronize()
        one.run()
        other.run(options)
        print(
            f"{rows} x {tokens}: {plain_ms:.3f} ms, as a graph {graph_ms:.3f} ms; largest difference {same:.1e}, "
            f"on other ids {_difference(one, other):.1e}",
            flush=True,
        )
    for rows, tokens in PROFILED:
        _print_kernels(Bound(plain, torch.randint(5, 2000, (rows, tokens), dtype=torch.int64, device="cuda")))


def _session(path: Path, **options: str) -> Any:
    return ort.InferenceSession(path, providers=[("CUDAExecutionProvider", options)])


def _median_ms(run: Callable[[], None]) -> float:
    taken = []
    for repeat in range(WARM_UPS + REPEATS):
        started = time.perf_counter()
        run()
        if repeat >= WARM_UPS:
            taken.append(time.perf_counter() - started)
    return 1000 * float(np.median(taken))


def _difference(one: Bound, other: Bound) -> float:
    return float((one.vectors - other.vectors).abs().max())


def _print_kernels(bound: Bound) -> None:
    for _ in range(WARM_UPS):
        bound.run()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED_RUNS):
            bound.run()
    kernels = sorted(profiler.key_averages(), key=lambda kernel: -kernel.self_device_time_total)
    launches = sum(kernel.count for kernel in kernels) / PROFILED_RUNS
    total_us = sum(kernel.self_device_time_total for kernel in kernels) / PROFILED_RUNS
    rows, tokens = bound.ids.shape
    print(f"{rows} x {tokens}: {launches:.0f} launches, {total_us:.0f} us of kernels")
    for kernel in kernels[:KERNELS]:
        each_us, count = kernel.self_device_time_total / PROFILED_RUNS, kernel.count / PROFILED_RUNS
        print(f"  {each_us:9.1f} us {count:6.1f}x {kernel.key[:150]}")


if __name__ == "__main__":
    main()
