"""A checkpoint to the content of a golden file: PyTorch's answers to the probes, and what number formats lose."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from exporter.bundle import MANIFEST, Bundle
from exporter.checkpoint import Checkpoint, load_checkpoint, load_source
from exporter.errors import InputError
from exporter.golden.content import Golden, GoldenFacts, Stored
from exporter.machine import machine, tool_versions
from exporter.recipe import Recipe, find_recipe
from exporter.stages import Stages
from exporter.validator.prompts import prompt_vectors_of
from exporter.validator.reference import FORMATS, format_loss_of, reference_of, rounding_loss_of

_TOOLS = ("korsbert", "torch", "transformers", "sentence-transformers", "tokenizers", "numpy")


def load_model(
    model: str | Recipe, *, checkpoint: Path | None = None, revision: str | None = None
) -> tuple[Checkpoint, Recipe]:
    """Load the checkpoint that a model names, or that a bundle was made from.

    Args:
        model: Folder of a bundle, name of a recipe, folder of a checkpoint, a hub id, or a recipe.
        checkpoint: A local copy, used instead of its source.
        revision: Branch, tag or commit on the hub; not for a bundle, which names its commit.

    Raises:
        InputError: ``revision`` is given for a bundle.
        ExportError: The checkpoint cannot be loaded; see ``exporter.errors``.
    """
    if isinstance(model, str) and (Path(model) / MANIFEST).is_file():
        if revision is not None:
            raise InputError("`revision` is given for a bundle, which names its commit", next_step="omit `revision`")
        manifest = Bundle.open(Path(model)).manifest
        return load_source(manifest.recipe, manifest.source, checkpoint, model), manifest.recipe
    recipe = model if isinstance(model, Recipe) else find_recipe(model)
    return load_checkpoint(recipe, folder=checkpoint, revision=revision), recipe


def golden_of(
    checkpoint: Checkpoint, recipe: Recipe, dtype: Stored = "float32", stages: Stages | None = None
) -> Golden:
    """Encode the probes with ``SentenceTransformer``, in float32 and in every number format that PyTorch has.

    Args:
        checkpoint: The model, in float32.
        recipe: Its gates, and the dimensions that its vectors are truncated to.
        dtype: In what type the file will hold vectors. float16 is half as large, and too coarse to judge float32.
        stages: Who is told about progress.
    """
    stages = stages or Stages()
    with stages("encode the probes with PyTorch") as stage:
        reference = reference_of(checkpoint)
        stage.result = reference.coverage
    texts, vectors, ids = reference.texts, reference.vectors, reference.token_ids
    with stages("encode them in other number formats") as stage:
        losses = {name: format_loss_of(checkpoint, name, texts, vectors, ids) for name in FORMATS}
        losses["fp32"] = rounding_loss_of(checkpoint, texts, vectors, ids, range(len(texts)))
        known = {name: loss for name, loss in losses.items() if loss is not None}
        stage.result = ", ".join(known)
    with stages("encode them with each prompt") as stage:
        prompts = prompt_vectors_of(checkpoint, texts)
        stage.result = ", ".join(checkpoint.facts.prompts) or "there are none"
    facts = GoldenFacts(
        recipe=recipe.name,
        source=checkpoint.provenance(),
        encoder=checkpoint.facts,
        gates=recipe.gates,
        truncate_dims=checkpoint.truncate_dims(recipe.truncate_dims),
        probes=tuple((probe.text, probe.kind) for probe in reference.probes),
        dtype=dtype,
        losses={name: loss.source for name, loss in known.items()},
        tools=tool_versions(_TOOLS),
        machine=machine(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Golden(facts, vectors, ids, known, prompts)
