"""check(): the mistakes in a model repository, found by comparing it with its engines, before a server is asked.

Triton finds some of these mistakes when it loads a model, some at the first request, and some never: a model without
working batching answers every request, slowly. Every finding names the file, the field, its value, the value that it
should have, and the fix::

    model.py            a repository, read; findings
    configuration.py    rules about one config.pbtxt
    engine.py           config.pbtxt and the engine
    batching.py         whether requests can share a batch
    tokenizer.py        the tokenizer and the encoder
    ensemble.py         the steps of an ensemble and their models
    bundles.py          hashes, gates and signatures of bundles
"""

from __future__ import annotations

from pathlib import Path

from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.errors import InputError
from exporter.serving.triton.lint import batching, bundles, configuration, engine, ensemble, tokenizer
from exporter.serving.triton.lint.model import Finding, Repository, read_models
from exporter.serving.triton.repository import model_folders

__all__ = ["Finding", "check"]

MODEL_RULES = (
    configuration.check_name,
    configuration.check_backend,
    configuration.check_versions,
    configuration.check_instances,
    configuration.check_warm_up,
    configuration.check_parameters,
    engine.check_tensors,
    engine.check_plan,
    engine.check_image,
    batching.check_batch,
    batching.check_preferred_sizes,
)
"""Rules about one model."""
REPOSITORY_RULES = (bundles.check_bundles, batching.check_shapes, tokenizer.check_tokenizers, ensemble.check_steps)
"""Rules about one model that also look at the rest of the repository."""


def check(
    folder: Path, minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE, require_signature: Path | None = None
) -> list[Finding]:
    """Return the mistakes in a model repository, ours or not; nothing if it is sound.

    Args:
        folder: The repository.
        minimum_gate: The least strict gate that is accepted of a bundle in it.
        require_signature: PEM file of a public key or certificates: every bundle in it must be signed by that.

    Raises:
        InputError: There is no such folder, or no model in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no folder")
    if not model_folders(folder):
        raise InputError(f"{folder}: there is no model in it", next_step="ship a bundle to it first")
    models, findings = read_models(folder)
    repository = Repository(models, minimum_gate, require_signature)
    for model in models.values():
        for rule in REPOSITORY_RULES:
            findings += rule(model, repository)
        for model_rule in MODEL_RULES:
            findings += model_rule(model)
    return list(dict.fromkeys(findings))  # two ensembles may share a tokenizer
