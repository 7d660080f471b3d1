"""What a checkpoint's JSON files and the headers of its weights are refused for, before torch is imported.

Importing torch and transformers takes seconds. No rule is stated here: each is that of ``snapshot.py`` or of what it
calls, and loading applies all of them again to the private copy that it loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exporter.checkpoint.limits import refuse_more_tokens
from exporter.checkpoint.place import local_folder
from exporter.checkpoint.snapshot import snapshot_of
from exporter.recipe import Recipe


def refuse_early(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    revision: str | None = None,
    pooling: Sequence[str] | None = None,
    max_seq_length: int | None = None,
) -> None:
    """Refuse a local checkpoint that loading would refuse, as far as its small files tell. torch is not imported.

    A checkpoint on the hub is not downloaded here.

    Args:
        recipe: What names the checkpoint.
        folder: A local copy that takes the place of the recipe's source.
        revision: Branch, tag or commit that takes the place of the recipe's.
        pooling: Pooling modes for a folder without ``modules.json``; by default those that the recipe expects.
        max_seq_length: Tokens per sentence, special tokens included; by default the checkpoint's own limit.

    Raises:
        CheckpointError: No checkpoint there, a file of it is missing, damaged or says what is not followed, or nothing
            states the pooling.
        UnsupportedModelError: A module, an architecture, a task or an activation that cannot be folded.
        MissingDependencyError: The architecture needs newer packages than those that are installed.
        InputError: ``max_seq_length`` is more than the checkpoint serves.
    """
    local = local_folder(recipe, folder, revision)
    if local is None:
        return
    with snapshot_of(local, pooling or recipe.expect.pooling, weights=False) as snapshot:
        if max_seq_length is not None and snapshot.stated_limit is not None:
            refuse_more_tokens(max_seq_length, snapshot.stated_limit, str(local))
