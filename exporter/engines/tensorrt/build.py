"""TensorRT and TensorRT-RTX: one engine for one kind of GPU, or for several, compiled from a typed graph.

The two have one API under two module names, so one class serves both. Types come from the graph alone (networks are
strongly typed), which is all that TensorRT 11 has and what 10 calls ``STRONGLY_TYPED``.

Polygraphy parses, configures and builds. TensorRT's own API is used where Polygraphy has nothing that serves both:

- attention by lengths: the parser of ONNX drops ``nonpad_kv_seqlen`` without a word, so ``key_value_lengths`` is set on
  the parsed network;
- the target of TensorRT-RTX (``set_compute_capability``), which only Polygraphy's class without the TF32 switch has;
- timings: TensorRT-RTX takes none (it chooses kernels where it runs), and warns of the empty cache Polygraphy sets;
- running: its runner copies from pageable memory, enqueues anew for every batch and calls itself no runner for
  production (see ``runner.py``).

Polygraphy serves one of the two modules in a process, the one it was first imported for. Opening engines does not
depend on it.

Sources: https://docs.nvidia.com/deeplearning/tensorrt/ and https://docs.nvidia.com/deeplearning/tensorrt-rtx/
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.dependencies import require
from exporter.engines import DEFAULTS, BuildOptions, Engine, EngineFiles
from exporter.engines.cuda import Cuda, Gpu, find_gpu
from exporter.engines.facts import EngineFacts
from exporter.engines.tensorrt.network import lengths_wanted, network_summary, restore_lengths
from exporter.engines.tensorrt.profiles import Profile, profiles_of
from exporter.engines.tensorrt.runner import TensorRtRunner
from exporter.engines.tensorrt.summary import summary_of
from exporter.engines.tensorrt.watching import (
    builder_log,
    cause_of,
    collecting_logger,
    interruptible,
    progress_monitor,
)
from exporter.errors import BuildError, BundleError, MissingDependencyError
from exporter.recipe import Shapes
from exporter.runtime.contract import INPUTS
from exporter.targets import Backend

if TYPE_CHECKING:
    from exporter.graph import Graph

PLAN, LOG = "model.engine", "builder.log"


@dataclass(frozen=True)
class TensorRt:
    """One of the two.

    Attributes:
        name: Key of ``BACKENDS``.
        module: What Python imports.
    """

    name: str
    module: str

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX, which compiles kernels where it runs and so builds without a GPU."""
        return self.module == "tensorrt_rtx"

    def check_build(self, precision: str, device: str) -> None:  # noqa: ARG002 - it builds every precision
        """Refuse a machine that cannot build: TensorRT times its kernels on the GPU, TensorRT-RTX does not.

        Raises:
            MissingDependencyError: The package or, for TensorRT, a GPU is not there.
        """
        require(self.module)
        require("polygraphy", self.name)
        if not self.is_rtx and find_gpu() is None:
            raise MissingDependencyError(
                "tensorrt builds an engine on the GPU that will run it, and there is none here",
                next_step="use `backend=tensorrt-rtx` with `unvalidated`, which builds without a GPU",
            )

    def check(self, precision: str, device: str) -> None:
        """Refuse a machine that cannot build and run, so that the gate can be judged.

        Raises:
            MissingDependencyError: The package or a GPU is not there, or ``device`` is the CPU.
        """
        self.check_build(precision, device)
        self._refuse_cpu(device)
        if find_gpu() is None:
            raise MissingDependencyError(
                f"{self.name} engines run on an NVIDIA GPU and there is none here, so the gate cannot be judged",
                next_step="export on a machine with a GPU, or export with `unvalidated` and validate the bundle on one",
            )

    def _refuse_cpu(self, device: str) -> None:
        if device != "cuda":
            raise MissingDependencyError(
                f"{self.name} engines run on a GPU, not on {device}", next_step="use `device=cuda`, or another backend"
            )

    def missing_operators(self) -> frozenset[str]:
        """Return what older versions of TensorRT 10 lack: ``Attention``, or its input ``nonpad_kv_seqlen``."""
        attention = getattr(require(self.module), "IAttention", None)
        lengths = hasattr(attention, "key_value_lengths")
        return frozenset({"Attention"} if attention is None else set() if lengths else {"nonpad_kv_seqlen"})

    def build(self, graph: Graph, shapes: Shapes, folder: Path, options: BuildOptions = DEFAULTS) -> Engine:
        """Compile ``graph`` to ``model.engine``, and write what the builder said to ``builder.log``.

        Raises:
            BuildError: The parser or the builder refuses the graph; the node is named.
            MissingDependencyError: A package is not installed.
        """
        trt = require(self.module)
        profiles = profiles_of(shapes, graph.max_sequence)
        gpu = find_gpu()
        portable = options.hardware_compatible or (self.is_rtx and gpu is None)
        cache = None if self.is_rtx else options.timing_cache
        with builder_log(folder / LOG) as errors, interruptible() as interrupted:
            polygraphy = self._polygraphy()
            monitor = progress_monitor(trt, options.on_progress, interrupted)
            try:
                builder, network, _ = _parsed(polygraphy, graph)
                attention = restore_lengths(trt, network, lengths_wanted(graph))
                plan = polygraphy.EngineBytesFromNetwork(
                    (builder, network),
                    config=self._config(trt, polygraphy, profiles, portable, options, monitor),
                    save_timing_cache=str(cache) if cache is not None else None,
                )()
            except require("polygraphy.exception").PolygraphyException as error:
                if interrupted.is_set():
                    raise KeyboardInterrupt from error
                raise BuildError(
                    f"{self.name} cannot build the graph: {cause_of(errors) or error}",
                    next_step="use another precision or backend",
                ) from error
        (folder / PLAN).write_bytes(plan)
        facts = EngineFacts(
            version=trt.__version__,
            compute_capability=None if portable or gpu is None else gpu.compute_capability,
            gpu=None if gpu is None else gpu.name,
            driver=None if gpu is None else gpu.driver,
            version_compatible=options.version_compatible,
            padding=graph.padding,
            profiles=profiles,
            lengths=graph.lengths,
        )
        decisions = (
            f"{len(profiles)} optimization profiles (rows x tokens): "
            + ", ".join("{0}..{2} x {3}..{5}".format(*p.batch, *p.sequence) for p in profiles),
            f"attention: {attention}",
            f"network: {network_summary(network)}",
        )
        return Engine(
            backend=Backend(self.name), precision=graph.precision, files=(PLAN, LOG), facts=facts, decisions=decisions
        )

    def open(
        self,
        engine: Engine,
        files: EngineFiles,
        device: str = "cuda",
        threads: int | None = None,  # noqa: ARG002 - no CPU threads to set
        *,
        spinning: bool = True,  # noqa: ARG002
    ) -> TensorRtRunner:
        """Open an engine on the GPU it was built for.

        Raises:
            MissingDependencyError: The package or a GPU is not there, or ``device`` is the CPU.
            BundleError: The engine was built for another version or GPU than this machine has, or its manifest lacks
                facts that are needed to open it.
        """
        trt = require(self.module)
        self._refuse_cpu(device)
        cuda = Cuda.load()
        gpu, path = cuda.gpu(), files.folder / engine.files[0]
        refuse_elsewhere(engine, path, trt.__version__, gpu)
        cuda.enter()
        logger = collecting_logger(trt)
        runtime = trt.Runtime(logger)
        if engine.facts.version_compatible:
            runtime.engine_host_code_allowed = True  # such a plan carries the runtime of its version
        opened = runtime.deserialize_cuda_engine(files.take(engine.files[0]))
        if opened is None:
            cuda.close()
            built = engine.facts.gpu or "no GPU at hand"
            raise BundleError(
                f"{path}: {self.name} {trt.__version__} on {gpu.name} (compute capability {gpu.compute_capability}, "
                f"driver {gpu.driver}) cannot open it; it was built with {engine.facts.version} and {built}: "
                f"{'; '.join(logger.errors) or 'no reason given'}",
                next_step="export it again on this machine",
            )
        summary = summary_of(_inspect(trt, opened))
        return TensorRtRunner(
            trt,
            opened,
            keep_alive=(runtime, logger),
            cuda=cuda,
            profiles=engine.facts.profiles,
            right_padded=engine.facts.right_padded,
            execution=f"{self.name} {trt.__version__} on {gpu.name}; {summary}",
        )

    def _polygraphy(self) -> Any:
        """Import Polygraphy's TensorRT room for this module.

        Which of the two it drives is a variable of its configuration that its modules read as they are imported.
        """
        require("polygraphy", self.name)
        config: Any = require("polygraphy.config")
        if "polygraphy.backend.trt" not in sys.modules:
            config.USE_TENSORRT_RTX = self.is_rtx
        elif self.is_rtx != config.USE_TENSORRT_RTX:
            raise BuildError(
                f"this process already uses another TensorRT than {self.name}, and Polygraphy supports one",
                next_step="build in a new process",
            )
        return require("polygraphy.backend.trt")

    def _config(
        self,
        trt: Any,
        polygraphy: Any,
        profiles: Sequence[Profile],
        portable: bool,
        options: BuildOptions,
        monitor: Any,
    ) -> Any:
        """Return Polygraphy's recipe of an IBuilderConfig. It switches TF32 off: fp32 promises more than ten bits."""
        level = trt.HardwareCompatibilityLevel.AMPERE_PLUS if portable and not self.is_rtx else None
        workspace = {} if options.workspace_mib is None else {trt.MemoryPoolType.WORKSPACE: options.workspace_mib << 20}
        cache = None if self.is_rtx else options.timing_cache
        config = polygraphy.CreateConfig(
            profiles=[_polygraphy_profile(polygraphy, profile) for profile in profiles],
            memory_pool_limits=workspace or None,
            version_compatible=options.version_compatible,
            hardware_compatibility_level=level,
            load_timing_cache=str(cache) if cache is not None and cache.is_file() else None,
            progress_monitor=monitor,
        )
        return polygraphy.PostprocessConfig(config, _target_this_gpu(trt)) if self.is_rtx and not portable else config


TENSORRT = TensorRt("tensorrt", "tensorrt")
TENSORRT_RTX = TensorRt("tensorrt-rtx", "tensorrt_rtx")


def _parsed(polygraphy: Any, graph: Graph) -> tuple[Any, Any, Any]:
    """Parse a graph and return TensorRT's builder, network and parser."""
    with graph.as_file() as file:
        if isinstance(file, Path):
            parsed: tuple[Any, Any, Any] = polygraphy.network_from_onnx_path(str(file), strongly_typed=True)
        else:
            parsed = polygraphy.network_from_onnx_bytes(file, strongly_typed=True)
        return parsed


def refuse_elsewhere(engine: Engine, path: Path, version: str, gpu: Gpu) -> None:
    """Refuse an engine that was built for another version or another GPU, before it is loaded.

    Args:
        engine: From the manifest.
        path: File of the engine, for the message.
        version: Of the installed TensorRT.
        gpu: The GPU here.

    Raises:
        BundleError: With both values.
    """
    facts = engine.facts
    built_for = facts.compute_capability
    if facts.version is None or not facts.profiles:
        raise BundleError(
            f"{path}: its manifest does not state the version and the profiles of the engine",
            next_step="export it again",
        )
    if facts.version != version and not facts.version_compatible:
        raise BundleError(
            f"{path}: built with {engine.backend} {facts.version}, and this machine has {version}",
            next_step=f"install {facts.version}, export it again here, or export it with `version_compatible`",
        )
    if built_for is not None and built_for != gpu.compute_capability:
        raise BundleError(
            f"{path}: built for compute capability {built_for} ({facts.gpu}, driver {facts.driver}), and this "
            f"machine has {gpu.compute_capability} ({gpu.name}, driver {gpu.driver})",
            next_step="export it again here, or export it with `hardware_compatible`",
        )


def _polygraphy_profile(polygraphy: Any, profile: Profile) -> Any:
    made = polygraphy.Profile()
    least, tuned, most = profile.shapes()
    for name in INPUTS:
        made.add(name, min=least, opt=tuned, max=most)
    return made


def _target_this_gpu(trt: Any) -> Callable[[Any, Any, Any], None]:
    def target(builder: Any, network: Any, config: Any) -> None:  # noqa: ARG001 - Polygraphy's signature
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)

    return target


def _inspect(trt: Any, engine: Any) -> str:
    inspected: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return inspected
