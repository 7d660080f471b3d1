"""What a loaded reference must be: able to encode, and what its recipe says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from exporter.checkpoint.libraries import told_as_checkpoint_error
from exporter.checkpoint.reference import Checkpoint
from exporter.errors import CheckpointError
from exporter.recipe import KnownAnswer, Recipe
from exporter.runtime.tokens import TextTokenizer

_BLOCK = 2**24  # numbers
_TRIAL = ("1", "\U00013080")  # a common sign, and a hieroglyph that vocabularies do not know


def check_reference(checkpoint: Checkpoint, recipe: Recipe, pooling: Sequence[str] | None) -> None:
    """Check that a reference can serve as one, and compare it with its recipe.

    Args:
        checkpoint: The reference.
        recipe: What is expected of it.
        pooling: Pooling modes that were asked for, or None.

    Raises:
        CheckpointError: It cannot encode, or is not what was asked for.
    """
    _check_finite(checkpoint)
    _check_encodes(checkpoint)
    _check_pooling(checkpoint, pooling)
    _check_expectations(checkpoint, recipe)
    _check_known_ids(checkpoint, recipe)
    if recipe.known_answer is not None:
        _check_known_answer(checkpoint, recipe.known_answer)


def _check_finite(checkpoint: Checkpoint) -> None:
    """Refuse weights that no candidate could be compared with: a gate would blame the export."""
    for name, parameter in checkpoint.model.named_parameters():
        blocks = parameter.detach().flatten().split(_BLOCK)  # isfinite makes copies of what it looks at
        if not all(torch.isfinite(block).all() for block in blocks):
            raise CheckpointError(f"{checkpoint.source}: the weight {name} holds NaN or Inf")


def _check_encodes(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose modules do not fit together, or whose vectors are not numbers."""
    with told_as_checkpoint_error(checkpoint.source, "encode a sentence with it"):
        vectors = checkpoint.encode(list(_TRIAL))
    if not np.isfinite(vectors).all():
        raise CheckpointError(
            f"{checkpoint.source}: the vector of a sentence holds NaN or Inf",
            next_step="check the numbers in its config.json, for example layer_norm_eps",
        )


def _check_expectations(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Refuse a checkpoint that is not what its recipe says, naming both values of everything that differs."""
    expected = recipe.expect.model_dump(exclude_none=True)
    facts = checkpoint.facts.model_dump() | {"max_seq_length": checkpoint.own_max_seq_length}
    prompts = expected.pop("prompts", {})
    wrong = [
        f"{name} is {facts[name]!r}, the recipe expects {value!r}"
        for name, value in expected.items()
        if facts[name] != value
    ]
    found = checkpoint.facts.prompts
    wrong += [
        f"the prompt {name!r} is {found.get(name)!r}, the recipe expects {text!r}"
        for name, text in prompts.items()
        if found.get(name) != text
    ]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.source} is not what recipe {recipe.name!r} describes: {'; '.join(wrong)}",
            next_step="give the right checkpoint, or a recipe that describes this one",
        )


def _check_pooling(checkpoint: Checkpoint, asked: Sequence[str] | None) -> None:
    """Refuse a pooling that was asked for where the checkpoint states another."""
    if asked is not None and tuple(asked) != checkpoint.facts.pooling:
        raise CheckpointError(
            f"{checkpoint.source}: its modules.json states {' and '.join(checkpoint.facts.pooling)} pooling, and "
            f"{' and '.join(asked)} was asked for",
            next_step="leave out `pooling`: it is for folders without modules.json",
        )


def _check_known_ids(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Compare the tokenizer's ids with those that the recipe knows of some texts."""
    tokenizer = TextTokenizer(checkpoint.tokenizer)
    for known in recipe.known_ids:
        (found,) = tokenizer.ids([known.text])
        if tuple(found) != known.ids:
            raise CheckpointError(
                f"{checkpoint.source}: its tokenizer gives {found} for {known.text!r}, recipe {recipe.name!r} expects "
                f"{list(known.ids)}",
                next_step="check the revision, and that tokenizer and recipe belong together",
            )


def _check_known_answer(checkpoint: Checkpoint, known: KnownAnswer) -> None:
    """Compare the reference with the vectors its authors print, where the recipe carries them."""
    vectors = checkpoint.encode(list(known.sentences)).astype(np.float64)
    printed = np.array([[*first, *last] for first, last in zip(known.first, known.last, strict=True)])
    head, tail = len(known.first[0]), len(known.last[0])
    found = np.concatenate([vectors[:, :head], vectors[:, -tail:]], axis=1)
    cosine = float(vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]))
    worst = max(float(np.abs(found - printed).max()), abs(cosine - known.cosine))
    if worst > known.tolerance:
        raise CheckpointError(
            f"{checkpoint.source}: its vectors differ from the published ones by {worst:.2g} (> {known.tolerance:g})",
            next_step="check the revision and that the files are the authors' own",
        )
