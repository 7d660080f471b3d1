"""Whether an export can be done: what is refused before torch is imported, which takes seconds, and before any work.

The options, the files that they name, the target and the place are judged here alone. Of the checkpoint only its small
files are read (``checkpoint/early.py``).
"""

from __future__ import annotations

from pathlib import Path

from exporter.bundle.atomic import refuse_taken, refuse_unwritable
from exporter.bundle.publish import refuse_to_replace_another, refuse_to_replace_other_files
from exporter.calibration import calibration_sentences
from exporter.checkpoint.early import refuse_early
from exporter.engines import BuildOptions, backend_of, refuse_idle_options
from exporter.errors import InputError, MissingDependencyError
from exporter.options import ExportOptions
from exporter.precisions import precision_of
from exporter.recipe import Recipe
from exporter.targets import Backend, Device, Target
from exporter.validator.sts import read_sts


def refuse_what_cannot_be_done(recipe: Recipe, options: ExportOptions) -> None:
    """Refuse an export that would fail later, as far as that is known without torch.

    Raises:
        MissingDependencyError: A package is not installed, or the engine cannot run on this machine.
        ExportError: An option, a file, the target, the place or the checkpoint cannot be used; see
            ``exporter.errors``.
    """
    refuse_target(recipe, options)
    refuse_source(recipe, options)


def refuse_target(recipe: Recipe, options: ExportOptions) -> None:
    """Refuse options, a target or a place that an export could not use.

    Raises:
        MissingDependencyError: The engine cannot run on this machine.
        ExportError: See ``exporter.errors``.
    """
    accept(recipe, options)
    place = place_of(named(recipe, options), options)
    if not options.force:
        refuse_taken(place)
    refuse_unwritable(place)


def refuse_source(recipe: Recipe, options: ExportOptions, *, text: Path | None = None) -> None:
    """Refuse a checkpoint and files of text that an export could not use, whatever its target.

    Args:
        recipe: The model.
        options: How it is exported.
        text: One more file of sentences, that engines are measured with.

    Raises:
        ExportError: See ``exporter.errors``.
    """
    _refuse_missing_files(options)
    _refuse_text(options)
    if text is not None:
        calibration_sentences(text, ())
    refuse_early(
        recipe,
        folder=options.checkpoint,
        revision=options.revision,
        pooling=options.pooling,
        max_seq_length=options.max_seq_length,
    )


def accept(recipe: Recipe, options: ExportOptions) -> bool:
    """Refuse options and targets that cannot be built. Without ``unvalidated``, the engine must run on this machine.

    Returns:
        Whether this machine can run the engine.
    """
    target = options.target
    refuse_idle_options(target.backend, build_options(options))
    _refuse_idle_opset(target)
    _refuse_missing_files(options)
    precision_of(target.precision).check(target)
    here = runs_here(options)
    if options.force:
        place = place_of(named(recipe, options), options)
        refuse_to_replace_other_files(place)
        refuse_to_replace_another(place, recipe.source_name(options.checkpoint))
    return here


def runs_here(options: ExportOptions) -> bool:
    """Return whether this machine can run the engine. Without ``unvalidated``, it must.

    Raises:
        MissingDependencyError: It cannot, or it cannot build the engine.
        BuildError: The engine has no kernels for the precision.
    """
    target, backend = options.target, backend_of(options.backend)
    try:
        backend.check(target.precision, target.device)
    except MissingDependencyError:
        if not options.unvalidated:
            raise
        backend.check_build(target.precision, target.device)
        return False
    return True


def named(recipe: Recipe, options: ExportOptions) -> Recipe:
    """Return the recipe under the name that the bundle is to have."""
    return recipe if options.name is None else recipe.model_copy(update={"name": options.name})


def place_of(recipe: Recipe, options: ExportOptions) -> Path:
    """Return the folder of the bundle, for a recipe under the bundle's name."""
    return options.out / recipe.name / options.target.folder


def build_options(options: ExportOptions) -> BuildOptions:
    """Return those options of an export that an engine is built with."""
    return BuildOptions(
        workspace_mib=options.workspace_mib,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
    )


def _refuse_idle_opset(target: Target) -> None:
    """Refuse a lower operator set where korsbert has not measured what runs it."""
    if not target.is_lowered:
        return
    if target.backend is not Backend.ONNXRUNTIME:
        raise InputError(f"the {target.backend} backend does not support `opset`", next_step="leave it out")
    if target.device is not Device.CPU:
        raise InputError(
            f"`opset` is for older versions of ONNX Runtime on the CPU, and the device is {target.device}",
            next_step="leave out one of them",
        )


def _refuse_missing_files(options: ExportOptions) -> None:
    """Refuse a file of text that is not there."""
    for path in (options.calibration, *options.sts):
        if path is not None and not path.exists():
            raise InputError(f"{path}: cannot be read: No such file or directory", next_step="check the path")


def _refuse_text(options: ExportOptions) -> None:
    """Refuse files of text by what is in them. A pipe is left alone: it can be read only once."""
    if options.calibration is not None and not options.calibration.is_fifo():
        calibration_sentences(options.calibration, ())
    for path in options.sts:
        if not path.is_fifo():
            read_sts(path)
