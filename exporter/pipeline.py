"""export(): from a recipe to a published, verified bundle. The whole story, top to bottom."""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from exporter.backends import Engine, backend_of
from exporter.bundle import (
    TOKENIZER,
    Bundle,
    EncoderFacts,
    GraphFacts,
    Manifest,
    QuantizationFacts,
    Validation,
    publish,
    refuse_to_replace_what_is_no_bundle,
    staging,
    writing,
)
from exporter.calibration import TokenBatches, calibration_sentences, calibration_set
from exporter.checkpoint import Checkpoint, load_checkpoint, load_source
from exporter.dependencies import require
from exporter.encoder import Encoder
from exporter.errors import GateError
from exporter.folding import fold
from exporter.graph import Graph
from exporter.machine import machine, tool_versions
from exporter.model_card import model_card
from exporter.passes import TARGETS, run_passes
from exporter.precisions import QUANTIZATIONS, precision_of, quantization_of
from exporter.quantization.plan import Plan, Request, make_plan
from exporter.quantization.report import JSON, PLOT, plot_of, report_of
from exporter.quantization.scheme import scheme_of
from exporter.quantization.search import Assignment, describe
from exporter.recipe import Recipe, Source
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
    "openvino",
    "numpy",
)


@dataclass(frozen=True)
class Options:
    """How to export.

    Attributes:
        precision: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"int8_dynamic"``.
        backend: ``"onnxruntime"`` or ``"openvino"``.
        out: Folder of bundles; the bundle is ``out/<recipe>/<precision>-<backend>``.
        device: Where reference and candidate compute, ``"cpu"`` or ``"cuda"``.
        checkpoint: A local copy that takes the place of the recipe's source.
        revision: Branch, tag or commit that takes the place of the recipe's.
        calibration: The user's own sentences: audited beside the probes, and what int8 takes its scales from instead
            of those that ship.
        sts: Task sets to score reference and candidate on.
        force: Replace an existing bundle, once the new one has passed.
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


@dataclass
class Stages:
    """What was done, how long it took and what came of it, told to a listener as it happens.

    Attributes:
        on_start: Called with the name of each stage as it begins.
        done: (name, seconds, result) of each stage that ended.
    """

    on_start: Callable[[str], None] | None = None
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

    def tell(self, detail: str) -> None:
        """Tell the listener how far the stage at work is."""
        if self.on_start is not None:
            self.on_start(detail)


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
    backend = backend_of(options.backend)
    backend.check(options.precision, options.device)
    if options.precision in QUANTIZATIONS:
        scheme_of(options.precision, options.backend, options.device)
        require("matplotlib")
    with staging(target, force=options.force) as folder:
        with stages("load checkpoint") as result:
            checkpoint = load_checkpoint(
                recipe, folder=options.checkpoint, revision=options.revision, device=options.device
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
        plan: Plan | None = None
        if options.precision in QUANTIZATIONS:
            with stages("calibrate and search") as result:
                plan = _plan(graph, checkpoint, reference, recipe, options, stages.tell)
                result.append(f"{len(plan.products)} products, {plan.calibrated.trial.name}")
                if plan.resumed:
                    result.append(f"{plan.resumed} results of an interrupted search")
        work = _Work(recipe, options, stages, target, folder, checkpoint, reference, batches)
        judged: list[_Judged] = []
        for assignment in plan.found.ladder if plan is not None else (None,):
            judged.append(_build_and_judge(graph, plan, assignment, work))
            if judged[-1].report.passed:
                break
        _require(judged, folded, plan)
        with stages("publish") as result:
            report = judged[-1].report
            manifest = _manifest(judged[-1], plan, work)
            with writing(target):
                _write_tokenizer(checkpoint, folder)
                _write_quantization(plan, judged[-1].assignment, folder)
                (folder / "parity.json").write_text(report.to_json() + "\n", encoding="utf-8")
                (folder / "README.md").write_text(model_card(manifest, report), encoding="utf-8")
                bundle = publish(manifest, folder, target)
            _ledger(target.parent, options).unlink(missing_ok=True)
            result.append(f"{bundle.size_bytes / 1e6:.1f} MB in {target}")
    return bundle


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


@dataclass(frozen=True)
class _Judged:
    """A candidate and what was found of it; ``assignment`` says which products are int8, where any are."""

    graph: Graph
    engine: Engine
    report: ParityReport
    assignment: Assignment | None = None


def _build_and_judge(graph: Graph, plan: Plan | None, assignment: Assignment | None, work: _Work) -> _Judged:
    """Type, build, and hold the engine against the reference."""
    options, stages, checkpoint = work.options, work.stages, work.checkpoint
    if options.precision != "fp32":
        with stages(f"type as {options.precision}") as result:
            graph = _typed(graph, plan, assignment, work)
            result.append(f"{graph.weight_bytes() / 1e6:.1f} MB of weights")
    with stages(f"build for {options.backend}") as result:
        graph = _for_target(graph, options.backend)
        with writing(work.target):
            engine = backend_of(options.backend).build(graph, work.recipe.shapes, work.folder)
        result.append(", ".join(engine.files))
    with stages(f"gate: {options.precision} on {options.backend}") as result:
        gate, name = work.recipe.gates.of(options.precision), _subject(work.recipe, options)
        with _open(engine, work.folder, checkpoint, options.device) as candidate:
            report = validate(work.reference, candidate, gate, name)
        result.append(report.summary())
    return _Judged(graph, engine, report, assignment)


def _subject(recipe: Recipe, options: Options) -> str:
    return f"{recipe.name} {options.precision} on {options.backend}"


def validate_bundle(
    bundle: Bundle, *, checkpoint: Path | None = None, sts: Sequence[Path] = (), device: str | None = None
) -> ParityReport:
    """Repeat a bundle's gate on this machine, against a checkpoint loaded anew.

    Returns:
        The report, passed or not.
    """
    manifest = bundle.manifest
    reference_model = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
    reference = reference_of(reference_model, sts)
    precision, name = (
        manifest.engine.precision,
        f"{manifest.recipe.name} {manifest.engine.precision} on {manifest.engine.backend}",
    )
    with bundle.encoder(device=device) as candidate:
        return validate(reference, candidate, manifest.recipe.gates.of(precision), name)


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
    _require([_Judged(graph, engine, report)], None, None)
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


def _require(judged: Sequence[_Judged], folded: ParityReport | None, plan: Plan | None) -> None:
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
        raise GateError(closest.failure(), next_step="the export itself is at fault, no precision setting will mend it")
    sound = f"the fp32 graph passed at {folded.summary()}, so the export is sound and precision or engine are not"
    if plan is not None and assignment is not None:
        raise GateError(
            f"{closest.failure()}\n  {sound}\n  the closest of {len(judged)} assignments: "
            f"{describe(plan.request.scheme, assignment, plan.products)}",
            next_step="--calibration FILE with text of the kind the model will read, or --fp16",
        )
    raise GateError(
        f"{closest.failure()}\n  {sound}",
        next_step="another precision or backend, or more of the graph in fp32 (recipe: precision.<name>.keep_fp32)",
    )


def _plan(
    graph: Graph,
    checkpoint: Checkpoint,
    reference: Reference,
    recipe: Recipe,
    options: Options,
    tell: Callable[[str], None],
) -> Plan:
    """Calibrate and search. What is known so far lies beside the bundle's place until it is published."""
    text = calibration_set(options.calibration, reference.texts, checkpoint.tokenizer, checkpoint.prompt)
    request = Request(
        precision=options.precision,
        scheme=scheme_of(options.precision, options.backend, options.device),
        calibration=text,
        gate=recipe.gates.of(options.precision),
        keep_high=getattr(recipe.precision, options.precision).keep_high,
        ledger=_ledger(options.out / recipe.name, options),
    )
    return make_plan(graph, request, tell)


def _ledger(folder: Path, options: Options) -> Path:
    return folder / f".{options.precision}-{options.backend}.search.json"


def _typed(graph: Graph, plan: Plan | None, assignment: Assignment | None, work: _Work) -> Graph:
    """Return the graph in the precision asked for."""
    precision = work.options.precision
    if plan is not None and assignment is not None:
        return quantization_of(precision).convert(plan, assignment, work.batches)
    keep = getattr(work.recipe.precision, precision).keep_fp32
    return precision_of(precision).convert(graph, work.batches, keep)


def _write_quantization(plan: Plan | None, assignment: Assignment | None, folder: Path) -> None:
    """Write what int8 was decided from, and the plot of what else there was to choose."""
    if plan is None or assignment is None:
        return
    content = json.dumps(report_of(plan, assignment), ensure_ascii=False, indent=1, allow_nan=False)
    (folder / JSON).write_text(content + "\n", encoding="utf-8")
    (folder / PLOT).write_bytes(plot_of(plan, assignment))


def _for_target(graph: Graph, backend: str) -> Graph:
    if not TARGETS[backend]:
        return graph
    model = graph.editable()
    run_passes(model, TARGETS[backend])
    return graph.with_model(model)


def _write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write what transformers and tokenizers read: our tokenizer.json, which truncates and lower-cases by itself."""
    checkpoint.model[0].tokenizer.save_pretrained(str(folder))
    checkpoint.tokenizer.save(str(folder / TOKENIZER))
    config = checkpoint.model[0].auto_model.config.to_dict()
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _manifest(judged: _Judged, plan: Plan | None, work: _Work) -> Manifest:
    graph, engine, report = judged.graph, judged.engine, judged.report
    recipe, checkpoint, options = work.recipe, work.checkpoint, work.options
    audited = (f"audited text: sha256 {work.batches.content_hash()}",) if graph.precision == "fp16" else ()
    decisions = (*graph.decisions, *audited)
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
        engine=engine,
        quantization=_quantization_facts(plan),
        decisions=decisions,
        validation=Validation(
            device="cuda" if options.device == "cuda" else "cpu",
            execution=report.execution,
            probes_sha256=report.probes_sha256,
            min_cosine=report.statistics["min_cosine"],
            gates=tuple(str(verdict) for verdict in report.verdicts),
            note=_validation_note(engine, options.device),
        ),
        tools=tool_versions(TOOLS),
        machine=machine(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _quantization_facts(plan: Plan | None) -> QuantizationFacts | None:
    if plan is None:
        return None
    text = plan.request.calibration
    return QuantizationFacts(
        source=text.source, sha256=text.sha256, sentences=text.fit.count, method=plan.calibrated.trial.name, ranges=JSON
    )


def _validation_note(engine: Engine, device: str) -> str:
    if device == "cpu" and engine.precision != "fp32":
        return (
            f"the gate was passed on a CPU; where {engine.precision} runs on other hardware, "
            "repeat it there with `korsbert validate` (and --device where it is a GPU)"
        )
    return f"the gate was passed on this machine's {device}"
