"""What an export is asked for, refused before any work if it cannot be done; and the checkpoint that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from exporter import acceptance
from exporter.bundle import RangesFacts
from exporter.calibration import TokenBatches, audit_text, measured_sentences
from exporter.checkpoint import Checkpoint, load_checkpoint
from exporter.options import ExportOptions
from exporter.pipeline.ranges import calibrated_ranges
from exporter.recipe import Gate, Recipe
from exporter.runtime.vector_types import Ranges
from exporter.stages import UNCOMPILED, Stages
from exporter.targets import Device, Target
from exporter.validator import Reference
from exporter.validator.proof import Proof
from exporter.validator.reference import reference_of


@dataclass(frozen=True)
class Job:
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
        """Precision, backend and device."""
        return self.options.target

    @property
    def is_as_folded(self) -> bool:
        """Whether the engine is the folded float32 graph itself, so that its gate is gate 1 too."""
        return self.target.is_as_folded

    @property
    def place(self) -> Path:
        """The folder of the bundle."""
        return acceptance.place_of(self.recipe, self.options)

    @property
    def gate(self) -> Gate:
        """The bounds of the target's precision."""
        return self.recipe.gates.of(self.target.precision)

    @property
    def ledger(self) -> Path:
        """The results of a search, kept beside the bundle until it is published."""
        return self.place.with_name(f".{self.place.name}.search.json")

    @property
    def runs_on(self) -> str:
        """What runs the built engine."""
        return self.target.backend if self.runs_here else UNCOMPILED


@dataclass(frozen=True)
class Subject:
    """A job with its checkpoint, and what the checkpoint answers: jobs of one checkpoint share all but the first two.

    Attributes:
        job: What is asked for.
        folder: The staging folder.
        checkpoint: The FP32 PyTorch model.
        reference: Its vectors of the probes.
        ranges: The ranges of int8 vectors, from its vectors of calibration text.
        calibrated: What that text was.
        proof: The checks against it.
        text: Sentences for an audit of activations. No probe is among them.
    """

    job: Job
    folder: Path
    checkpoint: Checkpoint
    reference: Reference
    ranges: Ranges
    calibrated: RangesFacts
    proof: Proof
    text: TokenBatches


def accept(recipe: Recipe, options: ExportOptions, stages: Stages) -> Job:
    """Refuse what cannot be done, before any work. Without ``unvalidated``, the engine must run on this machine."""
    return Job(acceptance.named(recipe, options), options, stages, acceptance.accept(recipe, options))


def load(jobs: Sequence[Job], folder: Path) -> Subject:
    """Load the checkpoint of some jobs, which differ in their target alone, and encode the probes with PyTorch.

    Returns:
        The subject of the first job, whose staging folder is ``folder``.
    """
    job = jobs[0]
    options, stages = job.options, job.stages
    with stages("load checkpoint") as stage:
        checkpoint = load_checkpoint(
            job.recipe,
            folder=options.checkpoint,
            revision=options.revision,
            pooling=options.pooling,
            max_seq_length=options.max_seq_length,
            device=options.device if all(one.runs_here for one in jobs) else Device.CPU,
        )
        stage.result = checkpoint.facts.summary
    truncate_dims = checkpoint.truncate_dims(job.recipe.truncate_dims)
    with stages("encode the probes with PyTorch") as stage:
        reference = reference_of(checkpoint, options.sts, [one.target.precision for one in jobs])
        sentences = measured_sentences(options.calibration, reference.texts)
        text = audit_text(sentences, checkpoint.tokenizer, checkpoint.facts.prompt)
        stage.result = reference.coverage
    with stages("measure the ranges of vectors with PyTorch") as stage:
        ranges, calibrated = calibrated_ranges(checkpoint, sentences, options.calibration, truncate_dims)
        stage.result = f"{calibrated.sentences} sentences: {calibrated.source}"
    reference = replace(reference, ranges=ranges, truncate_dims=truncate_dims)
    proof = Proof(checkpoint, reference.texts, job.recipe.shapes)
    return Subject(job, folder, checkpoint, reference, ranges, calibrated, proof, text)
