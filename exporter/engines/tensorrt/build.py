"""TensorRT and TensorRT-RTX: one engine for one kind of GPU, or for several, compiled from a typed graph.

The two have one API under two module names, so one class serves both. Types come from the graph alone (networks are
strongly typed), which is all that TensorRT 11 has and what 10 calls ``STRONGLY_TYPED``.

Polygraphy parses, configures and builds. TensorRT's own API is used where Polygraphy has nothing that serves both:

- attention by lengths: the parser of ONNX drops ``nonpad_kv_seqlen`` without a word, so ``key_value_lengths`` is set on
  the parsed network;
- the target of TensorRT-RTX (``set_compute_capability``), which only Polygraphy's class without the TF32 switch has;
- timings: TensorRT-RTX takes none (it chooses kernels where it runs), and warns of the empty cache Polygraphy sets;
- running: its runner copies from pageable memory, enqueues anew for every batch and calls itself no runner for
  production (see ``tensorrt_runner.py``).

Polygraphy serves one of the two modules in a process, the one it was first imported for. Opening engines does not
depend on it.

Sources: https://docs.nvidia.com/deeplearning/tensorrt/ and https://docs.nvidia.com/deeplearning/tensorrt-rtx/
"""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.dependencies import require
from exporter.engines import DEFAULTS, BuildOptions, Engine, EngineFiles
from exporter.engines.cuda import Cuda, Gpu, find_gpu
from exporter.engines.facts import EngineFacts
from exporter.engines.tensorrt.profiles import Profile, profiles_of
from exporter.engines.tensorrt.runner import TensorRtRunner
from exporter.engines.tensorrt.summary import summary_of
from exporter.errors import BuildError, BundleError, MissingDependencyError
from exporter.recipe import Shapes
from exporter.runtime.contract import INPUTS
from exporter.targets import Backend

if TYPE_CHECKING:
    from exporter.graph import Graph

PLAN, LOG = "model.engine", "builder.log"
_PARSER_ERROR = re.compile(
    r"In node \d+ with name: (?P<name>.*?) and operator: (?P<operator>\w+) \(\w+\): (?P<why>.*)", re.DOTALL
)


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
        if device != "cuda":
            raise MissingDependencyError(
                f"{self.name} engines run on a GPU, not on {device}", next_step="use `device=cuda`, or another backend"
            )
        if find_gpu() is None:
            raise MissingDependencyError(
                f"{self.name} engines run on an NVIDIA GPU and there is none here, so the gate cannot be judged",
                next_step="export on a machine with a GPU, or export with `unvalidated` and validate the bundle on one",
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
        with _builder_log(folder / LOG) as errors, _interruptible() as interrupted:
            polygraphy = self._polygraphy()
            monitor = _progress_monitor(trt, options.on_progress, interrupted)
            try:
                builder, network, _ = polygraphy.network_from_onnx_bytes(graph.to_bytes(), strongly_typed=True)
                attention = _restore_lengths(trt, network, _lengths_wanted(graph))
                plan = polygraphy.EngineBytesFromNetwork(
                    (builder, network),
                    config=self._config(trt, polygraphy, profiles, portable, options, monitor),
                    save_timing_cache=str(cache) if cache is not None else None,
                )()
            except require("polygraphy.exception").PolygraphyException as error:
                if interrupted.is_set():
                    raise KeyboardInterrupt from error
                raise BuildError(
                    f"{self.name} cannot build the graph: {_cause(errors) or error}",
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
            f"network: {_network_summary(network)}",
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
    ) -> TensorRtRunner:
        """Open an engine on the GPU it was built for.

        Raises:
            MissingDependencyError: The package or a GPU is not there, or ``device`` is the CPU.
            BundleError: The engine was built for another version or GPU than this machine has, or its manifest lacks
                facts that are needed to open it.
        """
        trt = require(self.module)
        if device != "cuda":
            raise MissingDependencyError(
                f"{self.name} engines run on a GPU, not on {device}", next_step="use `device=cuda`, or another backend"
            )
        cuda = Cuda.load()
        gpu, path = cuda.gpu(), files.folder / engine.files[0]
        refuse_elsewhere(engine, path, trt.__version__, gpu)
        cuda.enter()
        logger = _collecting_logger(trt)
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


def _lengths_wanted(graph: Graph) -> int:
    """Count the attentions of a graph that take lengths."""
    nodes = [node for node in graph.model.graph if node.op_type == "Attention" and len(node.inputs) > 6]
    return sum(node.inputs[6] is not None for node in nodes)


def _restore_lengths(trt: Any, network: Any, wanted: int) -> str:
    """Give every attention of the network the lengths that the parser dropped; returns what attention is now.

    ``key_value_lengths`` is int32 (batch,): the sum of ``attention_mask`` over each row. Without it padding would be
    attended to.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        network: As parsed.
        wanted: How many attentions of the graph take lengths.

    Raises:
        BuildError: Another number of attentions than ``wanted`` came to have lengths.
    """
    attentions = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # The binding returns layers of a parsed network by their base class, which has no ``attention``.
            layer.__class__ = trt.IAttentionInputLayer
            attentions.append(layer.attention)
    if wanted:
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        short = network.add_cast(next(tensor for tensor in inputs if tensor.name == INPUTS[1]), trt.int32)
        lengths = network.add_reduce(short.get_output(0), trt.ReduceOperation.SUM, axes=1 << 1, keep_dims=False)
        short.name, lengths.name = "lengths/Cast.int32", "lengths/ReduceSum.int32"
        for attention in attentions:
            if attention.mask is None:
                attention.key_value_lengths = lengths.get_output(0)
    limited = sum(attention.key_value_lengths is not None for attention in attentions) if wanted else 0
    if limited != wanted:
        raise BuildError(
            f"{wanted} attentions of the graph take lengths, and {limited} of the network came to have them"
        )
    masked = sum(attention.mask is not None for attention in attentions)
    return f"{len(attentions)} operators, {limited} of them by lengths, {masked} with a mask"


def _network_summary(network: Any) -> str:
    """Count the layers of a network by the type of their first output."""
    counts: dict[str, int] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            kind = layer.get_output(0).dtype.name.lower()
            counts[kind] = counts.get(kind, 0) + 1
    by_type = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{network.num_layers} layers before fusion ({by_type})"


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


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Note SIGINT in the event it yields: an exception within the builder's callbacks would be lost there."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt


def _progress_monitor(trt: Any, tell: Callable[[str], None] | None, interrupted: threading.Event) -> Any:
    """Return a monitor that tells phases as ``"Building engine 3/6"``, and ends the build when it is interrupted."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self._steps[phase_name] = num_steps
            if tell is not None:
                tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if tell is not None:
                tell(f"{phase_name} {step + 1}/{self._steps.get(phase_name, step + 1)}")
            return not interrupted.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _collecting_logger(trt: Any) -> Any:
    """Return a logger that keeps errors and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg)

    return Logger()


def _inspect(trt: Any, engine: Any) -> str:
    inspected: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return inspected


class _Collector(logging.Handler):
    """Keeps what is an error."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        self._errors.append(record.getMessage())


@contextmanager
def _builder_log(path: Path) -> Iterator[list[str]]:
    """Have Polygraphy write to ``path`` instead of stdout; yields the errors, which grow as they come."""
    polygraphy: Any = require("polygraphy.logger").G_LOGGER
    logger = logging.getLogger("Polygraphy")
    errors: list[str] = []
    file, collector = logging.FileHandler(path, encoding="utf-8"), _Collector(errors)
    before = (polygraphy.use_python_logging_system, polygraphy.module_severity, polygraphy.colors)
    outer = (logger.level, logger.propagate)
    polygraphy.use_python_logging_system, polygraphy.module_severity = True, polygraphy.VERBOSE
    polygraphy.colors = False  # it would ask for a package that has them
    logger.setLevel(polygraphy.VERBOSE)
    logger.propagate = False
    logger.addHandler(file)
    logger.addHandler(collector)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # between Polygraphy and TensorRT
            yield errors
    finally:
        logger.removeHandler(collector)
        logger.removeHandler(file)
        file.close()
        polygraphy.use_python_logging_system, polygraphy.module_severity, polygraphy.colors = before
        logger.level, logger.propagate = outer


def _cause(errors: Sequence[str]) -> str | None:
    """Return what the parser says of a node, or else the first error of the builder."""
    for message in errors:
        found = _PARSER_ERROR.search(message)
        if found:
            return f"{found['name']} ({found['operator']}): {_shorter(found['why'])}"
    return _shorter(errors[0]) if errors else None


def _shorter(message: str) -> str:
    """Return the first line that says something: that a node is invalid is explained by the next."""
    lines = [line.strip() for line in message.removeprefix("[E] ").splitlines()]
    return next(
        (line for line in lines if line and not line.startswith(("[E]", "INVALID_NODE: Invalid Node -"))), message
    )
