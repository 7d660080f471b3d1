"""CUDA graphs of shapes that come again: one launch in place of hundreds, where launches outlast what they launch.

Source: CUDA driver API, graph management, https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__GRAPH.html
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from exporter.engines.cuda import Cuda
from exporter.errors import EngineError

GRAPH_TOKENS = 32768
"""Largest batch, in tokens with padding, that is replayed as a CUDA graph: 128 rows of 256 tokens."""
GRAPH_AFTER = 3
"""Times that a shape must have come before it is captured, which takes as long as some ten batches (on an H200)."""
MOST_GRAPHS = 256
"""Captured shapes kept. The one that has not come for longest goes first. 64 of up to 4,096 tokens took 38 MiB."""
_PATIENCE = 64
"""After so many graphs have gone, a shape must come twice as often before it is captured, and so on: else a server that
meets more shapes than are kept would do nothing but capture."""

Shape = tuple[int, int]


@dataclass(frozen=True)
class _Captured:
    """A graph, and what it reads or writes that nothing else may change or free."""

    graph: int
    keeps: object


class CudaGraphs:
    """The captured shapes of one runner, on one stream. The caller lets one thread in at a time.

    Args:
        cuda: The driver.
        stream: What is captured, and what graphs are launched on.

    Attributes:
        refused: Why a capture failed; after one that failed no other is tried. None: none has.
    """

    def __init__(self, cuda: Cuda, stream: int) -> None:
        self._cuda, self._stream = cuda, stream
        self._seen: dict[Shape, int] = {}
        self._captured: OrderedDict[Shape, _Captured] = OrderedDict()
        self.refused: str | None = None
        self._gone = 0

    def __len__(self) -> int:
        """Return how many shapes are captured."""
        return len(self._captured)

    def replay(self, shape: Shape) -> bool:
        """Enqueue the graph of ``shape``, (rows, tokens a row); returns whether there is one."""
        captured = self._captured.get(shape)
        if captured is None:
            return False
        self._captured.move_to_end(shape)
        self._cuda.launch(captured.graph, self._stream)
        return True

    def is_due(self, shape: Shape) -> bool:
        """Count one more batch of ``shape`` that was not replayed; returns whether to capture it now."""
        if self.refused is not None or shape[0] * shape[1] > GRAPH_TOKENS:
            return False
        self._seen[shape] = self._seen.get(shape, 0) + 1
        return self._seen[shape] >= GRAPH_AFTER << self._gone // _PATIENCE

    def capture(self, shape: Shape, work: Callable[[], None], *, keeps: object = None) -> None:
        """Capture what ``work`` enqueues. It must have run on the stream before, so that it has all of its memory.

        Where the engine cannot be captured, ``refused`` says why, and batches go on being enqueued piece by piece.

        Args:
            shape: What the graph is for.
            work: Enqueues a batch of ``shape``: copies up, the engine, the copy down.
            keeps: What must live as long as the graph.
        """
        try:
            graph = self._cuda.capture(self._stream, work)
        except EngineError as error:
            self.refused = error.message
            return
        self._captured[shape] = _Captured(graph, keeps)
        if len(self._captured) > MOST_GRAPHS:
            oldest, dropped = self._captured.popitem(last=False)
            self._cuda.destroy_graph(dropped.graph)
            self._seen.pop(oldest, None)
            self._gone += 1

    def clear(self) -> None:
        """Destroy all graphs, and count anew. The stream must have been waited for."""
        for captured in self._captured.values():
            self._cuda.destroy_graph(captured.graph)
        self._captured.clear()
        self._seen.clear()
