"""A recipe to the reference: a private copy of its files, loaded without running anybody's code, then compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from exporter.checkpoint.checks import check_reference
from exporter.checkpoint.declared_sizes import check_declared_sizes
from exporter.checkpoint.facts import read_facts
from exporter.checkpoint.hub import download
from exporter.checkpoint.libraries import quiet_transformers, told_as_checkpoint_error
from exporter.checkpoint.parameters import Equality, check_parameters
from exporter.checkpoint.place import local_folder
from exporter.checkpoint.reference import Checkpoint
from exporter.checkpoint.snapshot import Snapshot, snapshot_of
from exporter.checkpoint.weights import StoredWeights
from exporter.errors import CheckpointError, MissingDependencyError
from exporter.recipe import Recipe, Source, recipes_folder, ships


def load_checkpoint(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    revision: str | None = None,
    pooling: Sequence[str] | None = None,
    max_seq_length: int | None = None,
    device: str = "cpu",
) -> Checkpoint:
    """Load the checkpoint a recipe names, prove that it is what its files hold, and compare it with the recipe.

    Args:
        recipe: What to load and what to expect.
        folder: A local copy that takes the place of the recipe's source.
        revision: Branch, tag or commit that takes the place of the recipe's.
        pooling: Pooling modes for a folder without ``modules.json``; by default those that the recipe expects.
        max_seq_length: Tokens per sentence, special tokens included; by default the checkpoint's own limit.
        device: Where the reference computes, ``"cpu"`` or ``"cuda"``.

    Raises:
        CheckpointError: No checkpoint there, damaged files, pickled code, a key that steers a loader, weights that are
            missing or were loaded otherwise than the files hold them, or a disagreement with the recipe.
        InputError: ``max_seq_length`` is more than the checkpoint serves, or leaves no room for text.
        UnsupportedModelError: A module, an architecture or a task that is not folded.
        HubError: The hub cannot be reached.
    """
    local, commit = _resolve(recipe, folder, revision)
    with (
        snapshot_of(local, pooling or recipe.expect.pooling) as snapshot,
        told_as_checkpoint_error(snapshot.folder),
    ):
        model, equality = _load_compared(snapshot, device)
        checkpoint = read_facts(
            model,
            snapshot,
            source=str(local) if commit is None else recipe.source,
            source_name=recipe.source_name(folder),
            commit=commit,
            equality=equality,
            max_seq_length=max_seq_length,
        )
    check_reference(checkpoint, recipe, pooling)
    return checkpoint


def hashes_of(
    recipe: Recipe, *, folder: Path | None = None, revision: str | None = None, pooling: Sequence[str] | None = None
) -> dict[str, str]:
    """Return the SHA-256 of every file that ``load_checkpoint`` would load, by its name. Nothing is loaded.

    Raises:
        CheckpointError: No checkpoint there, or a file of it cannot be used.
        HubError: The hub cannot be reached.
    """
    local, _ = _resolve(recipe, folder, revision)
    with snapshot_of(local, pooling or recipe.expect.pooling) as snapshot:
        return dict(snapshot.files)


def _load_compared(snapshot: Snapshot, device: str) -> tuple[SentenceTransformer, Equality]:
    """Load a model and compare its parameters with the weight files, which are closed again at the end."""
    # Every weight file is opened as data before a library may open it.
    stored = {place: StoredWeights(files) for place, files in snapshot.weights.items()}
    for place, weights in stored.items():
        check_declared_sizes(place, weights)
    model = _load(snapshot.folder, device)
    return model, _check_weights(model, stored)


def load_source(
    recipe: Recipe, source: Source, folder: Path | None, made_from_it: str, device: str = "cpu"
) -> Checkpoint:
    """Load the very checkpoint a bundle was made from.

    Args:
        recipe: The bundle's recipe.
        source: What its manifest says of the checkpoint.
        folder: A local copy; by default the source itself, at its commit. A bundle that was made from a local folder
            needs it: the manifest has the name of that folder, not where it stands.
        made_from_it: The bundle, for messages.
        device: Where the reference computes.

    Raises:
        CheckpointError: ``folder`` is needed, the checkpoint cannot be loaded, or one of its files has another hash
            than the bundle's.
        HubError: The hub cannot be reached.
    """
    if folder is None and source.commit is None and not ships(recipes_folder() / source.checkpoint):
        raise CheckpointError(
            f"{made_from_it}: made from a local folder, {source.checkpoint}, and does not say where that stands",
            next_step="give the checkpoint that it was made from with `checkpoint=FOLDER`",
        )
    same = recipe.model_copy(update={"source": source.checkpoint})
    checkpoint = load_checkpoint(
        same,
        folder=folder,
        revision=source.commit,
        pooling=source.pooling,
        max_seq_length=source.max_seq_length,
        device=device,
    )
    _check_same_weights(checkpoint, source, made_from_it)
    _check_same_files(checkpoint, source, made_from_it)
    return checkpoint


def _check_same_weights(checkpoint: Checkpoint, source: Source, bundle: str) -> None:
    if checkpoint.weights_sha256 != source.weights_sha256:
        raise CheckpointError(
            f"{bundle}: made from other weights than {checkpoint.source} holds: "
            f"{source.weights_sha256[:12]}… and {checkpoint.weights_sha256[:12]}…",
            next_step="give the checkpoint that it was made from with `checkpoint=FOLDER`",
        )


def _check_same_files(checkpoint: Checkpoint, source: Source, bundle: str) -> None:
    """Name the first file that the checkpoint has otherwise than the bundle's manifest says, with both hashes."""
    for name in sorted({**source.files, **checkpoint.files}):
        wanted, found = source.files.get(name), checkpoint.files.get(name)
        if wanted != found:
            shown = [f"sha256 {value[:12]}…" if value else "no such file" for value in (wanted, found)]
            raise CheckpointError(
                f"{bundle}: made from another {name} than {checkpoint.source} holds: {shown[0]} and {shown[1]}",
                next_step="give the checkpoint that it was made from with `checkpoint=FOLDER`",
            )


def _resolve(recipe: Recipe, folder: Path | None, revision: str | None) -> tuple[Path, str | None]:
    """Return the local folder, and the commit where it is the hub's."""
    local = local_folder(recipe, folder, revision)
    return (local, None) if local is not None else download(recipe.source, revision or recipe.revision)


def _load(folder: Path, device: str) -> SentenceTransformer:
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError("torch finds no CUDA device here", next_step="use `device=cpu`")
    with quiet_transformers():
        model = SentenceTransformer(
            str(folder),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            # transformers 5 keeps the stored dtype unless told. Its attention is left to it: SDPA, which folds to
            # one Attention operator, for all that have it (MPNet alone has not).
            model_kwargs={"dtype": torch.float32},
        )
    return model.float().eval()


def _check_weights(model: SentenceTransformer, stored: Mapping[Path, StoredWeights]) -> Equality:
    """Compare the parameters of the transformer, and of each module after it, with the files in its folder."""
    total = Equality(0, 0)
    modules = [module for module in model if next(module.parameters(), None) is not None]
    for module, weights in zip(modules, stored.values(), strict=True):
        transformer = getattr(module, "auto_model", None)
        if transformer is None:
            total += check_parameters(module, weights)
        else:
            total += check_parameters(
                transformer, weights, transformer.base_model_prefix, transformer.config.model_type
            )
    return total
