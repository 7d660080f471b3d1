"""Which shapes are captured as CUDA graphs, and what becomes of them, on a driver in Python."""

from __future__ import annotations

import pytest

from exporter.engines.cuda import Cuda
from exporter.engines.cuda_graphs import GRAPH_AFTER, GRAPH_TOKENS, MOST_GRAPHS, CudaGraphs
from exporter.errors import EngineError
from tests.support.fake_cuda import FakeDriver


class Rig:
    """Graphs of work that writes down which shape it was for."""

    def __init__(self) -> None:
        self.driver = FakeDriver()
        cuda = Cuda(self.driver)
        self.graphs = CudaGraphs(cuda, cuda.create_stream())
        self.done: list[tuple[int, int]] = []

    def capture(self, shape: tuple[int, int]) -> None:
        self.graphs.capture(shape, lambda: self.driver.enqueue(lambda: self.done.append(shape)))


def test_a_captured_shape_is_replayed_and_no_other() -> None:
    rig = Rig()
    rig.capture((2, 3))
    assert rig.done == []
    assert rig.graphs.replay((2, 3))
    assert not rig.graphs.replay((3, 2))
    assert rig.done == [(2, 3)]
    assert len(rig.graphs) == 1


def test_large_batches_are_never_due() -> None:
    graphs = Rig().graphs
    assert not any(graphs.is_due((GRAPH_TOKENS + 1, 1)) for _ in range(2 * GRAPH_AFTER))
    assert any(graphs.is_due((GRAPH_TOKENS, 1)) for _ in range(2 * GRAPH_AFTER))


def test_a_shape_is_due_when_it_has_come_often_enough() -> None:
    graphs = Rig().graphs
    assert [graphs.is_due((2, 3)) for _ in range(GRAPH_AFTER)] == [*[False] * (GRAPH_AFTER - 1), True]


def test_the_graph_that_has_not_come_for_longest_is_destroyed_and_may_come_again() -> None:
    rig = Rig()
    for rows in range(1, MOST_GRAPHS + 1):
        assert [rig.graphs.is_due((rows, 1)) for _ in range(GRAPH_AFTER)][-1]
        rig.capture((rows, 1))
    rig.graphs.replay((1, 1))
    rig.capture((1, 2))
    assert rig.driver.calls.count("cuGraphExecDestroy") == 1
    assert len(rig.graphs) == MOST_GRAPHS
    assert rig.graphs.replay((1, 1))
    assert not rig.graphs.replay((2, 1))
    assert [rig.graphs.is_due((2, 1)) for _ in range(GRAPH_AFTER)][-1]


def test_more_shapes_than_are_kept_are_not_captured_over_and_over() -> None:
    rig = Rig()
    shapes = [(rows, tokens) for rows in range(1, 33) for tokens in range(1, 1 + MOST_GRAPHS // 8)]
    captured = 0
    for _ in range(20):
        for shape in shapes:
            if not rig.graphs.replay(shape) and rig.graphs.is_due(shape):
                rig.capture(shape)
                captured += 1
    assert len(shapes) == 4 * MOST_GRAPHS
    assert captured <= 2 * MOST_GRAPHS
    assert len(rig.graphs) == MOST_GRAPHS


def test_what_cannot_be_captured_is_told_and_nothing_more_is_tried() -> None:
    rig = Rig()

    def work() -> None:
        raise EngineError("the engine allocated memory")

    rig.graphs.capture((2, 3), work)
    assert rig.graphs.refused == "the engine allocated memory"
    assert rig.driver.recording is None, "the stream is as it was"
    assert not rig.graphs.replay((2, 3))
    assert not any(rig.graphs.is_due((5, 5)) for _ in range(2 * GRAPH_AFTER))


@pytest.mark.parametrize("call", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_a_driver_that_refuses(call: str) -> None:
    rig = Rig()
    rig.driver.fails[call] = 901
    rig.capture((2, 3))
    assert rig.graphs.refused == f"CUDA: {call} failed with 901: an imagined failure"
    assert len(rig.graphs) == 0


def test_all_go_and_are_counted_anew() -> None:
    rig = Rig()
    for shape in [(2, 3), (2, 4)]:
        assert [rig.graphs.is_due(shape) for _ in range(GRAPH_AFTER)][-1]
        rig.capture(shape)
    rig.graphs.clear()
    assert rig.driver.calls.count("cuGraphExecDestroy") == 2
    assert not rig.graphs.replay((2, 3))
    assert [rig.graphs.is_due((2, 3)) for _ in range(GRAPH_AFTER)][-1]
