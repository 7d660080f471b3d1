"""From a bundle to a report: its gate and every check, repeated on this machine against a checkpoint loaded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from exporter.bundle import TOKENIZER, Bundle
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.checkpoint import Checkpoint, load_source
from exporter.engines.building import with_target_passes
from exporter.graph.folding import fold
from exporter.recipe import Gate
from exporter.runtime.encoder import Encoder
from exporter.runtime.tokens import TextTokenizer
from exporter.targets import Target
from exporter.validator import Check, ParityReport, Reference, reference_of, validate
from exporter.validator.proof import Proof, as_read_by, at_least_default, check_facts, other_tools, stored_graph
from exporter.validator.provenance import check_graph
from exporter.validator.sweeps.inputs import WIDTH_TOKENS


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
        The report, passed or not. Nothing is written: ``publication.record_validation`` records it.
    """
    manifest = bundle.manifest
    precision = manifest.engine.precision
    name = f"{manifest.recipe.name} {precision} on {manifest.engine.backend}"
    # The engine first: whether it opens here is known sooner than what PyTorch answers.
    with bundle.encoder(device=device) as candidate:
        reference_model = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
        reference = reference_of(reference_model, sts, precision)
        checks = _check_files(bundle, reference_model, reference)
        gate = minimum_gate.gate_for(manifest)
        report = validate(reference, candidate, gate, name, precision)
        checks.append(_sweep(bundle, candidate, reference_model, gate, checks))
    if precision.is_int8 and gate.max_emulator_ratio is not None:
        checks.append(Check("emulator", "not compared: only an export emulates int8"))
    report = replace(report, bundle=manifest.seal, device=device or manifest.validation.device)
    return report.with_checks(*checks)


def _check_files(bundle: Bundle, checkpoint: Checkpoint, reference: Reference) -> list[Check]:
    """Check the manifest's facts of the encoder and the files of a bundle: tokenizer, weights and graph."""
    manifest = bundle.manifest
    engine, precision = manifest.engine, manifest.engine.precision
    proof = Proof(checkpoint, reference.texts, manifest.recipe.shapes)
    checks = [
        check_facts(manifest.encoder.model_dump(), checkpoint.facts.model_dump()),
        proof.tokenizer(Tokenizer.from_buffer(bundle.read(TOKENIZER))),
    ]
    stored = stored_graph(engine, bundle.read)
    if stored is None:
        return [*checks, Check("graph", f"not compared: an engine of {engine.backend} cannot be read")]
    checks.append(proof.weights(stored, precision))
    target = Target(precision, engine.backend, manifest.validation.device)
    proven = with_target_passes(fold(checkpoint), target, TextTokenizer(checkpoint.tokenizer).padding)
    graph = check_graph(as_read_by(engine.backend, proven), stored, precision)
    if not graph.passed and (other := other_tools(manifest.tools)) is not None:
        graph = graph.because(f"the checkpoint was folded by {other}: validate with the versions in the manifest")
    return [*checks, graph, proof.dataflow(proven), proof.lookup(proven)]


def _sweep(bundle: Bundle, encoder: Encoder, checkpoint: Checkpoint, gate: Gate, checks: Sequence[Check]) -> Check:
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
