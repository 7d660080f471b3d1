"""Export a checkpoint: to one target, in several precisions, or to the best engine of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from exporter.api.arguments import precision_of
from exporter.bundle import Bundle
from exporter.dependencies import EXPORT_PACKAGES, refuse_missing, require_all
from exporter.errors import ExportError, InputError
from exporter.options import ExportOptions, TuneOptions
from exporter.recipe import Recipe, find_recipe
from exporter.stages import Stages
from exporter.targets import Precision

if TYPE_CHECKING:
    from exporter.tuning import Tuned


def export(
    model: str | Recipe, options: ExportOptions | None = None, *, stages: Stages | None = None, **named: Any
) -> Bundle:
    """Export a checkpoint, prove the result equal to it, and publish it.

    ``export("demo", precision="fp16")`` and ``export("demo", ExportOptions(precision="fp16"))`` are the same.

    Args:
        model: Name of a recipe, a local folder, a hub id (``owner/name``), or a recipe.
        options: How to export; see ``ExportOptions``.
        stages: Who is told about progress.
        **named: Fields of ``ExportOptions``, instead of ``options``.

    Raises:
        GateError: The result differs by more than the recipe's gates allow; nothing was published.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    options = _export_options(options, named)
    recipe = model if isinstance(model, Recipe) else find_recipe(model)
    refuse_missing(EXPORT_PACKAGES)
    from exporter import acceptance  # noqa: PLC0415 - imports onnx_ir

    acceptance.refuse_what_cannot_be_done(recipe, options)
    require_all(EXPORT_PACKAGES)
    from exporter import pipeline  # noqa: PLC0415 - imports torch

    return pipeline.export(recipe, options, stages)


def export_precisions(
    model: str | Recipe,
    precisions: Sequence[str],
    options: ExportOptions | None = None,
    *,
    stages: Stages | None = None,
    **named: Any,
) -> dict[Precision, Bundle | ExportError]:
    """Export a checkpoint in several precisions, which share the work that does not depend on the precision.

    The checkpoint is loaded, encoded and folded once, and the float32 graph is judged once. Each bundle is published as
    soon as it has passed. That one precision is refused does not stop the others.

    Args:
        model: Name of a recipe, a local folder, a hub id (``owner/name``), or a recipe.
        precisions: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"``, ``"int8_dynamic"``: one or more, each once.
        options: How to export, all but the precision.
        stages: Who is told about progress.
        **named: Fields of ``ExportOptions``, instead of ``options``.

    Returns:
        By precision, in the order that was asked for: the bundle, or the error of the gate or of the engine's build.

    Raises:
        InputError: No precision, an unknown one, or one twice.
        ExportError: What stops them all: a precision that this machine cannot run, or a place that is taken, say.
    """
    chosen = [precision_of("precisions", name) for name in precisions]
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError("`precisions` is empty or names one twice", next_step="name each once")
    options = _export_options(options, named)
    recipe = model if isinstance(model, Recipe) else find_recipe(model)
    refuse_missing(EXPORT_PACKAGES)
    from exporter import acceptance  # noqa: PLC0415 - imports onnx_ir

    for one in chosen:
        acceptance.refuse_target(recipe, options.model_copy(update={"precision": one}))
    acceptance.refuse_source(recipe, options)
    require_all(EXPORT_PACKAGES)
    from exporter import pipeline  # noqa: PLC0415 - imports torch

    return dict(zip(chosen, pipeline.export_precisions(recipe, chosen, options, stages), strict=True))


def tune(
    model: str | Recipe,
    tuning: TuneOptions | None = None,
    options: ExportOptions | None = None,
    *,
    stages: Stages | None = None,
    **named: Any,
) -> Tuned:
    """Export a checkpoint for every engine of this machine, measure them side by side, and publish the best one.

    ``tune("demo", goal="latency", max_seq_length=128)``: the name says which options it belongs to. The engines share
    the work that does not depend on the target. Only the winner is published. If the call is interrupted, the same call
    goes on from what has passed by then.

    Args:
        model: Name of a recipe, a local folder, a hub id (``owner/name``), or a recipe.
        tuning: What is compared, how it is measured, and what is chosen.
        options: How to export, all but the precision and the backend.
        stages: Who is told about progress.
        **named: Fields of ``TuneOptions`` and ``ExportOptions``, instead of ``tuning`` and ``options``.

    Raises:
        GateError: No engine passes its gate, or none has ``min_cosine``; nothing was published.
        BundleError: A bundle is where the winner may go, and ``force`` is off.
        ExportError: Anything else that stops it; see ``exporter.errors``.
    """
    own = {name: named.pop(name) for name in [*named] if name in TuneOptions.model_fields}
    if tuning is not None and own:
        raise InputError("options are given twice", next_step=f"put {', '.join(own)} into the TuneOptions")
    chosen = [name for name in ("precision", "backend") if name in named]
    if chosen:
        raise InputError(f"`tune` chooses the {chosen[0]}", next_step=f"name those to compare in `{chosen[0]}s`")
    if named.get("unvalidated") or (options is not None and options.unvalidated):
        raise InputError("`tune` measures engines, so it has no `unvalidated`", next_step="leave it out")
    tuning, options = tuning or TuneOptions.of(**own), _export_options(options, named)
    recipe = model if isinstance(model, Recipe) else find_recipe(model)
    refuse_missing(EXPORT_PACKAGES)
    from exporter.acceptance.tuning import refuse_tuning  # noqa: PLC0415 - imports onnx_ir

    refuse_tuning(recipe, tuning, options)
    require_all(EXPORT_PACKAGES)
    from exporter.tuning import tune  # noqa: PLC0415 - imports torch

    return tune(recipe, tuning, options, stages)


def _export_options(options: ExportOptions | None, named: dict[str, Any]) -> ExportOptions:
    if options is not None and named:
        raise InputError("options are given twice", next_step=f"put {', '.join(named)} into the ExportOptions")
    return options or ExportOptions.of(**named)
