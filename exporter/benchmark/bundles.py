"""bench_bundle(): the speed of a bundle, beside its checkpoint and other bundles of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.benchmark.timing import Encode, Subject, encode_of, measure, reference_encode, torch_threads
from exporter.bundle import Bundle
from exporter.calibration import calibration_sentences
from exporter.dependencies import require
from exporter.errors import BundleError, InputError
from exporter.machine import cores, machine, tool_versions
from exporter.stages import Stages

if TYPE_CHECKING:
    from exporter.checkpoint import Checkpoint

REFERENCE = "sentence-transformers fp32"
WORTH_IT = 1.1
"""Times the throughput of another precision: below, int8 gives accuracy away for nothing."""
_TOOLS = ("korsbert", "numpy", "tokenizers")
_REFERENCE_TOOLS = ("torch", "transformers", "sentence-transformers")


@dataclass(frozen=True)
class Throughput:
    """How fast encoders are, side by side.

    Attributes:
        subjects: The encoders; the first is what the others are relative to.
        conditions: Text, batch size, threads and machine in one sentence.
        facts: The same as JSON data.
        verdict: Whether int8 is worth it here, where an int8 bundle was measured beside one of another precision.
    """

    subjects: tuple[Subject, ...]
    conditions: str
    facts: Mapping[str, Any]
    verdict: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {
            "subjects": [subject.to_dict() for subject in self.subjects],
            "conditions": self.conditions,
            "facts": dict(self.facts),
            "verdict": self.verdict,
        }


def bench_bundle(
    bundle: Bundle,
    *,
    against_torch: bool = False,
    against: Sequence[Bundle] = (),
    text: Path | None = None,
    checkpoint: Path | None = None,
    threads: int | None = None,
    batch_size: int = 32,
    rounds: int = 5,
    stages: Stages | None = None,
) -> Throughput:
    """Measure a bundle, beside the checkpoint it was made from if asked, on the device it was validated on.

    Args:
        bundle: What to measure.
        against_torch: Measure SentenceTransformer in FP32 with SDPA in the same run. Without it no torch is needed.
        against: Other bundles of the same checkpoint to measure in the same run.
        text: Sentences, one a line, or JSONL with ``text``; by default the calibration sentences that ship.
        checkpoint: A local copy of the checkpoint; by default the source in the manifest, at its commit.
        threads: CPU threads of the engine and of torch; by default as many as there are cores. Tokenizers are left to
            themselves: both sides use the same library.
        batch_size: Rows per batch, at most.
        rounds: Timed rounds, after one that warms up.
        stages: Who is told about progress.

    Raises:
        InputError: ``text`` cannot be used, or a bundle of ``against`` is of another checkpoint.
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
        MissingDependencyError: The engine, or torch where it is asked for, is not installed.
    """
    stages = stages or Stages()
    sentences = list(calibration_sentences(text, probes=()))
    threads = threads or cores()
    engine, device = bundle.manifest.engine, bundle.manifest.validation.device
    others = [
        other for other in against if other.manifest.source.weights_sha256 != bundle.manifest.source.weights_sha256
    ]
    if others:
        raise InputError(
            f"{others[0].folder}: made from another checkpoint than {bundle.folder}",
            next_step="give `against` only bundles of the same checkpoint",
        )
    names = _names((bundle, *against))
    name = names[0]
    encoders: dict[str, Encode] = {}
    if against_torch:
        with stages("load checkpoint") as stage:
            reference = _reference(bundle, checkpoint, device)
            stage.result = reference.facts.summary
        encoders[REFERENCE] = reference_encode(reference)
    with ExitStack() as stack:
        encoder = stack.enter_context(bundle.encoder(threads=threads))
        stack.enter_context(torch_threads(threads if against_torch else None))
        encoders[name] = encode_of(encoder)
        for other, other_name in zip(against, names[1:], strict=True):
            encoders[other_name] = encode_of(stack.enter_context(other.encoder(threads=threads)))
        tokens = float(np.mean(encoder.count_tokens(sentences)))
        with stages("measure") as stage:
            stage.result = f"{len(sentences)} sentences, rounds: {rounds}, in turns: {', '.join(encoders)}"
            subjects = measure(encoders, sentences, batch_size=batch_size, rounds=rounds, progress=stages.progress)
    tools = (
        *_TOOLS,
        engine.backend,
        f"{engine.backend}-gpu",
        "tensorrt-rtx-cu13",
        *(_REFERENCE_TOOLS if against_torch else ()),
    )
    facts = {
        "text": text.name if text is not None else "the calibration sentences that ship",
        "sentences": len(sentences),
        "tokens_per_sentence": round(tokens, 1),
        "batch_size": batch_size,
        "threads": threads,
        "rounds": rounds,
        "device": device,
        "execution": encoder.execution,
        "machine": machine(),
        "tools": tool_versions(tools),
    }
    return Throughput(subjects, conditions(facts), facts, int8_verdict(bundle, against, subjects))


def siblings_of(bundle: Bundle) -> tuple[Bundle, ...]:
    """Return the bundles of other precisions beside an int8 one, for whatever engine, of the same checkpoint.

    Nobody has asked for them: one that is damaged, or that runs on another device, is passed over.
    """
    engine = bundle.manifest.engine
    if not engine.precision.is_int8:
        return ()
    places = sorted(
        place for precision in ("fp32", "fp16", "bf16") for place in bundle.folder.parent.glob(f"{precision}-*")
    )
    opened = []
    for place in places:
        with suppress(BundleError):
            opened.append(Bundle.open(place))
    wanted = (bundle.manifest.source, bundle.manifest.validation.device)
    return tuple(
        other
        for other in opened
        if (other.manifest.source, other.manifest.validation.device) == wanted and other.validated
    )


def int8_verdict(bundle: Bundle, against: Sequence[Bundle], subjects: Sequence[Subject]) -> str | None:
    """Say whether int8 is worth what it loses: by how much it is faster than the fastest of the other precisions.

    Returns:
        One sentence, or None where the bundle is not int8.
    """
    speed = {subject.name: np.array(subject.round_s) for subject in subjects}
    precision, backend = bundle.manifest.engine.precision, bundle.manifest.engine.backend
    own, *names = _names((bundle, *against))
    ratios = {
        name: float(np.median(speed[name] / speed[own]))
        for name, other in zip(names, against, strict=True)
        if not other.manifest.engine.precision.is_int8
    }
    if not precision.is_int8:
        return None
    if not ratios:
        return f"{precision} was not compared with another precision: measure it against a bundle in fp32 or fp16"
    name = min(ratios, key=lambda name: ratios[name])
    engine = against[names.index(name)].manifest.engine
    fastest = engine.precision if engine.backend == backend else f"{engine.precision} on {engine.backend}"
    advice = f"ship {fastest}" if ratios[name] < WORTH_IT else f"{precision} is worth it"
    return f"{precision} {ratios[name]:.3g}x {fastest} here: {advice}"


def _names(bundles: Sequence[Bundle]) -> list[str]:
    """Return what bundles are called in tables: where two would be called the same, their folders tell them apart."""
    names = [
        f"{bundle.manifest.recipe.name} {bundle.manifest.engine.precision} on {bundle.manifest.engine.backend}"
        for bundle in bundles
    ]
    return [
        f"{name} ({bundle.folder})" if names.count(name) > 1 else name
        for name, bundle in zip(names, bundles, strict=True)
    ]


def _reference(bundle: Bundle, folder: Path | None, device: str) -> Checkpoint:
    for package in ("torch", "sentence_transformers", "optimum"):
        require(package)
    from exporter.checkpoint import load_source  # noqa: PLC0415 - brings in torch

    return load_source(bundle.manifest.recipe, bundle.manifest.source, folder, str(bundle.folder), device)


def conditions(facts: Mapping[str, Any]) -> str:
    """Say in one sentence under which conditions was measured."""
    tools = ", ".join(f"{tool} {version}" for tool, version in facts["tools"].items())
    return (
        f"{facts['sentences']} sentences of {facts['text']} ({facts['tokens_per_sentence']:g} tokens each), "
        f"batch {facts['batch_size']}, CPU threads {facts['threads']}, {facts['device']} ({facts['execution']}), "
        f"string to vector, median of rounds ({facts['rounds']}, in turns, after a warm-up); latency is "
        "of single sentences; "
        f"{facts['machine']['processor']}, {facts['machine']['cores']} cores; {tools}"
    )
