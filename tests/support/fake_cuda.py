"""Stand-ins for the CUDA driver and for TensorRT, in Python: device memory lies on the heap, streams run at once.

What a stream is given while it is being captured is kept instead, and done when the graph is launched, as the driver
does it. So a replay that reads a stale shape or address shows here.
"""

# ruff: noqa: ARG002, N802 - names and signatures are the driver's
from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.engines.tensorrt.profiles import Profile
from exporter.runtime.contract import INPUTS, OUTPUT

COMPUTE_CAPABILITY = (9, 0)
_CONTEXT, _STREAM, _GRAPH, _EXECUTABLE = 0x1000, 0x2000, 0x3000, 0x4000


class _Function:
    """A function of a library as ctypes has it: callable, with ``argtypes`` to set."""

    def __init__(self, call: Callable[..., int]) -> None:
        self._call = call
        self.argtypes: tuple[Any, ...] = ()
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> int:
        assert len(arguments) == len(self.argtypes)
        return self._call(*arguments)


class FakeDriver:
    """Enough of ``libcuda``. ``devices`` is how many GPUs it has; ``fails`` maps a function to a status it returns."""

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.fails: dict[str, int] = {}
        self.memory: dict[int, ctypes.Array[Any]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.calls: list[str] = []
        self.held = 0  # contexts and streams

    def __getattr__(self, name: str) -> _Function:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.fails:
                return self.fails[name]
            return int(getattr(self, f"do_{name.partition('_')[0]}")(*arguments) or 0)

        function = _Function(call)
        setattr(self, name, function)
        return function

    def enqueue(self, work: Callable[[], None]) -> None:
        """Do it, or keep it for the graph that is being captured."""
        if self.recording is not None:
            self.recording.append(work)
        else:
            work()

    def _allocate(self, slot: Any, size: int) -> None:
        block = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(block)] = block
        slot._obj.value = ctypes.addressof(block)

    def _copy(self, to: int, source: int, size: int) -> None:
        def copy() -> None:
            ctypes.memmove(to, source, size)

        self.enqueue(copy)

    def do_cuInit(self, flags: int) -> None: ...

    def do_cuDeviceGetCount(self, slot: Any) -> None:
        slot._obj.value = self.devices

    def do_cuDeviceGet(self, slot: Any, ordinal: int) -> None:
        slot._obj.value = ordinal

    def do_cuDeviceGetName(self, name: Any, size: int, device: Any) -> None:
        name.value = b"Imagined GPU"

    def do_cuDeviceGetAttribute(self, slot: Any, attribute: int, device: Any) -> None:
        slot._obj.value = dict(zip((75, 76), COMPUTE_CAPABILITY, strict=True))[attribute]

    def do_cuDriverGetVersion(self, slot: Any) -> None:
        slot._obj.value = 13010

    def do_cuDeviceTotalMem(self, slot: Any, device: Any) -> None:
        slot._obj.value = 80 * 2**30

    def do_cuDevicePrimaryCtxRetain(self, slot: Any, device: Any) -> None:
        slot._obj.value = _CONTEXT
        self.held += 1

    def do_cuDevicePrimaryCtxRelease(self, device: Any) -> None:
        self.held -= 1

    def do_cuCtxSetCurrent(self, context: Any) -> int:
        return 0 if context.value == _CONTEXT else 201

    def do_cuMemAlloc(self, slot: Any, size: int) -> None:
        self._allocate(slot, size)

    def do_cuMemHostAlloc(self, slot: Any, size: int, flags: int) -> None:
        self._allocate(slot, size)

    def do_cuMemFree(self, address: int) -> None:
        del self.memory[address]

    def do_cuMemFreeHost(self, address: int) -> None:
        del self.memory[address]

    def do_cuMemcpyHtoDAsync(self, device: int, host: int, size: int, stream: int) -> None:
        self._copy(device, host, size)

    def do_cuMemcpyDtoHAsync(self, host: int, device: int, size: int, stream: int) -> None:
        self._copy(host, device, size)

    def do_cuStreamCreate(self, slot: Any, flags: int) -> None:
        slot._obj.value = _STREAM
        self.held += 1

    def do_cuStreamSynchronize(self, stream: int) -> int:
        return 900 if self.recording is not None else 0  # CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED

    def do_cuStreamDestroy(self, stream: int) -> None:
        self.held -= 1

    def do_cuStreamBeginCapture(self, stream: int, mode: int) -> None:
        self.recording = []

    def do_cuStreamEndCapture(self, stream: int, slot: Any) -> None:
        self.graphs[_EXECUTABLE + len(self.graphs)] = self.recording or []
        self.recording = None
        slot._obj.value = _GRAPH

    def do_cuGraphInstantiateWithFlags(self, slot: Any, graph: Any, flags: int) -> None:
        slot._obj.value = max(self.graphs)

    def do_cuGraphLaunch(self, graph: int, stream: int) -> None:
        for work in self.graphs[graph]:
            work()

    def do_cuGraphExecDestroy(self, graph: int) -> None:
        self.graphs[graph] = []

    def do_cuGraphDestroy(self, graph: Any) -> None: ...

    def do_cuGetErrorString(self, status: int, slot: Any) -> None:
        slot._obj.value = b"an imagined failure"


class FakeContext:
    """An execution context that answers, for each row, the sum of the ids that its mask lets through."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.profile: int | None = None
        self.scratch = (0, 0)

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = (address, size)

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.profile = number
        return number < len(self._engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return self.profile is not None and self._engine.profiles[self.profile].holds(*shape)

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self._engine.executed += 1
        self._engine.driver.enqueue(self._execute)
        return True

    def _execute(self) -> None:
        (rows, tokens), dimension = self._shapes[INPUTS[0]], self._engine.dimension
        ids, mask = (array_at(self._addresses[name], (rows, tokens), np.int64) for name in INPUTS)
        vectors = array_at(self._addresses[OUTPUT], (rows, dimension), np.float32)
        vectors[:] = (ids * mask).sum(axis=1, keepdims=True) + np.arange(dimension)


class FakeEngine:
    """An ``ICudaEngine`` on a :class:`FakeDriver`."""

    device_memory_size_v2 = 64
    dimension = 3

    def __init__(self, driver: FakeDriver, profiles: list[Profile]) -> None:
        self.driver, self.profiles = driver, profiles
        self.contexts: list[FakeContext] = []
        self.executed = 0
        self.configs: list[Any] = []

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        assert name == OUTPUT
        return -1, self.dimension

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(strategy=None, cuda_graph_strategy=None)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
        self.configs.append(config)
        return config

    def create_execution_context(self, how: Any) -> FakeContext:
        assert how == "user" or how.strategy == "user"
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


TENSORRT = SimpleNamespace(ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"))
"""What the runner reads of ``tensorrt``."""
TENSORRT_RTX = SimpleNamespace(
    **vars(TENSORRT), CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="captures by itself")
)
"""What the runner reads of ``tensorrt_rtx``."""


def array_at(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(memoryview((ctypes.c_char * size).from_address(address)), dtype=dtype).reshape(shape)
