"""export(): from a recipe to a published, verified bundle. The whole story, top to bottom."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from exporter.bundle import TOKENIZER, Bundle
from exporter.bundle.atomic import staging, writing
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.bundle.publish import publish, refuse_to_replace_other_files
from exporter.calibration import TokenBatches, calibration_sentences, calibration_set
from exporter.checkpoint import Checkpoint, load_checkpoint, load_source
from exporter.dependencies import require
from exporter.engines import (
    DEFAULTS,
    GPU_ONLY,
    BuildOptions,
    Engine,
    EngineFiles,
    backend_of,
    device_of,
    refuse_idle_options,
)
from exporter.errors import BuildError, CheckpointError, GateError, MissingDependencyError
from exporter.graph import Graph
from exporter.graph.folding import fold
from exporter.graph.passes import passes_for, run_passes
from exporter.precisions import QUANTIZATIONS, precision_of, quantization_of
from exporter.precisions.int8.plan import Plan, Request, make_plan
from exporter.precisions.int8.report import Tried
from exporter.precisions.int8.scheme import scheme_of
from exporter.precisions.int8.search import Assignment, describe
from exporter.publication import Candidate, encoder_facts, manifest_of, record_of, write_files, write_tokenizer
from exporter.recipe import Gate, Recipe
from exporter.runtime.encoder import Encoder, encoder_batches
from exporter.runtime.runner import Runner
from exporter.runtime.tokens import TextTokenizer
from exporter.targets import Padding
from exporter.validator import Check, ParityReport, Reference, reference_of, validate
from exporter.validator.format_loss import FormatLoss
from exporter.validator.parity import compare
from exporter.validator.proof import Proof, at_least_default, check_facts, other_tools, proven_graph, stored_graph
from exporter.validator.provenance import check_graph, read_onnx
from exporter.validator.sweep_inputs import WIDTH_TOKENS


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
        refuse_to_replace_other_files(target)
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
            reference = reference_of(checkpoint, options.sts, options.precision)
            batches = _token_batches(checkpoint, reference, options.calibration)
            result.append(f"{len(reference.probes)} probes")
        with stages("fold into one graph") as result:
            graph = fold(checkpoint)
            result.append(f"{len(graph.model.graph)} nodes, {graph.weight_bytes() / 1e6:.1f} MB of weights")
        proof = Proof(checkpoint, reference.texts, recipe.shapes)
        _require_tokenizer(proof, checkpoint)
        work = _Work(recipe, options, stages, target, folder, checkpoint, reference, proof, batches, runs_here)
        folded = None
        if (options.precision, options.backend, options.device) != ("fp32", "onnxruntime", "cpu"):
            folded = _judge_folded(graph, work)  # where it is not the very graph that the last gate judges
        plan = None
        if options.precision in QUANTIZATIONS:
            with stages("calibrate and search") as result:
                plan = _plan(graph, work)
                result.append(plan.summary())
        built = _build(graph, work) if plan is None else _build_quantized(graph, plan, work)
        checks = _check_files(built, graph if folded is not None else None, work)
        candidate = _judge(built, plan, folded, checks, work)
        _require(candidate, folded, plan)
        with stages("publish") as result:
            manifest = manifest_of(
                candidate, plan, checkpoint, recipe, batches, device=work.device, runs_here=runs_here
            )
            with writing(target):
                write_files(manifest, candidate, plan, folder)
                bundle = publish(manifest, folder, target)
            _ledger(work).unlink(missing_ok=True)
            result.append(f"{bundle.size_bytes / 1e6:.1f} MB in {target}")
    return bundle


def validate_bundle(
    bundle: Bundle,
    *,
    checkpoint: Path | None = None,
    sts: Sequence[Path] = (),
    device: str | None = None,
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE,
) -> ParityReport:
    """Repeat a bundle's gate and checks on this machine, against a checkpoint loaded anew.

    The graph is compared with the checkpoint folded anew. Where another version of torch writes other operators, the
    check fails and says so: a bundle must not decide by its manifest whether it is compared.

    Args:
        bundle: What to judge.
        checkpoint: A local copy of the checkpoint; by default the source in the manifest, at its commit.
        sts: Task sets to score both sides on.
        device: Where the bundle runs; by default where it was validated.
        minimum_gate: Bounds that count where those of the bundle's own gate are weaker.

    Returns:
        The report, passed or not.
    """
    manifest = bundle.manifest
    precision = manifest.engine.precision
    name = f"{manifest.recipe.name} {precision} on {manifest.engine.backend}"
    # The engine first: whether it opens here is known sooner than what PyTorch answers.
    with bundle.encoder(device=device) as candidate:
        reference_model = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
        reference = reference_of(reference_model, sts, precision)
        checks = _check_bundle(bundle, reference_model, reference)
        gate = minimum_gate.gate_for(manifest)
        report = validate(reference, candidate, gate, name, precision)
        checks.append(_sweep_bundle(bundle, candidate, reference_model, gate, checks))
        report = report.with_checks(*checks)
    if manifest.validation.state == "pending" and device in (None, manifest.validation.device):
        # On another device than its own, a bundle has shown nothing.
        if report.passed:
            bundle.write_record(record_of(bundle, report))
        else:
            bundle.withdraw_record()
    return report


def _check_bundle(bundle: Bundle, checkpoint: Checkpoint, reference: Reference) -> list[Check]:
    """Check the manifest's facts of the encoder and the files of a bundle: tokenizer, weights and graph."""
    manifest = bundle.manifest
    engine, precision = manifest.engine, manifest.engine.precision
    proof = Proof(checkpoint, reference.texts, manifest.recipe.shapes)
    checks = [
        check_facts(manifest.encoder.model_dump(), encoder_facts(checkpoint).model_dump()),
        proof.tokenizer(Tokenizer.from_buffer(bundle.read(TOKENIZER))),
    ]
    stored = stored_graph(engine, bundle.read)
    if stored is None:
        return [*checks, Check("graph", f"not compared: an engine of {engine.backend} cannot be read")]
    checks.append(proof.weights(stored, precision))
    folded, padding = fold(checkpoint), TextTokenizer(checkpoint.tokenizer).padding
    proven = proven_graph(folded, engine.backend, manifest.validation.device, precision, padding=padding)
    graph = check_graph(proven, stored, precision)
    if not graph.passed and (other := other_tools(manifest.tools)) is not None:
        graph = graph.because(f"the checkpoint was folded by {other}: validate with the versions in the manifest")
    return [*checks, graph, proof.lookup(folded)]


def _sweep_bundle(
    bundle: Bundle, encoder: Encoder, checkpoint: Checkpoint, gate: Gate, checks: Sequence[Check]
) -> Check:
    """Sweep a bundle's engine. The manifest states its shapes; smaller ones than korsbert's own do not count."""
    manifest = bundle.manifest
    shapes = at_least_default(manifest.recipe.shapes, manifest.engine.backend)
    return Proof(checkpoint, (), shapes).sweep(
        encoder,
        gate,
        manifest.engine.precision,
        tables_proven=any(check.name == "weights" and check.passed for check in checks),
        lengths=manifest.engine.facts.right_padded,
        width_tokens=WIDTH_TOKENS,
    )


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
    proof: Proof
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
    def where(self) -> str:
        """What runs what was built."""
        return self.options.backend if self.runs_here else "the CPU, uncompiled"

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


def _require_tokenizer(proof: Proof, checkpoint: Checkpoint) -> None:
    """Refuse a tokenizer that transformers loads otherwise than the checkpoint's files say, before anything is built.

    Raises:
        CheckpointError: With the first texts or vocabulary entries that differ.
    """
    check = proof.tokenizer(checkpoint.tokenizer)
    if not check.passed:
        raise CheckpointError(
            f"{checkpoint.source}: transformers loads another tokenizer than the checkpoint's files say: "
            f"{check.failures[0]}",
            next_step="correct tokenizer_config.json, or save the checkpoint again with SentenceTransformer.save",
        )


def _judge_folded(graph: Graph, work: _Work) -> ParityReport:
    """Gate 1: the folded graph on ONNX Runtime's CPU provider. It separates errors of the export from rounding."""
    gate, stages = work.recipe.gates.fp32, work.stages
    with _opened_on_cpu(graph, work) as runner:
        encoder = _encoder(runner, work.checkpoint.tokenizer, work)
        with stages("gate: the fp32 graph") as result:
            report = validate(work.reference, encoder, gate, f"{work.recipe.name} fp32, as folded")
            result.append(report.summary())
        with stages("sweep: the fp32 graph") as result:
            weights = work.proof.weights(read_onnx(graph.model, "the folded graph"), graph.precision)
            lookup = work.proof.lookup(graph)
            # Gate 2 sweeps the widths of what is published.
            swept = _sweep(encoder, graph, gate, work, tables_proven=weights.passed, width_tokens=0)
            result.append(swept.coverage)
    report = report.with_checks(weights, lookup, swept)
    if not report.passed:
        raise _fault_of_the_export(report)
    return report


def _encoder(runner: Runner, tokenizer: Tokenizer, work: _Work) -> Encoder:
    checkpoint = work.checkpoint
    return Encoder(
        tokenizer,
        runner,
        dimension=checkpoint.dimension,
        max_seq_length=checkpoint.max_seq_length,
        prompt=checkpoint.prompt,
    )


def _sweep(
    encoder: Encoder, graph: Graph, gate: Gate, work: _Work, *, tables_proven: bool, width_tokens: int = WIDTH_TOKENS
) -> Check:
    return work.proof.sweep(
        encoder,
        gate,
        graph.precision,
        tables_proven=tables_proven,
        lengths=graph.padding is Padding.RIGHT,
        width_tokens=width_tokens,
    )


@contextmanager
def _opened_on_cpu(graph: Graph, work: _Work) -> Iterator[Runner]:
    """Open a graph on ONNX Runtime's CPU provider, from a file that is gone afterwards."""
    runtime = backend_of("onnxruntime")
    with tempfile.TemporaryDirectory(prefix="graph-", dir=work.folder) as scratch:
        with writing(work.target):
            engine = runtime.build(graph, work.recipe.shapes, Path(scratch))
        with runtime.open(engine, EngineFiles.read(engine, Path(scratch)), "cpu", None) as runner:
            yield runner


@contextmanager
def _opened(built: _Built, work: _Work) -> Iterator[Runner]:
    """Open what was built: the engine, or, where it cannot run here, the graph that it was built from."""
    if not work.runs_here:
        with _opened_on_cpu(built.graph, work) as runner:
            yield runner
        return
    engine, device = built.engine, work.device
    with backend_of(engine.backend).open(engine, EngineFiles.read(engine, work.folder), device, None) as runner:
        yield runner


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


@dataclass(frozen=True)
class _Built:
    """An engine in the folder of the export, before any probe has been read by it.

    Attributes:
        graph: What it was built from.
        engine: Its files and facts.
        tried: For int8, each assignment that was built, and what it lost on held-out text; the last one is this one.
    """

    graph: Graph
    engine: Engine
    tried: tuple[Tried, ...] = ()


def _build(graph: Graph, work: _Work, plan: Plan | None = None, assignment: Assignment | None = None) -> _Built:
    """Type the graph, and build the engine's files."""
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
    return _Built(graph, engine)


def _build_quantized(graph: Graph, plan: Plan, work: _Work) -> _Built:
    """Build the first assignment whose engine passes on held-out calibration text. The probes have no part in it.

    Where none passes with a margin, the one that loses least is taken, if it passes without.

    Raises:
        GateError: No engine passes there.
    """
    tried: list[Tried] = []
    for assignment in plan.found.ladder:
        built = _build(graph, work, plan, assignment)
        with work.stages(f"held-out text: {work.options.precision} on {work.where}") as result:
            with _opened(built, work) as runner:
                loss = plan.loss_of(runner.run)
            result.append(str(loss))
        tried.append(Tried(assignment, loss))
        if loss.passes(work.gate):
            return replace(built, tried=tuple(tried))
    nearest = min(tried, key=lambda one: one.loss.strain(work.gate))
    if nearest.loss.strain(work.gate) > 1:
        losses = {"tried": [asdict(one.loss) for one in tried]}
        raise _fault_of_int8(
            f"{work.subject}: no engine passes on held-out calibration text", plan, tried, nearest, losses
        )
    tried.remove(nearest)
    return replace(_build(graph, work, plan, nearest.assignment), tried=(*tried, nearest))


def _check_files(built: _Built, folded: Graph | None, work: _Work) -> tuple[Check, ...]:
    """Check what will be published, as it lies in the staging folder: the tokenizer, every weight, every operator.

    An engine whose file cannot be read is represented by the graph that it was built from.

    Args:
        built: The engine.
        folded: The float32 graph that passed gate 1; None where gate 2 judges that very graph.
        work: The export.
    """
    options, engine = work.options, built.engine
    with work.stages("check the files") as result:
        with writing(work.target):
            write_tokenizer(work.checkpoint, work.folder)
        checks = [work.proof.tokenizer(Tokenizer.from_file(str(work.folder / TOKENIZER)))]
        stored = stored_graph(engine, lambda name: (work.folder / name).read_bytes())
        readable = stored is not None
        stored = stored or read_onnx(built.graph.model, "the graph that the engine was built from")
        checks.append(work.proof.weights(stored, options.precision))
        if folded is not None:
            proven = proven_graph(
                folded,
                engine.backend,
                work.device,
                options.precision,
                padding=TextTokenizer(work.checkpoint.tokenizer).padding,
                as_read_by=None if readable else "onnx",
            )
            checks.append(check_graph(proven, stored, options.precision))
        else:
            checks.append(work.proof.lookup(built.graph))
        if not readable:
            checks = [check if check.name == "tokenizer" else check.of(stored.file) for check in checks]
        result += [f"{check.name}: {check.coverage}" for check in checks]
    return tuple(checks)


def _judge(
    built: _Built, plan: Plan | None, folded: ParityReport | None, checks: tuple[Check, ...], work: _Work
) -> Candidate:
    """Gate 2: compare the engine with the reference on the probes, once, and sweep it."""
    options, gate, stages = work.options, work.gate, work.stages
    if plan is not None:
        work = _with_emulation(plan, built.tried[-1].assignment, work)
    if folded is not None and not work.runs_here and not _runs_uncompiled(built.graph):
        return Candidate(built.graph, built.engine, folded.with_checks(*checks), folded, built.tried)  # all there is
    proven = all(check.passed for check in checks) and built.engine.backend not in GPU_ONLY
    with _opened(built, work) as runner:
        encoder = _encoder(runner, Tokenizer.from_file(str(work.folder / TOKENIZER)), work)
        with stages(f"gate: {options.precision} on {work.where}") as result:
            report = validate(work.reference, encoder, gate, _subject(built, work), options.precision)
            result.append(report.summary())
        with stages(f"sweep: {options.precision} on {work.where}") as result:
            swept = _sweep(encoder, built.graph, gate, work, tables_proven=proven)
            result.append(swept.coverage)
    return Candidate(built.graph, built.engine, report.with_checks(*checks, swept), folded, built.tried)


def _subject(built: _Built, work: _Work) -> str:
    if work.runs_here:
        return work.subject
    return f"{work.recipe.name} {built.graph.precision}, the graph the engine was built from"


def _runs_uncompiled(graph: Graph) -> bool:
    """Whether ONNX Runtime's CPU provider can run a graph: it has no kernels for bfloat16."""
    try:
        backend_of("onnxruntime").check(graph.precision, "cpu")
    except BuildError:
        return False
    return True


def _with_emulation(plan: Plan, assignment: Assignment, work: _Work) -> _Work:
    """Add to the reference what int8 should answer to the probes, in the batches that an encoder makes of them.

    With a float16 remainder the emulator, which computes that in float32, says too little.
    """
    if plan.request.scheme.remainder != "fp32":
        return work
    reference, tokenizer = work.reference, TextTokenizer(work.checkpoint.tokenizer)
    rows = reference.token_ids
    batches = list(encoder_batches([len(row) for row in rows]))
    vectors = np.empty_like(reference.vectors)
    vectors[np.concatenate(batches)] = plan.emulate(
        assignment, (tokenizer.pad([rows[row] for row in batch]) for batch in batches)
    )
    loss = FormatLoss("the emulator of int8", compare(reference.vectors, vectors, rows), vectors)
    return replace(work, reference=replace(reference, format_losses={work.options.precision: loss}))


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


def _require(candidate: Candidate, folded: ParityReport | None, plan: Plan | None) -> None:
    """Stop here unless every bound held.

    Args:
        candidate: What was judged.
        folded: The report of the fp32 graph, where that has passed already.
        plan: What int8 was to be, where it was.
    """
    report = candidate.report
    if report.passed:
        return
    if folded is None or not all(check.passed for check in report.checks if check.name != "sweep"):
        raise _fault_of_the_export(report)
    message = (
        f"{report.failure()}\n"
        f"  the fp32 graph passed at {folded.summary()}, so the export is sound and precision or engine are not"
    )
    if plan is not None:
        raise _fault_of_int8(message, plan, candidate.tried, candidate.tried[-1], report.to_dict())
    raise GateError(
        message,
        report=report.to_dict(),
        next_step="another precision or backend, or more of the graph in fp32 (recipe: precision.<name>.keep_fp32)",
    )


def _fault_of_int8(
    message: str, plan: Plan, tried: Sequence[Tried], nearest: Tried, report: Mapping[str, Any]
) -> GateError:
    """Return the error of an int8 export, with every assignment that was built and what it lost on held-out text."""
    for one in tried:
        message += (
            f"\n  built with {one.assignment.share:.1%} of the work in {plan.request.scheme.remainder}: {one.loss}"
        )
    message += f"\n  the closest of {len(tried)}: {describe(plan.request.scheme, nearest.assignment, plan.products)}"
    message += "".join(f"\n  calibration text: {warning}" for warning in plan.request.calibration.warnings)
    return GateError(
        message,
        report=report,
        next_step="calibration text of the kind that the model will read, or precision fp16",
    )


def _fault_of_the_export(report: ParityReport) -> GateError:
    return GateError(
        report.failure(),
        report=report.to_dict(),
        next_step="the export itself is wrong, and no other precision will help: please report it",
    )
