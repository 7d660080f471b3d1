"""Whether tuning can begin: which engines this machine can build and run, and whether the winner's place is free."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from exporter.acceptance import accept, named, place_of, refuse_source
from exporter.bundle import Bundle
from exporter.bundle.atomic import refuse_unwritable
from exporter.bundle.manifest import read_manifest
from exporter.bundle.publish import refuse_to_replace_another, refuse_to_replace_other_files
from exporter.errors import BuildError, BundleError, MissingDependencyError
from exporter.options import ExportOptions, TuneOptions
from exporter.recipe import Recipe
from exporter.targets import Backend, Device, Precision, Target

Refusals = Mapping[Target, str]


def refuse_tuning(recipe: Recipe, tuning: TuneOptions, options: ExportOptions) -> None:
    """Refuse what a tuning would fail with later, as far as that is known without torch.

    Raises:
        MissingDependencyError: This machine can build and run none of the engines.
        BundleError: A bundle is where the winner may go and ``force`` is off, or the place cannot be written to.
        ExportError: See ``exporter.errors``.
    """
    accepted, refused = accept_each(recipe, tuning, as_candidates(recipe, options))
    if not accepted:
        raise none_available(refused)
    refuse_taken_places(recipe, [one.target for one in accepted], options)
    refuse_source(recipe, options, text=tuning.text)


def as_candidates(recipe: Recipe, options: ExportOptions) -> ExportOptions:
    """Return the options that candidates are exported with: into the work folder, and none in place of another."""
    return options.model_copy(update={"out": work_place(recipe, options), "force": False, "unvalidated": False})


def work_place(recipe: Recipe, options: ExportOptions) -> Path:
    """Return the folder in which the candidates of a model wait until one is chosen."""
    return options.out / f".{options.name or recipe.name}.tune"


def accept_each(
    recipe: Recipe, tuning: TuneOptions, options: ExportOptions
) -> tuple[list[ExportOptions], dict[Target, str]]:
    """Return the options of each target that this machine can build and run, and why it cannot the others.

    The fp32 engine of ONNX Runtime comes first where it is among them: its gate is the first gate of others.

    Raises:
        ExportError: What concerns every target.
    """
    accepted: list[ExportOptions] = []
    refused: dict[Target, str] = {}
    for asked in _each(tuning, options):
        backend = asked.backend
        if backend.needs_gpu and options.device is Device.CPU:
            refused[asked.target] = f"{backend} runs on a GPU, and the engines of the CPU are compared"
            continue
        try:
            accept(recipe, asked)
        except (BuildError, MissingDependencyError) as error:
            refused[asked.target] = error.message.splitlines()[0]
        else:
            accepted.append(asked)
    return accepted, refused


def _each(tuning: TuneOptions, options: ExportOptions) -> Iterator[ExportOptions]:
    for backend in sorted(set(tuning.backends), key=list(Backend).index):
        for precision in sorted(set(tuning.precisions), key=list(Precision).index):
            yield options.model_copy(update={"precision": precision, "backend": backend, **_idle(backend)})


def _idle(backend: Backend) -> dict[str, Any]:
    """Return the options that a backend does not heed, as they are by default."""
    idle = [] if backend.needs_gpu else ["workspace_mib", "hardware_compatible"]
    idle += [] if backend is Backend.TENSORRT else ["version_compatible"]
    idle += [] if backend is Backend.ONNXRUNTIME else ["opset"]
    return {name: ExportOptions.model_fields[name].default for name in idle}


def none_available(refused: Refusals) -> MissingDependencyError:
    """Return the error of a machine that runs none of the engines."""
    reasons = "".join(f"\n  {target}: {reason}" for target, reason in refused.items())
    return MissingDependencyError(
        f"this machine can build and run none of {len(refused)} engines{reasons}",
        next_step="name other `precisions` or `backends`, or another `device`",
    )


def refuse_taken_places(
    recipe: Recipe, targets: Sequence[Target], options: ExportOptions, *, resumable: bool = True
) -> None:
    """Refuse to begin where the winner might find its place taken, other than by an interrupted run.

    Args:
        recipe: The model.
        targets: What the winner may be built for.
        options: How it is exported; ``out`` is where it goes.
        resumable: Whether the work folder may hold the candidates of this very run, interrupted earlier.

    Raises:
        BundleError: A bundle is there and ``force`` is off, or it is not a bundle of the same checkpoint; or a place or
            the work folder cannot be written to.
    """
    work = work_place(recipe, options)
    for target in targets:
        place = place_of_winner(recipe, options, target)
        if os.path.lexists(place) and not options.force:
            if not (resumable and is_published(place, work / place.parent.name / place.name)):
                raise BundleError(
                    f"{place}: already exists, and the winner may go there",
                    next_step="`force` replaces it once the winner is known; `name` gives the winner another folder",
                )
            open_published(place)
        refuse_unwritable(place)
        refuse_to_replace_other_files(place)
        refuse_to_replace_another(place, recipe.source_name(options.checkpoint))
    refuse_unwritable(work)


def place_of_winner(recipe: Recipe, options: ExportOptions, target: Target) -> Path:
    """Return the folder that a bundle for a target goes to if it wins."""
    chosen = options.model_copy(update={"precision": target.precision, "backend": target.backend})
    return place_of(named(recipe, chosen), chosen)


def is_published(place: Path, candidate: Path) -> bool:
    """Whether the bundle at a place is a candidate that an interrupted run has published: their seals are equal."""
    with suppress(BundleError):
        return read_manifest(place).seal == read_manifest(candidate).seal
    return False


def open_published(place: Path) -> Bundle:
    """Open a bundle that an interrupted run has published.

    Raises:
        BundleError: It was damaged since, or a file was added that no bundle holds.
    """
    try:
        return Bundle.open(place)
    except BundleError as error:
        raise BundleError(
            f"{error.message}; the run that was interrupted has published this bundle",
            next_step="`force` replaces the bundle; a file that you have added can be moved out of it",
        ) from error
