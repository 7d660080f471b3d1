"""export(): from a recipe to a published, verified bundle. The whole story, top to bottom."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from exporter.backends import (
    DEFAULTS,
    BuildOptions,
    Engine,
    backend_of,
    device_of,
    refuse_idle_options,
)
from exporter.bundle import (
    Bundle,
    publish,
    refuse_to_replace_what_is_no_bundle,
    staging,
    withdraw_record,
    write_record,
    writing,
)
from exporter.calibration import TokenBatches, calibration_sentences, calibration_set
from exporter.checkpoint import Checkpoint, load_checkpoint, load_source
from exporter.dependencies import require
from exporter.encoder import Encoder
from exporter.errors import BuildError, GateError, MissingDependencyError
from exporter.folding import fold
from exporter.graph import Graph
from exporter.passes import passes_for, run_passes
from exporter.precisions import QUANTIZATIONS, precision_of, quantization_of
from exporter.publication import Candidate, manifest_of, record_of, write_files
from exporter.quantization.plan import Plan, Request, make_plan
from exporter.quantization.scheme import scheme_of
from exporter.quantization.search import Assignment, describe
from exporter.recipe import Gate, Recipe
from exporter.tokens import TextTokenizer
from exporter.validator import ParityReport, Reference, reference_of, validate


@dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
        precision: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"int8_dynamic"``.
        backend: ``"onnxruntime"``, ``"openvino"``, ``"tensorrt"`` or ``"tensorrt-rtx"``.
        out: Folder of bundles; the bundle is ``out/<recipe>/<precision>-<backend>``.
        device: Where reference and candidate compute, ``"cpu"`` or ``"cuda"``. Engines of TensorRT run on the GPU
            whatever it says.
        checkpoint: A local copy that takes the place of the recipe's source.
        revision: Branch, tag or commit that takes the place of the recipe's.
        pooling: Pooling modes for a checkpoint without ``modules.json``, which states none; several are concatenated.
        calibration: The user's own sentences: audited beside the probes, and what int8 takes its scales from instead
            of those that ship.
        sts: Task sets to score reference and candidate on.
        force: Replace an existing bundle, once the new one has passed.
        unvalidated: Where this machine cannot run the engine, publish it all the same, marked as such.
        build: What is decided about an engine besides graph and shapes.
    """

    precision: str = "fp32"
    backend: str = "onnxruntime"
    out: Path = Path("artifacts")
    device: str = "cpu"
    checkpoint: Path | None = None
    revision: str | None = None
    pooling: tuple[str, ...] | None = None
    calibration: Path | None = None
    sts: tuple[Path, ...] = ()
    force: bool = False
    unvalidated: bool = False
    build: BuildOptions = DEFAULTS


@dataclass
class Stages:
    """What was done, how long it took and what came of it, told to a listener as it happens.

    Attributes:
        on_start: Called with the name of each stage as it begins.
        on_progress: Called with what a long stage is at.
        on_warning: Called with what may make the result worse, and what to do about it.
        done: (name, seconds, result) of each stage that ended.
    """

    on_start: Callable[[str], None] | None = None
    on_progress: Callable[[str], None] | None = None
    on_warning: Callable[[str], None] | None = None
    done: list[tuple[str, float, str]] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[list[str]]:
        """Time a stage; what it appends to the list it is given becomes its result."""
        if self.on_start is not None:
            self.on_start(name)
        result: list[str] = []
        started = time.perf_counter()
        yield result
        self.done.append((name, time.perf_counter() - started, ", ".join(result)))

    def warn(self, warning: str) -> None:
        """Tell the listener what may make the result worse."""
        if self.on_warning is not None:
            self.on_warning(warning)

    def tell(self, detail: str) -> None:
        """Tell the listener what the stage at work is at."""
        if self.on_progress is not None:
            self.on_progress(detail)


def export(recipe: Recipe, options: Options | None = None, stages: Stages | None = None) -> Bundle:
    """Export a checkpoint, prove the result equal to it, and publish it.

    Raises:
        GateError: The result differs by more than the recipe's gates allow; nothing was published.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    options, stages = options or Options(), stages or Stages()
    target = options.out / recipe.name / f"{options.precision}-{options.backend}"
    if options.force:
        refuse_to_replace_what_is_no_bundle(target)
    runs_here = _runs_here(options)
    with staging(target, force=options.force) as folder:
        with stages("load checkpoint") as result:
            checkpoint = load_checkpoint(
                recipe,
                folder=options.checkpoint,
                revision=options.revision,
                pooling=options.pooling,
                device=options.device if runs_here else "cpu",
            )
            result.append(
                f"{checkpoint.architecture}, {', '.join(checkpoint.pooling)} pooling, {checkpoint.dimension}-d"
            )
        with stages("encode the probes with PyTorch") as result:
            reference = reference_of(checkpoint, options.sts)
            batches = _token_batches(checkpoint, reference, options.calibration)
            result.append(f"{len(reference.probes)} probes")
        with stages("fold into one graph") as result:
            graph = fold(checkpoint)
            result.append(f"{len(graph.model.graph)} nodes, {graph.weight_bytes() / 1e6:.1f} MB of weights")
        work = _Work(recipe, options, stages, target, folder, checkpoint, reference, batches, runs_here)
        folded = None
        if (options.precision, options.backend, options.device) != ("fp32", "onnxruntime", "cpu"):
            with stages("gate: the fp32 graph") as result:  # where it is not the very graph that the last gate judges
                folded = _judge_folded(graph, work)
                result.append(folded.summary())
        plan = None
        if options.precision in QUANTIZATIONS:
            with stages("calibrate and search") as result:
                plan = _plan(graph, work)
                result.append(plan.summary())
        judged: list[Candidate] = []
        for assignment in plan.found.ladder if plan is not None else (None,):
            judged.append(_build_and_judge(graph, plan, assignment, folded, work))
            if judged[-1].report.passed:
                break
        _require(judged, folded, plan)
        with stages("publish") as result:
            manifest = manifest_of(
                judged[-1], plan, checkpoint, recipe, batches, device=work.device, runs_here=runs_here
            )
            with writing(target):
                write_files(manifest, judged[-1], plan, checkpoint, folder)
                bundle = publish(manifest, folder, target)
            _ledger(work).unlink(missing_ok=True)
            result.append(f"{bundle.size_bytes / 1e6:.1f} MB in {target}")
    return bundle


def validate_bundle(
    bundle: Bundle, *, checkpoint: Path | None = None, sts: Sequence[Path] = (), device: str | None = None
) -> ParityReport:
    """Repeat a bundle's gate on this machine, against a checkpoint loaded anew.

    Returns:
        The report, passed or not.
    """
    manifest = bundle.manifest
    precision = manifest.engine.precision
    name = f"{manifest.recipe.name} {precision} on {manifest.engine.backend}"
    # The engine first: whether it opens here is known sooner than what PyTorch answers.
    with bundle.encoder(device=device) as candidate:
        reference_model = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
        reference = reference_of(reference_model, sts)
        report = validate(reference, candidate, manifest.recipe.gates.of(precision), name)
    if manifest.validation.state == "pending" and device in (None, manifest.validation.device):
        # On another device than its own, a bundle has shown nothing.
        if report.passed:
            write_record(bundle, record_of(bundle, report))
        else:
            withdraw_record(bundle)
    return report


@dataclass(frozen=True)
class _Work:
    """What the steps of one export share."""

    recipe: Recipe
    options: Options
    stages: Stages
    target: Path
    folder: Path
    checkpoint: Checkpoint
    reference: Reference
    batches: TokenBatches
    runs_here: bool

    @property
    def subject(self) -> str:
        return f"{self.recipe.name} {self.options.precision} on {self.options.backend}"

    @property
    def device(self) -> str:
        """Where the engine runs."""
        return device_of(self.options.backend, self.options.device)

    @property
    def gate(self) -> Gate:
        return self.recipe.gates.of(self.options.precision)


def _runs_here(options: Options) -> bool:
    """Refuse what cannot be done, before any work; return whether this machine can run what it builds.

    If it cannot, only ``unvalidated`` lets it build at all.
    """
    backend, device = backend_of(options.backend), device_of(options.backend, options.device)
    refuse_idle_options(options.backend, options.build)
    if options.precision in QUANTIZATIONS:
        scheme_of(options.precision, options.backend, device)
        require("matplotlib")
    try:
        backend.check(options.precision, device)
    except MissingDependencyError:
        if not options.unvalidated:
            raise
        backend.check_build(options.precision, device)
        return False
    return True


def _token_batches(checkpoint: Checkpoint, reference: Reference, calibration: Path | None) -> TokenBatches:
    """Return what the range audit reads: the probes, and the user's own text where it is given."""
    own = calibration_sentences(calibration, reference.texts) if calibration is not None else ()
    return TokenBatches(tuple(checkpoint.prompt + text for text in (*reference.texts, *own)), checkpoint.tokenizer)


def _judge_folded(graph: Graph, work: _Work) -> ParityReport:
    """Gate 1: the folded graph on ONNX Runtime's CPU provider, to part faults of folding from those of a precision."""
    report = _judge_on_cpu(graph, work.recipe.gates.fp32, f"{work.recipe.name} fp32, as folded", work)
    if not report.passed:
        raise _fault_of_the_export(report)
    return report


def _judge_on_cpu(graph: Graph, gate: Gate, subject: str, work: _Work) -> ParityReport:
    """Judge a graph on ONNX Runtime's CPU provider, from a file that is gone afterwards."""
    runtime = backend_of("onnxruntime")
    with tempfile.TemporaryDirectory(prefix="graph-", dir=work.folder) as scratch:
        with writing(work.target):
            engine = runtime.build(graph, work.recipe.shapes, Path(scratch))
        return _judge_engine(engine, Path(scratch), "cpu", gate, subject, work)


def _judge_engine(engine: Engine, folder: Path, device: str, gate: Gate, subject: str, work: _Work) -> ParityReport:
    checkpoint = work.checkpoint
    encoder = Encoder(
        checkpoint.tokenizer,
        backend_of(engine.backend).open(engine, folder, device, None),
        dimension=checkpoint.dimension,
        max_seq_length=checkpoint.max_seq_length,
        prompt=checkpoint.prompt,
    )
    with encoder:
        return validate(work.reference, encoder, gate, subject)


def _plan(graph: Graph, work: _Work) -> Plan:
    """Calibrate and search. What is known so far lies beside the bundle's place until it is published."""
    options, checkpoint = work.options, work.checkpoint
    text = calibration_set(options.calibration, work.reference.texts, checkpoint.tokenizer, checkpoint.prompt)
    for warning in text.warnings:
        work.stages.warn(warning)
    request = Request(
        scheme=scheme_of(options.precision, options.backend, work.device),
        calibration=text,
        gate=work.gate,
        keep_high=getattr(work.recipe.precision, options.precision).keep_high,
        ledger=_ledger(work),
    )
    return make_plan(graph, request, work.stages.tell)


def _ledger(work: _Work) -> Path:
    return work.target.with_name(f".{work.target.name}.search.json")


def _build_and_judge(
    graph: Graph, plan: Plan | None, assignment: Assignment | None, folded: ParityReport | None, work: _Work
) -> Candidate:
    """Type, build, and gate 2: hold the engine against the reference."""
    options, stages = work.options, work.stages
    if options.precision != "fp32":
        with stages(f"type as {options.precision}") as result:
            graph = _typed(graph, plan, assignment, work)
            result.append(f"{graph.weight_bytes() / 1e6:.1f} MB of weights")
    with stages(f"build for {options.backend}") as result:
        graph = _for_target(graph, work)
        with writing(work.target):
            engine = backend_of(options.backend).build(graph, work.recipe.shapes, work.folder, _build_options(work))
        result.append(", ".join(engine.files))
    with stages(
        f"gate: {options.precision} on {options.backend if work.runs_here else 'the CPU, uncompiled'}"
    ) as result:
        if work.runs_here:
            report = _judge_engine(engine, work.folder, work.device, work.gate, work.subject, work)
        else:
            report = _judge_uncompiled(graph, folded, work)
        result.append(report.summary())
    return Candidate(graph, engine, report, assignment)


def _typed(graph: Graph, plan: Plan | None, assignment: Assignment | None, work: _Work) -> Graph:
    """Return the graph in the precision asked for."""
    precision = work.options.precision
    if plan is not None and assignment is not None:
        return quantization_of(precision).convert(plan, assignment, work.batches)
    keep = getattr(work.recipe.precision, precision).keep_fp32
    return precision_of(precision).convert(graph, work.batches, keep)


def _for_target(graph: Graph, work: _Work) -> Graph:
    backend, device = work.options.backend, work.device
    padding, missing = TextTokenizer(work.checkpoint.tokenizer).padding, backend_of(backend).missing_operators()
    passes = passes_for(backend, device, graph.precision, padding=padding, missing=missing)
    if not passes:
        return graph
    model = graph.editable()
    changes = run_passes(model, passes)
    done = ", ".join(f"{name} {count}" for name, count in changes.items())
    return graph.with_model(model, decisions=(f"passes for {backend} on {device}: {done}",))


def _build_options(work: _Work) -> BuildOptions:
    """Add where timings are kept, beside the bundle for all of the backend's precisions, and who hears of progress."""
    cache = work.target.parent / f".{work.options.backend}.timings"
    return replace(work.options.build, timing_cache=cache, on_progress=work.stages.on_progress)


def _judge_uncompiled(graph: Graph, folded: ParityReport | None, work: _Work) -> ParityReport:
    """Judge the graph that an engine was built from on ONNX Runtime's CPU provider, where the engine cannot run.

    Where that provider cannot run it either (bfloat16), the report of the fp32 graph, ``folded``, is all there is.
    """
    try:
        backend_of("onnxruntime").check(graph.precision, "cpu")
    except BuildError:
        if folded is None:
            raise
        return folded
    subject = f"{work.recipe.name} {graph.precision}, the graph the engine was built from"
    return _judge_on_cpu(graph, work.gate, subject, work)


def _require(judged: Sequence[Candidate], folded: ParityReport | None, plan: Plan | None) -> None:
    """Stop here unless every bound held at last.

    Args:
        judged: Every candidate, in order.
        folded: The report of the fp32 graph, where that has passed already.
        plan: What int8 was to be, where it was.
    """
    if judged[-1].report.passed:
        return
    nearest = max(judged, key=lambda candidate: np.nan_to_num(candidate.report.statistics["min_cosine"], nan=-1.0))
    closest, assignment = nearest.report, nearest.assignment
    if folded is None:
        raise _fault_of_the_export(closest)
    message = (
        f"{closest.failure()}\n"
        f"  the fp32 graph passed at {folded.summary()}, so the export is sound and precision or engine are not"
    )
    next_step = "another precision or backend, or more of the graph in fp32 (recipe: precision.<name>.keep_fp32)"
    if plan is not None and assignment is not None:
        kept = describe(plan.request.scheme, assignment, plan.products)
        message += f"\n  the closest of {len(judged)} assignments: {kept}"
        message += "".join(f"\n  calibration text: {warning}" for warning in plan.request.calibration.warnings)
        next_step = "--calibration FILE with text of the kind the model will read, or --fp16"
    raise GateError(message, report=closest.to_dict(), next_step=next_step)


def _fault_of_the_export(report: ParityReport) -> GateError:
    return GateError(
        report.failure(),
        report=report.to_dict(),
        next_step="the export itself is at fault, no precision setting will mend it",
    )
