"""The CUDA driver through ctypes: memory, streams and graphs for the runners, and what GPU there is.

``libcuda`` comes with the driver, so whatever GPU works has it: no toolkit, no torch, no package of its own.
Polygraphy's wrapper of the runtime library has neither pinned memory nor graphs nor facts about the device.

Source: CUDA driver API, https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.errors import EngineError, MissingDependencyError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_STREAM_NON_BLOCKING, _CAPTURE_THREAD_LOCAL = 1, 1  # CU_STREAM_NON_BLOCKING, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_NAME_BYTES = 256

# Arguments of each function used; the functions without a suffix have one version, the others take size_t and 64 bits.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}


@dataclass(frozen=True)
class Gpu:
    """The first GPU that this process may use.

    Attributes:
        name: As the driver calls it.
        compute_capability: For example ``"9.0"``.
        driver: Version of the driver, for example ``"580.95.05"``; the CUDA version where NVML does not tell.
        cuda: Highest CUDA version the driver serves, for example ``"13.0"``.
        memory_bytes: Its memory.
    """

    name: str
    compute_capability: str
    driver: str
    cuda: str
    memory_bytes: int


class Cuda:
    """The driver, with the primary context of the first GPU: the one that onnxruntime, TensorRT and torch use too.

    The context is taken when it is first entered; asking for facts takes none. Addresses and handles are integers, as
    engines take them.

    Args:
        library: ``libcuda`` as ctypes loads it.

    Raises:
        MissingDependencyError: There is no GPU that this process may use.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, c_int
        count = c_int()
        if library.cuInit(0) or library.cuDeviceGetCount(byref(count)) or not count.value:
            raise MissingDependencyError("there is a CUDA driver, but no GPU that this process can use")
        self._device, self._context = c_int(), c_void_p()
        self._call("cuDeviceGet", byref(self._device), 0)

    @classmethod
    def load(cls) -> Cuda:
        """Load the driver of this machine.

        Raises:
            MissingDependencyError: There is no driver, or no GPU.
        """
        name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            raise MissingDependencyError(
                "there is no NVIDIA driver", next_step="use a machine with an NVIDIA GPU"
            ) from error
        return cls(library)

    def close(self) -> None:
        """Give the context back, if it was taken."""
        if self._context:
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)
            self._context = c_void_p()

    def enter(self) -> None:
        """Make the context that of the calling thread."""
        if not self._context:
            self._call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)

    def gpu(self) -> Gpu:
        """Return what the GPU is."""
        name = ctypes.create_string_buffer(_NAME_BYTES)
        major, minor, cuda, memory = c_int(), c_int(), c_int(), c_size_t()
        self._call("cuDeviceGetName", name, _NAME_BYTES, self._device)
        self._call("cuDeviceGetAttribute", byref(major), _MAJOR, self._device)
        self._call("cuDeviceGetAttribute", byref(minor), _MINOR, self._device)
        self._call("cuDriverGetVersion", byref(cuda))
        self._call("cuDeviceTotalMem_v2", byref(memory), self._device)
        version = f"{cuda.value // 1000}.{cuda.value % 1000 // 10}"
        return Gpu(
            name=name.value.decode(),
            compute_capability=f"{major.value}.{minor.value}",
            driver=_driver_version() or f"CUDA {version}",
            cuda=version,
            memory_bytes=memory.value,
        )

    def allocate(self, size_bytes: int) -> int:
        """Allocate device memory and return its address."""
        address = c_uint64()
        self._call("cuMemAlloc_v2", byref(address), size_bytes)
        return address.value

    def free(self, address: int) -> None:
        """Free device memory."""
        self._call("cuMemFree_v2", address)

    def allocate_pinned(self, size_bytes: int) -> int:
        """Allocate page-locked host memory, which copies to the device without a detour, and return its address."""
        address = c_void_p()
        self._call("cuMemHostAlloc", byref(address), size_bytes, 0)
        return address.value or 0

    def free_pinned(self, address: int) -> None:
        """Free page-locked host memory."""
        self._call("cuMemFreeHost", address)

    def upload(self, device: int, host: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy from page-locked memory to the device."""
        self._call("cuMemcpyHtoDAsync_v2", device, host, size_bytes, stream)

    def download(self, host: int, device: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy from the device to page-locked memory."""
        self._call("cuMemcpyDtoHAsync_v2", host, device, size_bytes, stream)

    def create_stream(self) -> int:
        """Create a stream that does not wait for the legacy default one."""
        stream = c_void_p()
        self._call("cuStreamCreate", byref(stream), _STREAM_NON_BLOCKING)
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cuStreamDestroy_v2", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until a stream has done everything it was given."""
        self._call("cuStreamSynchronize", stream)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what ``work`` enqueues on ``stream``, without running it, and return a graph to launch."""
        graph, executable = c_void_p(), c_void_p()
        self._call("cuStreamBeginCapture_v2", stream, _CAPTURE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            self._library.cuStreamEndCapture(stream, byref(graph))  # leave the stream as it was
            raise
        self._call("cuStreamEndCapture", stream, byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Enqueue a captured graph."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Destroy a captured graph."""
        self._call("cuGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = c_char_p()
            self._library.cuGetErrorString(status, byref(text))
            said = text.value.decode() if text.value else "no text for it"
            raise EngineError(f"CUDA: {name} failed with {status}: {said}")


class DeviceBuffers:
    """Pinned host memory and device memory for two int64 inputs and one float32 output, kept from batch to batch.

    Args:
        cuda: The driver.
        stream: What copies are enqueued on.
        dimension: Length of a sentence vector.

    Attributes:
        ids: Device address of ``input_ids``.
        mask: Device address of ``attention_mask``.
        vectors: Device address of the output.
    """

    def __init__(self, cuda: Cuda, stream: int, dimension: int) -> None:
        self._cuda, self._stream, self._dimension = cuda, stream, dimension
        self._tokens = self._rows = 0
        self._pinned: list[int] = []
        self.ids = self.mask = self.vectors = 0

    def reserve(self, rows: int, tokens: int) -> bool:
        """Make room for ``rows`` vectors and ``tokens`` ids in all; returns whether any address has changed."""
        if rows <= self._rows and tokens <= self._tokens:
            return False
        rows, tokens = max(rows, self._rows), max(tokens, self._tokens)
        self.close()
        sizes = (8 * tokens, 8 * tokens, 4 * rows * self._dimension)
        self.ids, self.mask, self.vectors = (self._cuda.allocate(size) for size in sizes)
        self._pinned = [self._cuda.allocate_pinned(size) for size in sizes]
        self._rows, self._tokens = rows, tokens
        return True

    def fill(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> None:
        """Write (batch, sequence) int64 ids and mask to the pinned memory. The last batch must have been read."""
        for address, array in zip(self._pinned, (input_ids, attention_mask), strict=False):
            _view(address, array.shape, np.int64)[...] = array

    def upload(self, tokens: int) -> None:
        """Enqueue the copies of both inputs to the device."""
        self._cuda.upload(self.ids, self._pinned[0], 8 * tokens, self._stream)
        self._cuda.upload(self.mask, self._pinned[1], 8 * tokens, self._stream)

    def download(self, rows: int) -> None:
        """Enqueue the copy of the vectors to pinned memory."""
        self._cuda.download(self._pinned[2], self.vectors, 4 * rows * self._dimension, self._stream)

    def read(self, rows: int) -> npt.NDArray[np.float32]:
        """Return a copy of the vectors, (rows, dimension) float32. The stream must have been waited for."""
        vectors: npt.NDArray[np.float32] = _view(self._pinned[2], (rows, self._dimension), np.float32).copy()
        return vectors

    def close(self) -> None:
        """Free everything."""
        for address in (self.ids, self.mask, self.vectors):
            if address:
                self._cuda.free(address)
        for address in self._pinned:
            self._cuda.free_pinned(address)
        self._pinned = []
        self.ids = self.mask = self.vectors = self._rows = self._tokens = 0


def find_gpu() -> Gpu | None:
    """Return the first GPU that this process may use, or None."""
    try:
        return Cuda.load().gpu()
    except MissingDependencyError:
        return None


def _view(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array over memory that is not Python's."""
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = memoryview((ctypes.c_char * size_bytes).from_address(address)).cast("B")
    array: npt.NDArray[Any] = np.frombuffer(memory, dtype=np.dtype(dtype)).reshape(shape)
    return array


def _driver_version() -> str | None:
    """Ask NVML, which comes with the driver as well, for the version that people know it by."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    version = ctypes.create_string_buffer(_NAME_BYTES)
    if nvml.nvmlInit_v2():
        return None
    try:
        return version.value.decode() if not nvml.nvmlSystemGetDriverVersion(version, c_uint(_NAME_BYTES)) else None
    finally:
        nvml.nvmlShutdown()
