"""The driver's room, on a driver in Python: what is asked for, what is given back, what an error says."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from exporter.engines import cuda as module
from exporter.engines.cuda import Cuda, DeviceBuffers, find_gpu
from exporter.errors import EngineError, MissingDependencyError
from tests.support.fake_cuda import FakeDriver


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def cuda(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    monkeypatch.setattr(module, "_driver_version", lambda: None)
    return Cuda(driver)


def test_what_gpu_there_is(cuda: Cuda, driver: FakeDriver) -> None:
    gpu = cuda.gpu()
    assert (gpu.name, gpu.compute_capability, gpu.cuda, gpu.driver) == ("Imagined GPU", "9.0", "13.1", "CUDA 13.1")
    assert gpu.memory_bytes == 80 * 2**30
    assert driver.held == 0, "asking takes no context"


def test_without_a_driver_or_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(MissingDependencyError, match="no NVIDIA driver"):
        Cuda.load()
    assert find_gpu() is None
    with pytest.raises(MissingDependencyError, match="no GPU"):
        Cuda(FakeDriver(devices=0))


def test_an_error_names_the_call_and_what_the_driver_says(cuda: Cuda, driver: FakeDriver) -> None:
    cuda.enter()
    driver.fails["cuMemAlloc_v2"] = 2
    with pytest.raises(EngineError, match="cuMemAlloc_v2 failed with 2: an imagined failure"):
        cuda.allocate(8)


def test_a_capture_that_fails_leaves_the_stream_as_it_was(cuda: Cuda, driver: FakeDriver) -> None:
    cuda.enter()
    stream = cuda.create_stream()

    def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cuda.capture(stream, work)
    assert driver.recording is None
    cuda.synchronize(stream)


def test_buffers_that_found_no_memory_hold_nothing(cuda: Cuda, driver: FakeDriver) -> None:
    cuda.enter()
    buffers = DeviceBuffers(cuda, cuda.create_stream(), dimension=2)
    buffers.reserve(rows=1, tokens=1)
    driver.fails["cuMemHostAlloc"] = 2
    with pytest.raises(EngineError, match="cuMemHostAlloc failed"):
        buffers.reserve(rows=9, tokens=9)
    driver.fails.clear()
    assert buffers.reserve(rows=1, tokens=1), "what was lost is made anew"
    buffers.close()


def test_buffers_carry_a_batch_up_and_vectors_down_and_give_all_back(cuda: Cuda, driver: FakeDriver) -> None:
    cuda.enter()
    stream = cuda.create_stream()
    buffers = DeviceBuffers(cuda, stream, dimension=2)
    assert buffers.reserve(rows=3, tokens=12)
    addresses = (buffers.ids, buffers.mask, buffers.vectors)
    assert not buffers.reserve(rows=2, tokens=12), "what is large enough stays"
    assert addresses == (buffers.ids, buffers.mask, buffers.vectors)

    ids = np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::-1]  # not contiguous, as a slice need not be
    buffers.fill(ids, ids + 100)
    buffers.upload(12)
    assert bytes(driver.memory[buffers.ids]) == np.ascontiguousarray(ids).tobytes()
    assert bytes(driver.memory[buffers.mask]) == np.ascontiguousarray(ids + 100).tobytes()

    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    ctypes.memmove(driver.memory[buffers.vectors], vectors.tobytes(), vectors.nbytes)
    buffers.download(2)
    np.testing.assert_array_equal(buffers.read(2), vectors[:2])

    assert buffers.reserve(rows=1, tokens=20)
    buffers.close()
    buffers.close()
    cuda.destroy_stream(stream)
    cuda.close()
    cuda.close()
    assert driver.memory == {}
    assert driver.held == 0
