"""Graph -> Engine -> Runner, one file per engine.

``BACKENDS`` maps a name to a module, imported on use, or to an object in one; ``BackendModule`` is what each one has.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pydantic import BaseModel, ConfigDict

from exporter.engines.facts import EngineFacts
from exporter.errors import InputError
from exporter.recipe import Shapes
from exporter.runtime.runner import Runner
from exporter.targets import FOLDED_OPSET, Backend, Precision

if TYPE_CHECKING:
    from exporter.graph import Graph

BACKENDS = {
    Backend.ONNXRUNTIME: "exporter.engines.onnxruntime",
    Backend.OPENVINO: "exporter.engines.openvino",
    Backend.TENSORRT: "exporter.engines.tensorrt.build:TENSORRT",
    Backend.TENSORRT_RTX: "exporter.engines.tensorrt.build:TENSORRT_RTX",
}


LEAST_RUNTIME = {17: "1.12", 18: "1.14", 19: "1.16", 20: "1.17", 21: "1.18", 22: "1.21"}
"""The first ONNX Runtime that runs a graph which is lowered to an operator set."""


@dataclass(frozen=True)
class BuildOptions:
    """What is decided about an engine besides its graph and its shapes. Only TensorRT has a use for it.

    Attributes:
        workspace_mib: Most scratch memory a kernel may ask for, in MiB. None: as much as the GPU has.
        version_compatible: Build an engine that newer versions open too, at some cost in speed.
        hardware_compatible: Build an engine that other GPUs open too (Ampere and newer), at some cost in speed.
        timing_cache: File of kernel timings, read where it exists and written back.
        on_progress: Called with what the builder is at.
    """

    workspace_mib: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    timing_cache: Path | None = None
    on_progress: Callable[[str], None] | None = None


DEFAULTS = BuildOptions()


class Engine(BaseModel):
    """A built artifact as the manifest records it.

    Attributes:
        backend: Key of ``BACKENDS``.
        precision: A key of ``recipe.Gates``, for example ``"fp16"``.
        files: Names inside the bundle; the first is the one to open.
        facts: What else the backend records, and needs to open the engine.
        decisions: What the build decided or found, one sentence each, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: Backend
    precision: Precision
    files: tuple[str, ...]
    facts: EngineFacts = EngineFacts()
    decisions: tuple[str, ...] = ()

    @property
    def least_runtime(self) -> str | None:
        """The oldest version of ONNX Runtime that computes it right, ``"1.25"``; None for engines of other backends."""
        if self.backend is not Backend.ONNXRUNTIME:
            return None
        # Measured (benchmarks/results/oldest_onnxruntime.md). The first releases with opset 18 and with 19 cannot run
        # LayerNormalization in float16. Attention is an operator since opset 23, which 1.23 is the first to have, but
        # without a kernel for its QuantizeLinear. Attention by lengths is of opset 24: 1.23 refuses it, and the CPU
        # provider of 1.24 ignores the lengths and answers wrongly.
        if self.facts.lengths:
            return "1.25"
        opset = self.facts.opset or FOLDED_OPSET
        if opset < FOLDED_OPSET:
            least = "1.17" if self.precision is Precision.FP16 and opset in (18, 19) else LEAST_RUNTIME[opset]
            # A small ModernBERT, whose LayerNormalization has no bias, ended 1.14 to 1.18 with a crash.
            return max(least, "1.19") if self.facts.unbiased_norms else least
        return "1.24" if self.precision is Precision.INT8 else "1.23"


class EngineFiles:
    """The contents of an engine's files. A backend opens these bytes and never a path of the bundle.

    Whoever makes one has compared the bytes with their hashes, so what was verified is what runs.

    Attributes:
        folder: The folder the files were read from, for messages only.
    """

    def __init__(self, folder: Path, contents: Mapping[str, bytes]) -> None:
        self.folder = folder
        self._contents = dict(contents)

    @classmethod
    def read(cls, engine: Engine, folder: Path) -> EngineFiles:
        """Read the files of an engine that this process has just built into ``folder``."""
        return cls(folder, {name: (folder / name).read_bytes() for name in engine.files})

    def take(self, name: str) -> bytes:
        """Return the content of a file and release it: each file can be taken once.

        Raises:
            KeyError: The engine has no such file, or it was taken before.
        """
        return self._contents.pop(name)


class BackendModule(Protocol):
    """What a module of this package offers."""

    def check_build(self, precision: str, device: str) -> None:
        """Refuse what this backend cannot build here, before any work is done."""
        ...

    def check(self, precision: str, device: str) -> None:
        """Refuse a precision or a device that this backend cannot build for and run here."""
        ...

    def missing_operators(self) -> frozenset[str]:
        """Return the ONNX operators of our graphs that the installed version cannot build."""
        ...

    def build(self, graph: Graph, shapes: Shapes, folder: Path, options: BuildOptions = DEFAULTS) -> Engine:
        """Write the engine's files into ``folder`` and return what the manifest records of it."""
        ...

    def open(
        self, engine: Engine, files: EngineFiles, device: str, threads: int | None, *, spinning: bool = True
    ) -> Runner:
        """Open an engine.

        Args:
            engine: As the manifest records it.
            files: Its files.
            device: ``"cpu"`` or ``"cuda"``.
            threads: CPU threads; None: the engine's default.
            spinning: Whether its threads may keep a core busy while they wait for work.
        """
        ...


def backend_of(name: str) -> BackendModule:
    """Import a backend (a key of ``BACKENDS``)."""
    module, _, attribute = BACKENDS[Backend(name)].partition(":")
    imported = importlib.import_module(module)
    return cast(BackendModule, getattr(imported, attribute) if attribute else imported)


def refuse_idle_options(backend: Backend, options: BuildOptions) -> None:
    """Refuse what a backend would not heed, before any work is done.

    Raises:
        InputError: The option is named.
    """
    given = {
        "workspace_mib": options.workspace_mib is not None,
        "version_compatible": options.version_compatible,
        "hardware_compatible": options.hardware_compatible,
    }
    idle = [option for option, is_given in given.items() if is_given and not backend.needs_gpu]
    if idle:
        names = " and ".join(f"`{option}`" for option in idle)
        raise InputError(f"the {backend} backend does not support {names}", next_step="leave it out")
    if backend is Backend.TENSORRT_RTX and options.version_compatible:
        raise InputError(
            "the tensorrt-rtx backend does not support `version_compatible`: it has no runtime to put into the engine",
            next_step="leave it out, or use `backend=tensorrt`",
        )
