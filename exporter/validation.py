"""From a bundle to a report: its gate and every check, repeated on this machine against a checkpoint loaded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from exporter.bundle import TOKENIZER, Bundle, Manifest
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.checkpoint import Checkpoint, load_source
from exporter.engines.building import with_target_passes
from exporter.errors import BuildError
from exporter.graph import Graph
from exporter.graph.folding import fold
from exporter.stages import Stages
from exporter.targets import FOLDED_OPSET, Target
from exporter.validator import Check, ParityReport, validate
from exporter.validator.check import all_passed, check_facts, coverage_of_checks
from exporter.validator.proof import Proof, at_least_default, other_tools, stored_graph, tables_proven
from exporter.validator.reference import reference_of


def validate_bundle(
    bundle: Bundle,
    *,
    checkpoint: Path | None = None,
    sts: Sequence[Path] = (),
    device: str | None = None,
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE,
    stages: Stages | None = None,
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
        stages: Who is told about progress.

    Returns:
        The report, passed or not. Nothing is written: ``publication.record_validation`` records it.
    """
    manifest, stages = bundle.manifest, stages or Stages()
    engine, precision = manifest.engine, manifest.engine.precision
    name = f"{manifest.recipe.name} {precision} on {engine.backend}"
    # The engine first: whether it opens here is known sooner than what PyTorch answers.
    dimension = manifest.encoder.dimension  # what the checkpoint truncates is judged by slices of whole vectors
    with bundle.encoder(device=device, truncate_dim=dimension) as candidate:
        with stages("load checkpoint") as stage:
            reference_model = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
            stage.result = reference_model.facts.summary
        with stages("encode the probes with PyTorch") as stage:
            reference = replace(
                reference_of(reference_model, sts, (precision,)),
                ranges=bundle.ranges(),
                truncate_dims=reference_model.truncate_dims(manifest.recipe.truncate_dims),
            )
            stage.result = reference.coverage
        # The manifest states its shapes; smaller ones than korsbert's own do not count.
        proof = Proof(reference_model, reference.texts, at_least_default(manifest.recipe.shapes, engine.backend))
        with stages("check the files") as stage:
            checks = _check_files(bundle, reference_model, proof)
            stage.result, stage.failed = coverage_of_checks(checks), not all_passed(checks)
        gate = minimum_gate.gate_for(manifest)
        with stages(f"gate: {precision} on {engine.backend}") as stage:
            report = validate(reference, candidate, gate, name, precision)
            stage.result, stage.failed = report.summary(), not report.passed
        with stages(f"sweep: {precision} on {engine.backend}") as stage:
            lengths, proven = engine.facts.right_padded, tables_proven(checks, engine.backend)
            swept = [proof.sweep(candidate, gate, precision, tables_proven=proven, lengths=lengths)]
            swept += proof.prompts(candidate, gate)
            stage.result, stage.failed = coverage_of_checks(swept), not all_passed(swept)
        checks += swept
    if precision.is_int8 and gate.max_emulator_ratio is not None:
        checks.append(Check.skipped("emulator", "only an export emulates int8"))
    report = replace(report, bundle=manifest.seal, device=device or manifest.validation.device)
    return report.with_checks(*checks)


def _check_files(bundle: Bundle, checkpoint: Checkpoint, proof: Proof) -> list[Check]:
    """Check the manifest's facts of encoder and engine, and the files of a bundle: tokenizer, weights and graph."""
    manifest, engine = bundle.manifest, bundle.manifest.engine
    lowered = min(engine.facts.opset or FOLDED_OPSET, FOLDED_OPSET)
    target = Target(engine.precision, engine.backend, manifest.validation.device, lowered)
    folded = fold(checkpoint)
    try:
        proven = with_target_passes(folded, target, checkpoint.padding)
    except BuildError:  # the graph cannot be in the operator set that is stated: it is compared as it was folded
        proven = with_target_passes(folded, replace(target, opset=FOLDED_OPSET), checkpoint.padding)
    stored = stored_graph(engine, bundle.read)
    checks = [
        _check_facts(manifest, checkpoint, proven if stored is not None else None),
        proof.tokenizer(Tokenizer.from_buffer(bundle.read(TOKENIZER))),
    ]
    if stored is None:
        unread = f"an engine of {engine.backend} cannot be read"
        return [*checks, Check.skipped("weights", unread), Check.skipped("graph", unread), *proof.operators(proven)]
    weights, graph = proof.weights(stored, target.precision), proof.graph(proven, stored, target)
    if not graph.passed and (other := other_tools(manifest.tools)) is not None:
        graph = graph.because(f"the checkpoint was folded by {other}: validate with the versions in the manifest")
    return [*checks, weights, graph, *proof.operators(proven)]


def _check_facts(manifest: Manifest, checkpoint: Checkpoint, proven: Graph | None) -> Check:
    """Compare what a manifest states of the encoder, and of an engine that can be read, with what is found.

    By an engine's padding and lengths korsbert refuses masks and versions of ONNX Runtime that it answers wrongly with.

    Args:
        manifest: The manifest.
        checkpoint: What the bundle was made from.
        proven: What the engine's files are compared with; None where they cannot be read.
    """
    stated, found = manifest.encoder.model_dump(), checkpoint.facts.model_dump()
    if proven is not None:
        facts = manifest.engine.facts
        stated |= {"padding": facts.padding.value, "lengths": facts.lengths}
        found |= {"padding": proven.padding.value, "lengths": proven.lengths}
        if facts.opset is not None:
            stated |= {"opset": facts.opset, "unbiased_norms": facts.unbiased_norms}
            found |= {"opset": proven.opset, "unbiased_norms": proven.unbiased_norms}
        if facts.opset is not None and facts.opset < FOLDED_OPSET:  # else it is the version that the tools write
            stated["ir_version"], found["ir_version"] = facts.ir_version, proven.model.ir_version
    return check_facts(stated, found)
