"""export(): from a recipe to a published, verified bundle. The whole story, top to bottom."""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from exporter.backends import DEFAULTS, Backend, BuildOptions, Engine, backend_of, device_of, refuse_idle_options
from exporter.backends.cuda import find_gpu
from exporter.bundle import (
    TOKENIZER,
    Bundle,
    EncoderFacts,
    GraphFacts,
    Manifest,
    Record,
    Validation,
    publish,
    refuse_to_replace_what_is_no_bundle,
    staging,
    withdraw_record,
    write_record,
    writing,
)
from exporter.calibration import TokenBatches, calibration_sentences
from exporter.checkpoint import Checkpoint, load_checkpoint, load_source
from exporter.encoder import Encoder
from exporter.errors import BuildError, GateError, MissingDependencyError
from exporter.folding import fold
from exporter.graph import Graph
from exporter.machine import machine, tool_versions
from exporter.model_card import model_card
from exporter.passes import passes_for, run_passes
from exporter.precisions import precision_of
from exporter.recipe import Gate, Recipe, Source
from exporter.tokens import TextTokenizer
from exporter.validator import ParityReport, Reference, reference_of, validate

TOOLS = (
    "korsbert",
    "torch",
    "transformers",
    "sentence-transformers",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "polygraphy",
    "numpy",
)


@dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        backend: ``"onnxruntime"``, ``"openvino"``, ``"tensorrt"`` or ``"tensorrt-rtx"``.
        out: Folder of bundles; the bundle is ``out/<recipe>/<precision>-<backend>``.
        device: Where reference and candidate compute, ``"cpu"`` or ``"cuda"``. Engines of TensorRT run on the GPU
            whatever it says.
        checkpoint: A local copy that takes the place of the recipe's source.
        revision: Branch, tag or commit that takes the place of the recipe's.
        calibration: The user's own sentences, audited beside the probes.
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
        done: (name, seconds, result) of each stage that ended.
    """

    on_start: Callable[[str], None] | None = None
    on_progress: Callable[[str], None] | None = None
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


def export(recipe: Recipe, options: Options | None = None, stages: Stages | None = None) -> Bundle:
    """Export a checkpoint, prove the result equal to it, and publish it.

    Raises:
        GateError: The result differs by more than the recipe's gates allow; nothing was published.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    options, stages = options or Options(), stages or Stages()
    name = f"{recipe.name} {options.precision} on {options.backend}"
    target = options.out / recipe.name / f"{options.precision}-{options.backend}"
    if options.force:
        refuse_to_replace_what_is_no_bundle(target)
    backend, device = backend_of(options.backend), device_of(options.backend, options.device)
    refuse_idle_options(options.backend, options.build)
    runs_here = _runs_here(backend, options.precision, device, unvalidated=options.unvalidated)

    with staging(target, force=options.force) as folder:
        with stages("load checkpoint") as result:
            checkpoint = load_checkpoint(
                recipe,
                folder=options.checkpoint,
                revision=options.revision,
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
        folded = None
        if (options.precision, options.backend, options.device) != ("fp32", "onnxruntime", "cpu"):
            with stages("gate: the fp32 graph") as result:  # where it is not the very graph that the last gate judges
                folded = _judge_folded(checkpoint, reference, graph, recipe, folder)
                result.append(folded.summary())
        if options.precision != "fp32":
            with stages(f"type as {options.precision}") as result:
                keep = getattr(recipe.precision, options.precision).keep_fp32
                graph = precision_of(options.precision).convert(graph, batches, keep)
                result.append(f"{graph.weight_bytes() / 1e6:.1f} MB of weights")
        with stages(f"build for {options.backend}") as result:
            graph = _for_target(graph, options.backend, device, checkpoint)
            with writing(target):
                engine = backend.build(graph, recipe.shapes, folder, _build_options(options, target, stages))
                _write_tokenizer(checkpoint, folder)
            result.append(", ".join(engine.files))
        with stages(
            f"gate: {options.precision} on {options.backend if runs_here else 'the CPU, uncompiled'}"
        ) as result:
            if runs_here:
                report = _judge_engine(
                    checkpoint, reference, engine, folder, device, recipe.gates.of(options.precision), name
                )
                _require(report, folded)
            else:
                report = _judge_graph(checkpoint, reference, graph, recipe, folder, folded)
            result.append(report.summary())
        with stages("publish") as result:
            manifest = _manifest(recipe, checkpoint, graph, engine, report, options, batches, runs_here=runs_here)
            with writing(target):
                (folder / "parity.json").write_text(report.to_json() + "\n", encoding="utf-8")
                (folder / "README.md").write_text(model_card(manifest, report), encoding="utf-8")
                bundle = publish(manifest, folder, target)
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
    precision, name = (
        manifest.engine.precision,
        f"{manifest.recipe.name} {manifest.engine.precision} on {manifest.engine.backend}",
    )
    # The engine first: whether it opens here is known sooner than what PyTorch answers.
    with bundle.encoder(device=device) as candidate:
        reference_model = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
        reference = reference_of(reference_model, sts)
        report = validate(reference, candidate, manifest.recipe.gates.of(precision), name)
    if manifest.validation.state == "pending" and device in (None, manifest.validation.device):
        _record(bundle, report)  # on another device than its own, a bundle has shown nothing
    return report


def _record(bundle: Bundle, report: ParityReport) -> None:
    """Write down that a bundle published without a gate has passed it, or withdraw what was written before."""
    if not report.passed:
        withdraw_record(bundle)
        return
    record = Record(
        manifest_seal=bundle.manifest.seal,
        report=report.to_dict(),
        machine=_machine(bundle.manifest.validation.device),
        tools=tool_versions(TOOLS),
        created=_now(),
    )
    write_record(bundle, record)


def _runs_here(backend: Backend, precision: str, device: str, *, unvalidated: bool) -> bool:
    """Return whether this machine can run what it builds. If it cannot, only ``unvalidated`` lets it build at all."""
    try:
        backend.check(precision, device)
    except MissingDependencyError:
        if not unvalidated:
            raise
        backend.check_build(precision, device)
        return False
    return True


def _build_options(options: Options, target: Path, stages: Stages) -> BuildOptions:
    """Add where timings are kept, beside the bundle for all of the backend's precisions, and who hears of progress."""
    cache = target.parent / f".{options.backend}.timings"
    return replace(options.build, timing_cache=cache, on_progress=stages.on_progress)


def _token_batches(checkpoint: Checkpoint, reference: Reference, calibration: Path | None) -> TokenBatches:
    """Return what the range audit reads: the probes, and the user's own text where it is given."""
    own = calibration_sentences(calibration, reference.texts) if calibration is not None else ()
    return TokenBatches(tuple(checkpoint.prompt + text for text in (*reference.texts, *own)), checkpoint.tokenizer)


def _judge_folded(
    checkpoint: Checkpoint, reference: Reference, graph: Graph, recipe: Recipe, folder: Path
) -> ParityReport:
    """Gate 1: the folded graph on ONNX Runtime's CPU provider, to part faults of folding from those of a precision."""
    runtime = backend_of("onnxruntime")
    with tempfile.TemporaryDirectory(prefix="fp32-", dir=folder) as scratch:
        with writing(folder):
            engine = runtime.build(graph, recipe.shapes, Path(scratch))
        with _open(engine, Path(scratch), checkpoint, "cpu") as candidate:
            report = validate(reference, candidate, recipe.gates.fp32, f"{recipe.name} fp32, as folded")
    _require(report, None)
    return report


def _judge_engine(
    checkpoint: Checkpoint, reference: Reference, engine: Engine, folder: Path, device: str, gate: Gate, name: str
) -> ParityReport:
    with _open(engine, folder, checkpoint, device) as candidate:
        return validate(reference, candidate, gate, name)


def _judge_graph(
    checkpoint: Checkpoint,
    reference: Reference,
    graph: Graph,
    recipe: Recipe,
    folder: Path,
    folded: ParityReport | None,
) -> ParityReport:
    """Judge the graph that an engine was built from on ONNX Runtime's CPU provider, where the engine cannot run.

    Where that provider cannot run it either (bfloat16), the report of the fp32 graph, ``folded``, is all there is.
    """
    runtime = backend_of("onnxruntime")
    subject = f"{recipe.name} {graph.precision}, the graph the engine was built from"
    try:
        runtime.check(graph.precision, "cpu")
    except BuildError:
        if folded is None:
            raise
        return folded
    with tempfile.TemporaryDirectory(prefix="graph-", dir=folder) as scratch:
        with writing(folder):
            engine = runtime.build(graph, recipe.shapes, Path(scratch))
        gate = recipe.gates.of(graph.precision)
        report = _judge_engine(checkpoint, reference, engine, Path(scratch), "cpu", gate, subject)
    _require(report, folded)
    return report


def _open(engine: Engine, folder: Path, checkpoint: Checkpoint, device: str) -> Encoder:
    runner = backend_of(engine.backend).open(engine, folder, device, None)
    return Encoder(
        checkpoint.tokenizer,
        runner,
        dimension=checkpoint.dimension,
        max_seq_length=checkpoint.max_seq_length,
        prompt=checkpoint.prompt,
    )


def _require(report: ParityReport, folded: ParityReport | None) -> None:
    """Stop here unless every bound held. ``folded`` is the report of the fp32 graph, where that has passed already."""
    if report.passed:
        return
    if folded is None:
        raise GateError(
            report.failure(),
            report=report.to_dict(),
            next_step="the export itself is at fault, no precision setting will mend it",
        )
    sound = f"the fp32 graph passed at {folded.summary()}, so the export is sound and precision or engine are not"
    raise GateError(
        f"{report.failure()}\n  {sound}",
        report=report.to_dict(),
        next_step="another precision or backend, or more of the graph in fp32 (recipe: precision.<name>.keep_fp32)",
    )


def _for_target(graph: Graph, backend: str, device: str, checkpoint: Checkpoint) -> Graph:
    padding, missing = TextTokenizer(checkpoint.tokenizer).padding, backend_of(backend).missing_operators()
    passes = passes_for(backend, device, graph.precision, padding=padding, missing=missing)
    if not passes:
        return graph
    model = graph.editable()
    changes = run_passes(model, passes)
    done = ", ".join(f"{name} {count}" for name, count in changes.items())
    return graph.with_model(model, decisions=(f"passes for {backend} on {device}: {done}",))


def _write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what transformers and tokenizers read: our tokenizer.json, which truncates and lower-cases by itself."""
    checkpoint.model[0].tokenizer.save_pretrained(str(folder))
    checkpoint.tokenizer.save(str(folder / TOKENIZER))
    config = checkpoint.model[0].auto_model.config.to_dict()
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _manifest(
    recipe: Recipe,
    checkpoint: Checkpoint,
    graph: Graph,
    engine: Engine,
    report: ParityReport,
    options: Options,
    batches: TokenBatches,
    *,
    runs_here: bool,
) -> Manifest:
    device = device_of(options.backend, options.device)
    audited = (f"audited text: sha256 {batches.content_hash()}",) if graph.precision == "fp16" else ()
    decisions = (*graph.decisions, *audited, *engine.decisions)
    return Manifest(
        recipe=recipe,
        source=Source(checkpoint=checkpoint.source, commit=checkpoint.commit, weights_sha256=checkpoint.weights_sha256),
        encoder=EncoderFacts(
            architecture=checkpoint.architecture,
            modules=checkpoint.modules,
            pooling=checkpoint.pooling,
            dimension=checkpoint.dimension,
            max_seq_length=checkpoint.max_seq_length,
            do_lower_case=checkpoint.do_lower_case,
            prompt=checkpoint.prompt,
            layers=checkpoint.layers,
            heads=checkpoint.heads,
            hidden_size=checkpoint.hidden_size,
        ),
        graph=GraphFacts(sha256=graph.content_hash(), nodes=graph.op_counts(), weight_bytes=graph.weight_bytes()),
        engine=engine.model_copy(update={"decisions": ()}),  # told once, among all the others
        decisions=decisions,
        validation=Validation(
            state="passed" if runs_here else "pending",
            device="cuda" if device == "cuda" else "cpu",
            execution=report.execution,
            probes_sha256=report.probes_sha256,
            min_cosine=report.statistics["min_cosine"],
            gates=tuple(str(verdict) for verdict in report.verdicts),
            note=_validation_note(engine, device) if runs_here else _pending_note(engine, report),
        ),
        tools=tool_versions(TOOLS),
        machine=_machine(device if runs_here else "cpu"),
        created=_now(),
    )


def _machine(device: str) -> dict[str, Any]:
    gpu = find_gpu() if device == "cuda" else None
    return machine() if gpu is None else {**machine(), "gpu": asdict(gpu)}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _pending_note(engine: Engine, report: ParityReport) -> str:
    return (
        f"UNVALIDATED: no machine has run this engine yet; judged, on {report.execution}, was {report.subject}. "
        f"Where {engine.backend} runs, `korsbert validate` judges the engine and records it"
    )


def _validation_note(engine: Engine, device: str) -> str:
    if device == "cpu" and engine.precision != "fp32":
        return (
            f"the gate was passed on a CPU; where {engine.precision} runs on other hardware, "
            "repeat it there with `korsbert validate` (and --device where it is a GPU)"
        )
    return f"the gate was passed on this machine's {device}"
