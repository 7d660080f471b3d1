"""``korsbert tune``: the best engine of a model on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exporter.cli.arguments import CheckpointNameOption, JsonFlag, OwnRecipeOption, QuietFlag
from exporter.cli.export import chosen_recipe, split
from exporter.cli.from_options import own_parameters, parameters_of, with_parameters
from exporter.cli.interruption import resumable
from exporter.cli.output import print_json, print_table
from exporter.cli.progress import progress
from exporter.cli.reports import PageOption, Reports
from exporter.options import ExportOptions, Goal, TuneOptions

if TYPE_CHECKING:
    from exporter.tuning import Tuned

_OURS = ("goal", "precisions", "backends")
_CHOSEN = ("precision", "backend", "unvalidated")
HEADER = ("", "min cosine", "neighbors", "sentences/s", "p50 ms", "p99 ms", "memory", "size", "")


def tune_command(
    model: CheckpointNameOption = None,
    recipe: OwnRecipeOption = None,
    goal: Annotated[
        Goal, typer.Option("--for", help="What the published engine is to be best at.", show_default=True)
    ] = Goal.THROUGHPUT,
    precisions: Annotated[
        str | None, typer.Option("--precisions", metavar="P,P,...", help="Precisions to compare (default: all).")
    ] = None,
    backends: Annotated[
        str | None, typer.Option("--backends", metavar="B,B,...", help="Backends to compare (default: all).")
    ] = None,
    page: PageOption = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
    **given: Any,
) -> None:
    """Export a checkpoint for every engine of this machine, measure them side by side, and publish the best one."""
    from exporter import api
    from exporter.errors import GateError

    tuning = {name: given.pop(name) for name in TuneOptions.model_fields if name not in _OURS}
    options = ExportOptions.of(**_given(given))
    asked = TuneOptions.of(
        goal=goal,
        **_given(tuning),
        **({} if precisions is None else {"precisions": split(precisions, "_")}),
        **({} if backends is None else {"backends": split(backends, "-")}),
    )
    chosen = chosen_recipe(model, recipe)
    reports = Reports(page=page)
    with (
        reports.telling(chosen.name),
        progress("importing torch", quiet=quiet) as stages,
        resumable(stages.kept),
    ):
        try:
            tuned = api.tune(chosen, asked, options, stages=stages)
        except GateError as error:
            if as_json:
                print_json({"error": error.message, **error.report})
            raise
    if page is not None:
        from exporter.report import PageData

        reports.write_page(PageData(tuning=tuned.to_dict()), tuned.bundle)
    if as_json:
        print_json(tuned.to_dict())
    else:
        _print(tuned)


def command() -> Callable[..., None]:
    """Return ``tune_command`` with a signature that typer reads."""
    return with_parameters(
        tune_command,
        "tune",
        (
            *own_parameters(tune_command, "model", "recipe", *_OURS),
            *parameters_of(TuneOptions, without=_OURS),
            *parameters_of(ExportOptions, without=_CHOSEN),
            *own_parameters(tune_command, "page", "quiet", "as_json"),
        ),
    )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None and value != []}


def _print(tuned: Tuned) -> None:
    from exporter.report.numbers import figure

    measured = {one.name: one for one in tuned.measured}
    rows = []
    for candidate in tuned.candidates:
        one = measured.get(candidate.name)
        if one is None:
            continue
        notes = [f"best {goal}" for goal in tuned.best_at(one.name)]
        rows.append(
            (
                f"* {one.name}" if one.name == tuned.winner else f"  {one.name}",
                figure(one.min_cosine),
                f"{one.neighbors:.3f}",
                f"{one.speed.sentences_per_s:.0f}",
                f"{one.speed.p50_ms:.2f}",
                f"{one.speed.p99_ms:.2f}",
                "" if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.0f} MB",
                f"{one.size_bytes / 1e6:.1f} MB",
                ", ".join(notes),
            )
        )
    print_table(HEADER, rows, whole_columns=1)
    for candidate in tuned.candidates:
        if candidate.name not in measured:
            print(f"- {candidate.name}: {candidate.verdict}: {candidate.refusal}")  # noqa: T201
    print(tuned.sentence)  # noqa: T201
    print(tuned.conditions)  # noqa: T201
    print(f"{tuned.bundle.folder}: {tuned.bundle.manifest.validation.note}")  # noqa: T201
