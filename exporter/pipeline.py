"""From a recipe to a published bundle that is proven equal to its checkpoint: the whole story, top to bottom."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from exporter.bundle import TOKENIZER, Bundle
from exporter.bundle.atomic import staging, writing
from exporter.bundle.publish import publish, refuse_to_replace_other_files
from exporter.calibration import TokenBatches, calibration_sentences
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.engines import BuildOptions, backend_of, refuse_idle_options
from exporter.engines.building import BuiltEngine, build_engine, build_on_cpu, with_target_passes
from exporter.errors import BuildError, CheckpointError, GateError, MissingDependencyError
from exporter.graph import Graph
from exporter.graph.folding import fold
from exporter.options import ExportOptions
from exporter.precisions import Conversion, ConversionRequest, precision_of
from exporter.publication import Judged, manifest_of, write_files, write_tokenizer
from exporter.recipe import Gate, Recipe
from exporter.runtime.encoder import Encoder
from exporter.runtime.runner import Runner
from exporter.runtime.tokens import TextTokenizer
from exporter.stages import Stages
from exporter.targets import Backend, Device, Padding, Precision, Target
from exporter.validator import Check, ParityReport, Reference, reference_of, validate
from exporter.validator.proof import Proof, as_read_by, stored_graph
from exporter.validator.provenance import check_graph, read_onnx
from exporter.validator.sweeps.inputs import WIDTH_TOKENS

_AS_FOLDED = Target(Precision.FP32, Backend.ONNXRUNTIME, Device.CPU)
"""The target whose engine is the folded graph itself."""


def export(recipe: Recipe, options: ExportOptions | None = None, stages: Stages | None = None) -> Bundle:
    """Export a checkpoint, prove the result equal to it, and publish it.

    Raises:
        GateError: The result differs by more than the recipe's gates allow; nothing was published.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    job = _accept(recipe, options or ExportOptions(), stages or Stages())
    with staging(job.place, force=job.options.force) as folder:
        subject = _load(job, folder)
        graph = _fold(subject)
        proven = with_target_passes(graph, job.target, subject.padding)
        folded = _judge_float32(proven, subject)
        conversion = _prepare(graph, subject)
        built = _build(conversion, subject)
        checks = _check_files(built, proven if folded is not None else None, subject)
        report = _judge(built, conversion, folded, checks, subject)
        return _publish(Judged(built.graph, built.engine, report, folded), conversion, subject)


@dataclass(frozen=True)
class _Job:
    """What is asked for.

    Attributes:
        recipe: The model, and what its export must prove.
        options: How to export.
        stages: Who is told about progress.
        runs_here: Whether this machine can run the engine. If not, the graph is judged instead.
    """

    recipe: Recipe
    options: ExportOptions
    stages: Stages
    runs_here: bool

    @property
    def target(self) -> Target:
        return self.options.target

    @property
    def place(self) -> Path:
        """The folder of the bundle."""
        return self.options.out / self.recipe.name / f"{self.target.precision}-{self.target.backend}"

    @property
    def gate(self) -> Gate:
        return self.recipe.gates.of(self.target.precision)

    @property
    def ledger(self) -> Path:
        """The results of a search, kept beside the bundle until it is published."""
        return self.place.with_name(f".{self.place.name}.search.json")

    @property
    def runs_on(self) -> str:
        """What runs the built engine."""
        return self.target.backend if self.runs_here else "the CPU, uncompiled"


@dataclass(frozen=True)
class _Subject:
    """A job with its checkpoint, and what the checkpoint answers.

    Attributes:
        job: What is asked for.
        folder: The staging folder.
        checkpoint: The FP32 PyTorch model.
        reference: Its vectors of the probes.
        proof: The checks against it.
        text: Sentences for an audit of activations: the probes, and the user's own.
    """

    job: _Job
    folder: Path
    checkpoint: Checkpoint
    reference: Reference
    proof: Proof
    text: TokenBatches

    @property
    def padding(self) -> str:
        """The side on which the tokenizer pads."""
        return TextTokenizer(self.checkpoint.tokenizer).padding


# --- before any work -------------------------------------------------------------------------------------------------


def _accept(recipe: Recipe, options: ExportOptions, stages: Stages) -> _Job:
    """Refuse what cannot be done, before any work. Without ``unvalidated``, the engine must run on this machine."""
    target, backend = options.target, backend_of(options.backend)
    refuse_idle_options(target.backend, _build_options(options))
    precision_of(target.precision).check(target)
    runs_here = True
    try:
        backend.check(target.precision, target.device)
    except MissingDependencyError:
        if not options.unvalidated:
            raise
        backend.check_build(target.precision, target.device)
        runs_here = False
    job = _Job(recipe, options, stages, runs_here)
    if options.force:
        refuse_to_replace_other_files(job.place)
    return job


def _build_options(options: ExportOptions) -> BuildOptions:
    return BuildOptions(
        workspace_mib=options.workspace_mib,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
    )


# --- the checkpoint, its answers, its graph --------------------------------------------------------------------------


def _load(job: _Job, folder: Path) -> _Subject:
    """Load the checkpoint, and encode the probes with PyTorch."""
    options, stages = job.options, job.stages
    with stages("load checkpoint") as stage:
        checkpoint = load_checkpoint(
            job.recipe,
            folder=options.checkpoint,
            revision=options.revision,
            pooling=options.pooling,
            device=options.device if job.runs_here else Device.CPU,
        )
        pooling = ", ".join(checkpoint.facts.pooling)
        stage.result = f"{checkpoint.facts.architecture}, {pooling} pooling, {checkpoint.facts.dimension}-d"
    with stages("encode the probes with PyTorch") as stage:
        reference = reference_of(checkpoint, options.sts, job.target.precision)
        text = _audit_text(checkpoint, reference, options.calibration)
        stage.result = f"{len(reference.probes)} probes"
    return _Subject(job, folder, checkpoint, reference, Proof(checkpoint, reference.texts, job.recipe.shapes), text)


def _audit_text(checkpoint: Checkpoint, reference: Reference, calibration: Path | None) -> TokenBatches:
    """Return the text of a range audit: the probes, and the user's own sentences if there are any."""
    own = calibration_sentences(calibration, reference.texts) if calibration is not None else ()
    return TokenBatches(
        tuple(checkpoint.facts.prompt + text for text in (*reference.texts, *own)), checkpoint.tokenizer
    )


def _fold(subject: _Subject) -> Graph:
    """Fold the checkpoint into one graph, after its tokenizer was compared with the checkpoint's own files."""
    with subject.job.stages("fold into one graph") as stage:
        graph = fold(subject.checkpoint)
        stage.result = f"{len(graph.model.graph)} nodes, {graph.weight_bytes() / 1e6:.1f} MB of weights"
    check = subject.proof.tokenizer(subject.checkpoint.tokenizer)
    if not check.passed:
        raise CheckpointError(
            f"{subject.checkpoint.source}: transformers loads another tokenizer than the checkpoint's files say: "
            f"{check.failures[0]}",
            next_step="correct tokenizer_config.json, or save the checkpoint again with SentenceTransformer.save",
        )
    return graph


def _judge_float32(graph: Graph, subject: _Subject) -> ParityReport | None:
    """Gate 1: judge the folded graph, after the passes of its target, in float32 on ONNX Runtime's CPU provider.

    It separates export errors from rounding: no other precision judges folding and passes. None is returned where
    gate 2 judges this very graph.

    Raises:
        GateError: The export is wrong.
    """
    job, proof = subject.job, subject.proof
    if job.target == _AS_FOLDED:
        return None
    gate = job.recipe.gates.fp32
    with _opened_on_cpu(graph, subject) as runner:
        encoder = Encoder.of(subject.checkpoint.facts, subject.checkpoint.tokenizer, runner)
        with job.stages("gate: the fp32 graph") as stage:
            report = validate(subject.reference, encoder, gate, f"{job.recipe.name} fp32, before it is typed")
            stage.result = report.summary()
        with job.stages("sweep: the fp32 graph") as stage:
            weights = proof.weights(read_onnx(graph.model, "the folded graph"), graph.precision)
            dataflow, lookup = proof.dataflow(graph), proof.lookup(graph)
            # Gate 2 sweeps the widths of what is published.
            swept = _sweep(encoder, graph, gate, subject, tables_proven=weights.passed, width_tokens=0)
            stage.result = f"{dataflow.coverage}; {swept.coverage}"
    report = report.with_checks(weights, dataflow, lookup, swept)
    if not report.passed:
        raise _export_error(report)
    return report


# --- the engine ------------------------------------------------------------------------------------------------------


def _prepare(graph: Graph, subject: _Subject) -> Conversion:
    """Prepare the conversion to the target's precision. For int8: calibrate and search."""
    job, checkpoint = subject.job, subject.checkpoint
    request = ConversionRequest(
        graph=graph,
        target=job.target,
        recipe=job.recipe,
        text=subject.text,
        probes=tuple(subject.reference.texts),
        tokenizer=checkpoint.tokenizer,
        prompt=checkpoint.facts.prompt,
        calibration=job.options.calibration,
        ledger=job.ledger,
        stages=job.stages,
    )
    return precision_of(job.target.precision).prepare(request)


def _build(conversion: Conversion, subject: _Subject) -> BuiltEngine:
    """Build the engine of each candidate, until the conversion yields no other. The last one is returned."""
    job = subject.job
    built: BuiltEngine | None = None
    for candidate in conversion.candidates():
        if job.target.precision is Precision.FP32:
            graph = candidate.convert()
        else:
            with job.stages(f"type as {job.target.precision}") as stage:
                graph = candidate.convert()
                stage.result = f"{graph.weight_bytes() / 1e6:.1f} MB of weights"
        built = _build_one(graph, subject)
        if candidate.compare is not None:
            name = f"held-out text: {job.target.precision} on {job.runs_on}"
            with job.stages(name) as stage, _opened(built, subject) as runner:
                stage.result = candidate.compare(runner)
    if built is None:
        raise BuildError(f"{job.target}: there is no graph to build from", next_step="another precision")
    return built


def _build_one(graph: Graph, subject: _Subject) -> BuiltEngine:
    job = subject.job
    # Kernel timings are shared by all precisions of a backend.
    timings = job.place.parent / f".{job.target.backend}.timings"
    options = replace(_build_options(job.options), timing_cache=timings, on_progress=job.stages.on_progress)
    with job.stages(f"build for {job.target.backend}") as stage:
        with writing(job.place):
            built = build_engine(
                graph, job.target, job.recipe.shapes, subject.folder, padding=subject.padding, options=options
            )
        stage.result = ", ".join(built.engine.files)
    return built


@contextmanager
def _opened_on_cpu(graph: Graph, subject: _Subject) -> Iterator[Runner]:
    """Open a graph on ONNX Runtime's CPU provider, from a file that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="graph-", dir=subject.folder) as scratch:
        with writing(subject.job.place):
            built = build_on_cpu(graph, subject.job.recipe.shapes, Path(scratch))
        with built.open() as runner:
            yield runner


@contextmanager
def _opened(built: BuiltEngine, subject: _Subject) -> Iterator[Runner]:
    """Open the engine, or, where it cannot run here, the graph that it was built from."""
    if subject.job.runs_here:
        with built.open(subject.job.target.device) as runner:
            yield runner
    else:
        with _opened_on_cpu(built.graph, subject) as runner:
            yield runner


# --- the proof -------------------------------------------------------------------------------------------------------


def _check_files(built: BuiltEngine, proven: Graph | None, subject: _Subject) -> tuple[Check, ...]:
    """Check the files in the staging folder: the tokenizer, every weight, every operator.

    An engine whose file cannot be read is represented by the graph that it was built from.

    Args:
        built: The engine.
        proven: The float32 graph that passed gate 1; None where gate 2 judges that very graph.
        subject: The export.
    """
    target, proof, folder = subject.job.target, subject.proof, subject.folder
    with subject.job.stages("check the files") as stage:
        with writing(subject.job.place):
            write_tokenizer(subject.checkpoint, folder)
        checks = [proof.tokenizer(Tokenizer.from_file(str(folder / TOKENIZER)))]
        stored = stored_graph(built.engine, lambda name: (folder / name).read_bytes())
        readable = stored is not None
        stored = stored or read_onnx(built.graph.model, "the graph that the engine was built from")
        checks.append(proof.weights(stored, target.precision))
        if proven is None:
            checks += [proof.dataflow(built.graph), proof.lookup(built.graph)]
        else:
            reader = target.backend if readable else Backend.ONNXRUNTIME
            checks.append(check_graph(as_read_by(reader, proven), stored, target.precision))
        if not readable:
            checks = [check if check.name == "tokenizer" else check.of(stored.file) for check in checks]
        stage.result = ", ".join(f"{check.name}: {check.coverage}" for check in checks)
    return tuple(checks)


def _judge(
    built: BuiltEngine,
    conversion: Conversion,
    folded: ParityReport | None,
    checks: tuple[Check, ...],
    subject: _Subject,
) -> ParityReport:
    """Gate 2: compare the engine with the reference on the probes, once, and sweep it.

    Raises:
        GateError: A bound or a check failed.
    """
    job, target = subject.job, subject.job.target
    if folded is not None and not job.runs_here and not _runs_uncompiled(built.graph):
        report = folded.with_checks(*checks)  # nothing on this machine can run more than the float32 graph
    else:
        reference = subject.reference
        if (loss := conversion.format_loss(reference)) is not None:
            reference = replace(reference, format_losses={target.precision: loss})
        proven = all(check.passed for check in checks) and not target.backend.needs_gpu
        with _opened(built, subject) as runner:
            tokenizer = Tokenizer.from_file(str(subject.folder / TOKENIZER))
            encoder = Encoder.of(subject.checkpoint.facts, tokenizer, runner)
            with job.stages(f"gate: {target.precision} on {job.runs_on}") as stage:
                report = validate(reference, encoder, job.gate, _name(built, job), target.precision)
                stage.result = report.summary()
            with job.stages(f"sweep: {target.precision} on {job.runs_on}") as stage:
                swept = _sweep(encoder, built.graph, job.gate, subject, tables_proven=proven)
                stage.result = swept.coverage
        report = report.with_checks(*checks, swept)
    if not report.passed:
        raise _gate_error(report, folded, conversion)
    return report


def _sweep(
    encoder: Encoder,
    graph: Graph,
    gate: Gate,
    subject: _Subject,
    *,
    tables_proven: bool,
    width_tokens: int = WIDTH_TOKENS,
) -> Check:
    return subject.proof.sweep(
        encoder,
        gate,
        graph.precision,
        tables_proven=tables_proven,
        lengths=graph.padding is Padding.RIGHT,
        width_tokens=width_tokens,
    )


def _name(built: BuiltEngine, job: _Job) -> str:
    """Return the name of what gate 2 judges."""
    if job.runs_here:
        return f"{job.recipe.name} {job.target}"
    return f"{job.recipe.name} {built.graph.precision}, the graph the engine was built from"


def _runs_uncompiled(graph: Graph) -> bool:
    """Whether ONNX Runtime's CPU provider can run a graph. It has no kernels for bfloat16."""
    try:
        backend_of(Backend.ONNXRUNTIME).check(graph.precision, Device.CPU)
    except BuildError:
        return False
    return True


def _export_error(report: ParityReport) -> GateError:
    return GateError(
        report.failure(),
        report=report.to_dict(),
        next_step="the export itself is wrong, and no other precision will help: please report it",
    )


def _gate_error(report: ParityReport, folded: ParityReport | None, conversion: Conversion) -> GateError:
    """Return the error of gate 2: the export's where the float32 graph has not passed, else the precision's."""
    if folded is None or not all(check.passed for check in report.checks if check.name != "sweep"):
        return _export_error(report)
    return GateError(
        f"{report.failure()}\n"
        f"  the fp32 graph passed at {folded.summary()}, so the export is sound and precision or engine are not"
        f"{conversion.explain()}",
        report=report.to_dict(),
        next_step=conversion.hint,
    )


# --- the bundle ------------------------------------------------------------------------------------------------------


def _publish(judged: Judged, conversion: Conversion, subject: _Subject) -> Bundle:
    """Write the manifest, the reports and the model card, and rename the staging folder to its place."""
    job = subject.job
    with job.stages("publish") as stage:
        added = conversion.report()
        manifest = manifest_of(
            judged,
            added,
            subject.checkpoint,
            job.recipe,
            device=job.target.device,
            runs_here=job.runs_here,
        )
        with writing(job.place):
            write_files(manifest, judged, added, subject.folder)
            bundle = publish(manifest, subject.folder, job.place)
        job.ledger.unlink(missing_ok=True)
        stage.result = f"{bundle.size_bytes / 1e6:.1f} MB in {job.place}"
    return bundle
