"""Rules about batching: whether requests can share a batch."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.serving.triton.config import parameter
from exporter.serving.triton.facts import ONE_BATCH_SIZE
from exporter.serving.triton.lint.model import Finding, Model, Repository

_EQUAL_SHAPES_ONLY = ("onnxruntime", "tensorrt", "openvino")
"""Backends that stack requests into one array."""


def check_batch(model: Model) -> Iterator[Finding]:
    """Compare ``max_batch_size`` with the profile, and check that requests are batched at all."""
    config, manifest = model.config, model.manifest
    if model.backend == "ensemble":
        return
    if model.backend == "openvino":
        yield from _openvino_batch(model)
        return
    takes_batches = model.engine is None or all(tensor.shape[:1] == (-1,) for tensor in model.engine.inputs.values())
    if manifest is not None and config.max_batch_size > manifest.recipe.shapes.batch.max:
        yield model.finding(
            "max_batch_size", config.max_batch_size, f"<= {manifest.recipe.shapes.batch.max}", "the profile ends there"
        )
    if not takes_batches:
        return
    if config.max_batch_size == 0 and model.engine is not None:
        yield model.finding(
            "max_batch_size", 0, "1 or more", "the engine has a batch axis: state it here, and drop it from every dims"
        )
    elif (
        config.max_batch_size > 1
        and not config.HasField("dynamic_batching")
        and not config.HasField("sequence_batching")
        and parameter(config, "sequence_buckets") != ""  # a tokenizer of the python runtime is right without
    ):
        yield model.finding(
            "dynamic_batching", "absent", "dynamic_batching { }", "without it every request runs on its own"
        )
    elif config.max_batch_size == 1 and config.HasField("dynamic_batching"):
        yield model.finding(
            "max_batch_size", 1, "above 1", "dynamic batching has no effect: no batch has room for two requests"
        )


def _openvino_batch(model: Model) -> Iterator[Finding]:
    """Check that requests of every size can be answered, which is without batching."""
    if model.config.max_batch_size > 1:
        yield model.finding(
            "max_batch_size",
            model.config.max_batch_size,
            0,
            f"{ONE_BATCH_SIZE}: ship the bundle with the python runtime; or state 0 here and the batch in every dims, "
            "with RESHAPE_IO_LAYERS YES and without dynamic_batching, which runs every request on its own",
        )


def check_preferred_sizes(model: Model) -> Iterator[Finding]:
    """Compare the preferred batch sizes with ``max_batch_size``."""
    config = model.config
    for size in config.dynamic_batching.preferred_batch_size:
        if size > config.max_batch_size:
            yield model.finding(
                "dynamic_batching.preferred_batch_size",
                size,
                f"<= max_batch_size, {config.max_batch_size}",
                "no batch is that large",
            )


def check_shapes(model: Model, repository: Repository) -> Iterator[Finding]:
    """Check that requests of different lengths can share a batch."""
    config = model.config
    if model.backend not in _EQUAL_SHAPES_ONLY or not config.HasField("dynamic_batching"):
        return
    ragged = [tensor.name for tensor in config.input if tensor.allow_ragged_batch]
    if ragged and not config.batch_input:
        yield model.finding(
            f"input[{ragged[0]}].allow_ragged_batch",
            "true",
            "false",
            f"{model.backend} stacks requests into one array: unequal rows cannot be; pad them to buckets instead",
        )
    for tokenizer, ensemble in repository.tokenizers_of(model):
        if not ragged and not parameter(tokenizer.config, "sequence_buckets"):
            yield tokenizer.finding(
                "parameters[sequence_buckets]",
                "not set",
                "the widths to pad to",
                f"{model.config.name} batches requests of equal shapes only, and in {ensemble.config.name} hardly two "
                "are equal: its dynamic batching has no effect",
            )
