"""The proof of an export: gate 1, the checks of its files, gate 2, and the errors of what fails."""

from __future__ import annotations

import gc
from dataclasses import replace

from tokenizers import Tokenizer

from exporter.bundle import TOKENIZER
from exporter.bundle.atomic import writing
from exporter.engines import backend_of
from exporter.engines.building import BuiltEngine, open_on_cpu
from exporter.errors import BuildError, GateError
from exporter.graph import Graph
from exporter.pipeline.building import opened
from exporter.pipeline.job import Job, Subject
from exporter.precisions import Conversion
from exporter.publication import write_tokenizer
from exporter.runtime.encoder import Encoder
from exporter.runtime.runner import Runner
from exporter.targets import Backend, Device, Padding
from exporter.validator import Check, ParityReport, validate
from exporter.validator.check import all_passed, coverage_of_checks
from exporter.validator.proof import stored_graph, tables_proven
from exporter.validator.provenance import read_onnx


def judge_float32(graph: Graph, subject: Subject) -> ParityReport:
    """Gate 1: judge the folded graph, after the passes of its target, in float32 on ONNX Runtime's CPU provider.

    It separates export errors from rounding: no other precision judges folding and passes. It is left out where gate 2
    judges this very graph (``Job.is_as_folded``).

    Raises:
        GateError: The export is wrong.
    """
    job, proof = subject.job, subject.proof
    gate = job.recipe.gates.fp32
    with open_on_cpu(graph) as runner:
        encoder = _whole_vectors(subject, subject.checkpoint.tokenizer, runner)
        with job.stages("gate: the fp32 graph") as stage:
            report = validate(subject.reference, encoder, gate, f"{job.recipe.name} fp32 (gate 1)")
            stage.result, stage.failed = report.summary(), not report.passed
        with job.stages("sweep: the fp32 graph") as stage:
            weights = proof.weights(read_onnx(graph.model, "the fp32 graph"), graph.precision)
            dataflow, lookup = proof.operators(graph)
            swept = proof.sweep(
                encoder,
                gate,
                graph.precision,
                tables_proven=weights.passed,
                lengths=graph.padding is Padding.RIGHT,
                width_tokens=0,  # gate 2 sweeps the widths of what is published
            )
            stage.result = f"{dataflow.coverage}; {swept.coverage}"
            stage.failed = not all_passed((weights, dataflow, lookup, swept))
    report = report.with_checks(weights, dataflow, lookup, swept)
    if not report.passed:
        raise _export_error(report)
    return report


def check_files(built: BuiltEngine, proven: Graph | None, subject: Subject) -> tuple[Check, ...]:
    """Check the files in the staging folder: the tokenizer, every weight, every operator.

    An engine whose file cannot be read is represented by the graph that it was built from.

    Args:
        built: The engine.
        proven: The float32 graph that passed gate 1; None where gate 2 judges that very graph.
        subject: The export.
    """
    proof, folder, target = subject.proof, subject.folder, subject.job.target
    with subject.job.stages("check the files") as stage:
        with writing(subject.job.place):
            write_tokenizer(subject.checkpoint, folder)
        tokenizer = proof.tokenizer(_published_tokenizer(subject))
        published = stored_graph(built.engine, lambda name: (folder / name).read_bytes())
        stored = published or read_onnx(built.graph.model, "the graph that the engine was built from")
        checks = [proof.weights(stored, target.precision)]
        if proven is None:
            checks += proof.operators(built.graph)
        else:
            checks.append(proof.graph(proven, stored, target))
        if published is None:
            checks = [check.of(stored.file) for check in checks]
        del published, stored
        gc.collect()  # nodes and values refer to each other, and to the content of the file
        checks.insert(0, tokenizer)
        stage.result, stage.failed = coverage_of_checks(checks), not all_passed(checks)
    return tuple(checks)


def judge(
    built: BuiltEngine,
    conversion: Conversion,
    folded: ParityReport | None,
    checks: tuple[Check, ...],
    subject: Subject,
) -> ParityReport:
    """Gate 2: compare the engine with the reference on the probes, once, and sweep it.

    Raises:
        GateError: A bound or a check failed.
    """
    job, target = subject.job, subject.job.target
    if folded is not None and not job.runs_here and not _runs_uncompiled(built.graph):
        # Nothing on this machine can run more than the float32 graph.
        report = folded.with_checks(*checks, *subject.proof.prompts(None, job.gate))
    else:
        reference = subject.reference
        if (loss := conversion.format_loss(reference)) is not None:
            reference = replace(reference, format_losses={target.precision: loss})
        with opened(built, subject) as runner:
            encoder = _whole_vectors(subject, _published_tokenizer(subject), runner)
            with job.stages(f"gate: {target.precision} on {job.runs_on}") as stage:
                report = validate(reference, encoder, job.gate, _name(built, job), target.precision)
                stage.result, stage.failed = report.summary(), not report.passed
            with job.stages(f"sweep: {target.precision} on {job.runs_on}") as stage:
                swept = subject.proof.sweep(
                    encoder,
                    job.gate,
                    target.precision,
                    tables_proven=tables_proven(checks, target.backend),
                    lengths=built.graph.padding is Padding.RIGHT,
                )
                prompts = subject.proof.prompts(encoder, job.gate)
                stage.result, stage.failed = swept.coverage, not all_passed((swept, *prompts))
        report = report.with_checks(*checks, swept, *prompts)
    if not report.passed:
        raise _gate_error(report, folded, conversion)
    return report


def _whole_vectors(subject: Subject, tokenizer: Tokenizer, runner: Runner) -> Encoder:
    """Return an encoder of vectors of all dimensions; what a checkpoint truncates is judged by slices of them."""
    facts = subject.checkpoint.facts
    return Encoder.of(facts, tokenizer, runner, truncate_dim=facts.dimension)


def _published_tokenizer(subject: Subject) -> Tokenizer:
    return Tokenizer.from_file(str(subject.folder / TOKENIZER))


def _name(built: BuiltEngine, job: Job) -> str:
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
    failed = {check.name for check in report.checks if not check.passed}
    if failed == {"dataflow"} and all(verdict.passed for verdict in report.verdicts):
        next_step = "korsbert cannot prove what these operators do, and publishes nothing: please report them"
    else:
        next_step = "the export itself is wrong, and no other precision will help: please report it"
    return GateError(report.failure(), report=report.to_dict(), next_step=next_step)


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
