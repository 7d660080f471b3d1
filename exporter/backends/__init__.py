"""Graph -> Engine -> Runner, one file per engine.

The table maps a name to a module, imported on use. Every module has::

    build(graph: Graph, shapes: Shapes, folder: Path) -> Engine      writes files into folder
    open(engine: Engine, folder: Path, device: str, threads: int | None) -> Runner
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from exporter.recipe import Precision, Shapes

if TYPE_CHECKING:
    from exporter.graph import Graph

BACKENDS = {
    "onnxruntime": "exporter.backends.onnxruntime",
    "openvino": "exporter.backends.openvino",
}


class Engine(BaseModel):
    """A built artifact as the manifest records it.

    Attributes:
        backend: Key of ``BACKENDS``.
        precision: A key of ``recipe.Gates``, for example ``"fp16"``.
        files: Names inside the bundle; the first is the one to open.
        facts: What else the backend wants to know when it opens the engine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    precision: Precision
    files: tuple[str, ...]
    facts: dict[str, Any] = {}


class Runner(Protocol):
    """The only thing the validator and the benchmark know of an engine. A context manager."""

    @property
    def execution(self) -> str:
        """Where and in what numbers it really runs, for example ``"CPUExecutionProvider"`` or ``"CPU, bf16"``."""
        ...

    def run(self, input_ids: npt.NDArray[np.int64], attention_mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Encode (batch, sequence) ids and mask to (batch, dimension) float32."""
        ...

    def __enter__(self) -> Self:
        """Return the runner."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release what the engine holds."""
        ...


class Backend(Protocol):
    """What a module of this package offers."""

    def check(self, precision: str, device: str) -> None:
        """Refuse a precision or a device that this backend cannot serve, before any work is done."""
        ...

    def build(self, graph: Graph, shapes: Shapes, folder: Path) -> Engine:
        """Write the engine's files into ``folder`` and return what the manifest records of it."""
        ...

    def open(self, engine: Engine, folder: Path, device: str, threads: int | None) -> Runner:
        """Open an engine on ``device`` (``"cpu"`` or ``"cuda"``) with ``threads`` (None: the engine's default)."""
        ...


def backend_of(name: str) -> Backend:
    """Import the module of a backend (a key of ``BACKENDS``)."""
    return cast(Backend, importlib.import_module(BACKENDS[name]))
