"""The runner on an engine and a driver in Python: right in every order, one copy each way, graphs for what recurs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from exporter.engines import cuda_graphs
from exporter.engines.cuda import Cuda
from exporter.engines.cuda_graphs import GRAPH_AFTER
from exporter.engines.tensorrt.profiles import Profile
from exporter.engines.tensorrt.runner import TensorRtRunner
from exporter.errors import EngineError
from tests.support.fake_cuda import TENSORRT, TENSORRT_RTX, FakeDriver, FakeEngine

PROFILES = [Profile((1, 1, 1), (1, 8, 16)), Profile((1, 2, 4), (1, 8, 16)), Profile((1, 2, 4), (1, 32, 64))]


class Rig:
    def __init__(self, trt: Any = TENSORRT, *, right_padded: bool = True) -> None:
        self.driver = FakeDriver()
        self.engine = FakeEngine(self.driver, PROFILES)
        self.runner = TensorRtRunner(
            trt,
            self.engine,
            keep_alive=(),
            cuda=Cuda(self.driver),
            profiles=PROFILES,
            right_padded=right_padded,
            execution="imagined",
        )

    def check(self, rows: int, tokens: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        ids = rng.integers(1, 1000, (rows, tokens))
        mask = (np.arange(tokens) < rng.integers(1, tokens + 1, (rows, 1))).astype(np.int64)
        wanted = (ids * mask).sum(axis=1, keepdims=True) + np.arange(FakeEngine.dimension)
        found = self.runner.run(ids, mask)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted.astype(np.float32))


@pytest.mark.parametrize("trt", [TENSORRT, TENSORRT_RTX], ids=["tensorrt", "tensorrt-rtx"])
def test_shapes_that_come_in_any_order_are_answered_rightly(trt: Any) -> None:
    rig = Rig(trt)
    with rig.runner:
        rng = np.random.default_rng(1)
        shapes = [(1, 5), (1, 16), (2, 5), (4, 64), (3, 17), (9, 12)]
        for seed in range(60):
            rig.check(*shapes[rng.integers(len(shapes))], seed=seed)
    assert rig.driver.memory == {}
    assert rig.driver.held == 0


def test_each_profile_has_one_context_of_its_own_on_the_scratch_that_all_share() -> None:
    rig = Rig(TENSORRT_RTX)
    for shape in [(1, 5), (2, 5), (2, 64), (1, 9), (4, 33)]:
        rig.check(*shape)
    assert [context.profile for context in rig.engine.contexts] == [0, 1, 2]
    assert len({context.scratch for context in rig.engine.contexts}) == 1
    assert rig.engine.contexts[0].scratch[1] == FakeEngine.device_memory_size_v2


def test_a_shape_that_recurs_is_captured_once_and_replayed() -> None:
    rig = Rig()
    for seed in range(GRAPH_AFTER):
        rig.check(2, 7, seed)
    before = rig.engine.executed
    assert "cuStreamBeginCapture_v2" in rig.driver.calls
    for seed in range(5):
        rig.check(2, 7, 100 + seed)
        rig.check(2, 8, 100 + seed)  # another shape on the same profile, in between
    assert rig.engine.executed == before + GRAPH_AFTER + 2, (
        "seven tokens: replayed; eight: run, then set up and captured"
    )
    assert rig.driver.calls.count("cuStreamBeginCapture_v2") == 2


def test_tensorrt_rtx_captures_by_itself() -> None:
    rig = Rig(TENSORRT_RTX)
    for seed in range(2 * GRAPH_AFTER):
        rig.check(2, 7, seed)
    assert "cuStreamBeginCapture_v2" not in rig.driver.calls
    assert {config.cuda_graph_strategy for config in rig.engine.configs} == {"captures by itself"}


def test_the_graph_that_has_not_come_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 64)
    shapes = [(rows, tokens) for rows in (1, 2, 3, 4) for tokens in range(1, 17)]
    assert len(shapes) == cuda_graphs.MOST_GRAPHS
    for shape in [*shapes, (2, 17)]:
        for seed in range(GRAPH_AFTER):
            rig.check(*shape, seed)
    assert rig.driver.calls.count("cuGraphExecDestroy") == 1
    before = rig.engine.executed
    for shape in shapes[1:]:
        rig.check(*shape)
    assert rig.engine.executed == before, "replayed"
    rig.check(*shapes[0])
    assert rig.engine.executed == before + 1, "run again"


def test_one_copy_up_for_each_input_and_one_down() -> None:
    rig = Rig()
    rig.check(3, 9)
    assert rig.driver.calls.count("cuMemcpyHtoDAsync_v2") == 2
    assert rig.driver.calls.count("cuMemcpyDtoHAsync_v2") == 1


def test_nothing_is_allocated_after_the_first_batch_of_a_profile() -> None:
    rig = Rig(TENSORRT_RTX)
    rig.check(2, 9)
    before = rig.driver.calls.count("cuMemAlloc_v2"), rig.driver.calls.count("cuMemHostAlloc")
    rig.check(4, 16)
    rig.check(4, 64)
    assert before == (rig.driver.calls.count("cuMemAlloc_v2"), rig.driver.calls.count("cuMemHostAlloc"))


def test_left_padding_is_refused_only_where_attention_takes_lengths() -> None:
    ids, mask = np.ones((1, 3), dtype=np.int64), np.array([[0, 1, 1]])
    with pytest.raises(EngineError, match="padding before or between"):
        Rig(right_padded=True).runner.run(ids, mask)
    Rig(right_padded=False).runner.run(ids, mask)


def test_a_sequence_that_no_profile_holds() -> None:
    with pytest.raises(EngineError, match="2 rows of 65 tokens is outside"):
        Rig().check(2, 65)
