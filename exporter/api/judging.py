"""Judge a bundle, or any function from texts to vectors, by its checkpoint or by a golden file; write such a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exporter.api.arguments import device_of, path_of, precision_of
from exporter.bundle import Bundle
from exporter.bundle.finding import find_bundle
from exporter.bundle.minimum_gate import minimum_gate_of
from exporter.dependencies import REFERENCE_PACKAGES, refuse_missing, require_all
from exporter.errors import InputError
from exporter.recipe import Gates, Recipe
from exporter.stages import Stages

if TYPE_CHECKING:
    from exporter.golden import GoldenFacts
    from exporter.validator import ParityReport


def validate(
    bundle: str | Path | Bundle,
    *,
    checkpoint: str | Path | None = None,
    golden: str | Path | None = None,
    sts: Sequence[str | Path] = (),
    device: str | None = None,
    gates: Gates | Recipe | str | Path | None = None,
    require_signature: str | Path | None = None,
) -> ParityReport:
    """Repeat a bundle's gate on this machine, and return the report, passed or not.

    Args:
        bundle: A bundle, its folder, or its id on the hub, as ``load`` takes it.
        checkpoint: A local copy of the checkpoint; by default the source in the manifest, at its commit.
        golden: A golden file, whose answers take the place of the checkpoint's: then neither torch nor the checkpoint
            is needed, and weights, graph and sweeps are not compared.
        sts: Task sets to score both sides on.
        device: Where the bundle runs; by default where it was validated.
        gates: The least that the bundle must reach, whatever gate it states itself: a recipe, or a YAML file with a
            ``gates`` key; by default korsbert's own bounds. The bundle's own bounds count where they are stricter.
        require_signature: Refuse the bundle, and the golden file, unless it is signed by this (PEM): a public key or
            certificates.

    Raises:
        BundleError: No bundle there, a file of it is missing, altered or not listed, or a signature is required and is
            not there or not valid.
        InputError: ``golden`` is no golden file, is of another model, or is given with ``checkpoint`` or ``sts``.
        RecipeError: The gates cannot be read.
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
    """
    device, trusted = device_of(device), path_of(require_signature)
    if golden is None:
        refuse_missing(REFERENCE_PACKAGES)
    elif checkpoint is not None or sts:
        raise InputError(
            f"`golden` is given with `{'checkpoint' if checkpoint is not None else 'sts'}`, which it does not need",
            next_step="omit one of them",
        )
    if isinstance(bundle, Bundle):
        if trusted is not None:
            bundle.verify_signature(trusted)
    else:
        bundle = Bundle.open(find_bundle(bundle).folder, require_signature=trusted, for_encoding=True)
    if golden is not None:
        from exporter.golden import judging, read_golden  # noqa: PLC0415 - imports safetensors

        answers = read_golden(Path(golden), require_signature=trusted)
        return judging.validate_with_golden(bundle, answers, device=device, minimum_gate=minimum_gate_of(gates))
    require_all(REFERENCE_PACKAGES)
    from exporter.validation import validate_bundle  # noqa: PLC0415 - imports torch

    return validate_bundle(
        bundle,
        checkpoint=path_of(checkpoint),
        sts=[Path(file) for file in sts],
        device=device,
        minimum_gate=minimum_gate_of(gates),
    )


def record_validation(bundle: str | Path | Bundle, report: ParityReport) -> Bundle:
    """Record that a bundle, which was published without validation, has passed since: writes ``validation.json``.

    Args:
        bundle: A bundle or its folder.
        report: What ``validate`` returned for it.

    Returns:
        The bundle with the record.

    Raises:
        GateError: The report failed.
        BundleError: The bundle is not pending, or the report is about another bundle or device.
    """
    from exporter import publication  # noqa: PLC0415 - imports torch

    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    return publication.record_validation(opened, report)


def write_golden(
    model: str | Path | Recipe,
    out: str | Path,
    *,
    dtype: Literal["float32", "float16"] = "float32",
    checkpoint: str | Path | None = None,
    revision: str | None = None,
    stages: Stages | None = None,
) -> GoldenFacts:
    """Write what a checkpoint answers to the probes to a golden file, for gates without torch, weights and hub.

    Args:
        model: Name of a recipe, a local folder, a hub id (``owner/name``), a recipe, or the folder of a bundle: then
            the checkpoint that it was made from.
        out: The file. It is replaced if it is there.
        dtype: Type of the vectors in it. float16 makes it half as large, and too coarse to judge float32.
        checkpoint: A local copy of the checkpoint, used instead of its source.
        revision: Branch, tag or commit on the hub, instead of the recipe's.
        stages: Who is told about progress.

    Returns:
        What the file says besides its tensors.

    Raises:
        InputError: ``out`` cannot be written, or the vectors do not fit into ``dtype``.
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
    """
    refuse_missing(REFERENCE_PACKAGES)
    from exporter.golden.file import refuse_to_replace_other_file  # noqa: PLC0415 - imports safetensors
    from exporter.golden.file import write_golden as write  # noqa: PLC0415 - imports safetensors

    refuse_to_replace_other_file(Path(out))
    require_all(REFERENCE_PACKAGES)
    from exporter.golden import making  # noqa: PLC0415 - imports torch

    named = model if isinstance(model, Recipe) else str(model)
    stages = stages or Stages()
    with stages("load checkpoint") as stage:
        loaded, recipe = making.load_model(named, checkpoint=path_of(checkpoint), revision=revision)
        stage.result = loaded.facts.summary
    return write(Path(out), making.golden_of(loaded, recipe, dtype, stages))


def assert_embeddings_match(
    encode: Callable[[list[str]], Any],
    golden: str | Path,
    *,
    precision: str = "fp32",
    gates: Gates | Recipe | str | Path | None = None,
    require_signature: str | Path | None = None,
) -> ParityReport:
    """Compare what a function answers with a golden file: the client of a server, for example. For tests.

    Args:
        encode: Takes a list of texts and returns (texts, dimension) numbers, with the model's default prompt. It is
            called with all probes at once, and with batches of 1 and of 8 texts.
        golden: The golden file.
        precision: What it computes in, ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"int8_dynamic"``: which gate
            counts.
        gates: Bounds that count where the golden file's are weaker: a recipe, or a YAML file with a ``gates`` key; by
            default korsbert's own.
        require_signature: Refuse the golden file unless it is signed by this (PEM): a public key or certificates.

    Returns:
        The report, which passed.

    Raises:
        AssertionError: A bound was missed; with the worst sentence and the likely cause.
        InputError: The golden file cannot be used, or the function returns something else than vectors.
    """
    from exporter.golden import judging, read_golden  # noqa: PLC0415 - imports safetensors

    chosen = precision_of("precision", precision)
    answers = read_golden(Path(golden), require_signature=path_of(require_signature))
    report = judging.judge_function(encode, answers, chosen, minimum_gate_of(gates))
    if not report.passed:
        raise AssertionError(report.failure())
    return report
