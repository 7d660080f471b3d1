"""Run an engine of TensorRT: one stream, buffers that stay, and no launch gaps for shapes that come again.

Not yet run on a GPU: everything here that touches the driver or an engine has been exercised against stand-ins only.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from exporter.engines.cuda import Cuda, DeviceBuffers
from exporter.engines.cuda_graphs import CudaGraphs, Shape
from exporter.engines.padding import refuse_other_than_right_padding
from exporter.engines.tensorrt.profiles import Profile, pieces, profile_for
from exporter.errors import EngineError
from exporter.runtime.contract import INPUTS, OUTPUT


class TensorRtRunner:
    """One engine on one stream. ``run`` may be called from several threads, which take turns.

    Each profile has an execution context of its own, so that none ever switches. All contexts share one piece of
    scratch memory, as they run one after the other. TensorRT-RTX captures CUDA graphs by itself, for every shape; for
    TensorRT it is done here.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        engine: A deserialized ``ICudaEngine``.
        keep_alive: What must outlive the engine: its runtime and its logger.
        cuda: The driver.
        profiles: As the engine was built with them.
        right_padded: Whether attention takes lengths.
        execution: Where and in what numbers it runs.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        *,
        keep_alive: tuple[Any, ...],
        cuda: Cuda,
        profiles: Sequence[Profile],
        right_padded: bool,
        execution: str,
    ) -> None:
        self._trt, self._engine, self._keep_alive, self._cuda = trt, engine, keep_alive, cuda
        self._profiles, self._right_padded = tuple(profiles), right_padded
        self.execution = execution
        self.stream = cuda.create_stream()
        self._turn = threading.Lock()
        self._captures_itself = hasattr(trt, "CudaGraphStrategy")
        self.graphs = CudaGraphs(cuda, self.stream)
        self._contexts: dict[int, Any] = {}
        self._scratch_bytes = int(engine.device_memory_size_v2)
        self._scratch = cuda.allocate(self._scratch_bytes) if self._scratch_bytes else 0
        self._buffers = DeviceBuffers(cuda, self.stream, int(engine.get_tensor_shape(OUTPUT)[1]))
        # For the largest batch of any profile, once: a few MB, and no address ever changes under a captured graph.
        most = max(profile.batch[2] for profile in self._profiles)
        self._buffers.reserve(most, most * max(profile.sequence[2] for profile in self._profiles))

    def run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (batch, sequence) int64 ids and mask to (batch, dimension) float32.

        More rows than the widest profile has are run in pieces.

        Raises:
            EngineError: No profile holds the sequence, or padding stands on the left where attention takes lengths.
        """
        if self._right_padded:
            refuse_other_than_right_padding(attention_mask)
        with self._turn:
            self._cuda.enter()
            parts = [
                self._run(input_ids[part], attention_mask[part]) for part in pieces(self._profiles, len(input_ids))
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        rows, tokens = input_ids.shape
        shape = (rows, tokens)
        number = profile_for(self._profiles, rows, tokens)
        self._buffers.fill(input_ids, attention_mask)
        if not self.graphs.replay(shape):
            self._enqueue(self._context(number), shape)
            if not self._captures_itself and self.graphs.is_due(shape):
                self._capture(number, shape)
        self._cuda.synchronize(self.stream)
        return self._buffers.read(rows)

    def _enqueue(self, context: Any, shape: Shape) -> None:
        """Enqueue copies up, the engine, and the copy down for a batch of ``shape``."""
        self._set_shape(context, shape)
        self._buffers.upload(shape[0] * shape[1])
        if not context.execute_async_v3(self.stream):
            raise EngineError(f"the engine refused a batch of {shape}")
        self._buffers.download(shape[0])

    def _set_shape(self, context: Any, shape: Shape) -> None:
        for name in INPUTS:
            if not context.set_input_shape(name, shape):
                raise EngineError(f"the engine refused a batch of {shape}: {name} does not take it")
        for name, address in zip((*INPUTS, OUTPUT), self._addresses(), strict=True):
            context.set_tensor_address(name, address)

    def _addresses(self) -> tuple[int, int, int]:
        return self._buffers.ids, self._buffers.mask, self._buffers.vectors

    def _capture(self, number: int, shape: Shape) -> None:
        """Record a batch of ``shape`` in a context of its own, after one run in it, which sets the shape up."""
        context = self._new_context(number)
        self._enqueue(context, shape)
        self._cuda.synchronize(self.stream)
        self.graphs.capture(shape, lambda: self._enqueue(context, shape), keeps=context)

    def _context(self, number: int) -> Any:
        if number not in self._contexts:
            self._contexts[number] = self._new_context(number)
        return self._contexts[number]

    def _new_context(self, number: int) -> Any:
        """Return an execution context on a profile, with the scratch memory that all share."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._captures_itself:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise EngineError("TensorRT made no execution context", next_step="free some GPU memory")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        if not context.set_optimization_profile_async(number, self.stream):
            raise EngineError(f"TensorRT has no optimization profile {number} in this engine")
        self._cuda.synchronize(self.stream)
        return context

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is None:
            return
        self._cuda.enter()
        self._cuda.synchronize(self.stream)
        self.graphs.clear()
        self._contexts.clear()
        self._engine = None
        self._keep_alive = ()
        self._buffers.close()
        if self._scratch:
            self._cuda.free(self._scratch)
        self._cuda.destroy_stream(self.stream)
        self._cuda.close()
