"""``korsbert list``, ``show`` and ``validate``: the recipes, and what a bundle is and whether it is sound."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from exporter.cli.arguments import (
    BundleArgument,
    CheckpointOption,
    GatesOption,
    GoldenOption,
    JsonFlag,
    QuietFlag,
    RecipeOption,
    RequireSignatureOption,
    StsOption,
)
from exporter.cli.output import (
    parity_of,
    print_json,
    print_parity,
    print_table,
    stderr_console,
    table_width,
)
from exporter.cli.progress import progress
from exporter.cli.reports import BaselineOption, JunitOption, PageOption, Reports, SummaryOption
from exporter.errors import InputError

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from exporter.bundle.minimum_gate import MinimumGate
    from exporter.recipe import Recipe
    from exporter.runtime.facts import EncoderFacts
    from exporter.stages import Stages
    from exporter.validator import ParityReport


def list_command(as_json: JsonFlag = False) -> None:
    """List the built-in recipes."""
    from exporter.recipe import list_recipes

    recipes = list_recipes()
    if as_json:
        told = [{**recipe.model_dump(mode="json"), "proven_on": recipe.proven_on} for recipe in recipes]
        print_json({"recipes": told})
        return
    names = next(names for least, names in _LAYOUTS if table_width() >= least)
    rows = [tuple(_CELLS[name](recipe) for name in names) for recipe in recipes]
    print_table(names, rows, whole_columns=1)  # the names are typed in


def _encoder(recipe: Recipe) -> str:
    expect = recipe.expect
    limit = (f"{expect.max_seq_length} tokens",) if expect.max_seq_length else ()
    return ", ".join((str(expect.architecture), "+".join(expect.pooling or ("?",)), f"{expect.dimension}-d", *limit))


def _languages(recipe: Recipe) -> str:
    return ", ".join("many" if code == "mul" else code for code in recipe.languages)


_CELLS: dict[str, Callable[[Recipe], str]] = {
    "recipe": lambda recipe: recipe.name,
    "source": lambda recipe: recipe.source,
    "encoder": _encoder,
    "size": lambda recipe: f"{recipe.parameters / 1e6:,.0f}M" if recipe.parameters else "not stated",
    "license": lambda recipe: recipe.license or "not stated",
    "languages": _languages,
    "license (languages)": lambda recipe: f"{recipe.license or 'not stated'} ({_languages(recipe)})",
    "proven on": lambda recipe: recipe.proven_on or "",
    "published score": lambda recipe: next(
        (f"{score.dataset} {score.value:.2f}" for score in recipe.published), "none confirmed"
    ),
}
_FACTS = ("size", "license", "languages", "proven on")
# The columns that fit a width; --json has all there is.
_LAYOUTS = (
    (140, ("recipe", "source", "encoder", *_FACTS, "published score")),
    (72, ("recipe", *_FACTS)),
    (0, ("recipe", "size", "license (languages)", "proven on")),
)


def show_command(bundle: BundleArgument, as_json: JsonFlag = False) -> None:
    """Verify the file hashes of a bundle and show its contents."""
    from exporter.bundle import Bundle
    from exporter.bundle.finding import find_bundle
    from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE

    found = find_bundle(bundle)
    opened = Bundle.open(found.folder)
    objections = DEFAULT_MINIMUM_GATE.objections(opened)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "commit": found.commit,
                "manifest": opened.manifest.model_dump(mode="json"),
                "parity": parity_of(opened),
                "below_default_gate": list(objections),
                "signed": opened.signed,
            }
        )
        return
    place = [] if found.commit is None else [("commit", f"{found.commit}, in {found.folder}")]
    print_table(("", str(bundle)), [*place, *_contents(opened, objections)])


def validate_command(
    bundle: BundleArgument,
    checkpoint: CheckpointOption = None,
    golden: GoldenOption = None,
    sts: StsOption = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option("--device", help="Device to run on (default: the device of the recorded validation)."),
    ] = None,
    recipe: RecipeOption = None,
    gates: GatesOption = None,
    require_signature: RequireSignatureOption = None,
    junit: JunitOption = None,
    summary: SummaryOption = None,
    baseline: BaselineOption = None,
    page: PageOption = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record the result in a bundle that was published unvalidated.")
    ] = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare a bundle with its checkpoint on this machine: the parity gate and all checks."""
    from exporter.bundle import Bundle
    from exporter.bundle.finding import find_bundle
    from exporter.bundle.minimum_gate import minimum_gate_of

    reports, stderr = Reports(junit, summary, baseline, page), stderr_console()
    with reports.telling(str(bundle)):
        other = "checkpoint" if checkpoint is not None else "sts" if sts else "record" if record else None
        if golden is not None and other is not None:
            raise InputError(f"`golden` and `{other}` are both given", next_step="omit one of them")
        minimum_gate = minimum_gate_of(gates, recipe)
        found = find_bundle(bundle)
        if record and found.commit is not None:
            raise InputError(
                f"{bundle}: a validation is recorded in a folder, and this bundle is on the hub",
                next_step="download it with `hf download`, record there, and push it again",
            )
        opened = Bundle.open(found.folder, require_signature=require_signature, for_encoding=True)
        if (warning := minimum_gate.warning(opened.manifest)) is not None:
            stderr.print(f"warning: {warning}")
        with progress("opening the bundle" if golden is not None else "importing torch", quiet=quiet) as stages:
            if golden is not None:
                report = _validate_with_golden(opened, golden, require_signature, device, minimum_gate, stages)
            else:
                report = _validate_with_checkpoint(
                    opened, checkpoint, sts or (), device, minimum_gate, stages, record=record
                )
    reports.write([report], bundle=opened)
    if as_json:
        print_json({**report.to_dict(), "weaker_own_gate": list(minimum_gate.weaker_bounds(opened.manifest))})
    else:
        print_parity(report, f"{report.subject}, {len(report.probes)} probes, {report.execution}")
        if not report.passed:
            print(report.failure(), file=sys.stderr)  # noqa: T201
    if (result := _record(opened, report, asked=record)) is not None:
        stderr.print(result)
    if not report.passed:
        raise typer.Exit(1)


def _validate_with_golden(
    bundle: Bundle,
    golden: Path,
    require_signature: Path | None,
    device: str | None,
    minimum_gate: MinimumGate,
    stages: Stages,
) -> ParityReport:
    from exporter.golden import judging, read_golden

    answers = read_golden(golden, require_signature=require_signature)
    with stages("gate and checks") as stage:
        report = judging.validate_with_golden(bundle, answers, device=device, minimum_gate=minimum_gate)
        stage.result, stage.failed = report.summary(), not report.passed
    return report


def _validate_with_checkpoint(
    bundle: Bundle,
    checkpoint: Path | None,
    sts: Sequence[Path],
    device: str | None,
    minimum_gate: MinimumGate,
    stages: Stages,
    *,
    record: bool,
) -> ParityReport:
    from exporter.dependencies import REFERENCE_PACKAGES, require_all

    require_all(REFERENCE_PACKAGES)
    from exporter.publication import refuse_to_record
    from exporter.validation import validate_bundle

    if record:
        refuse_to_record(bundle, device or bundle.manifest.validation.device)
    return validate_bundle(
        bundle, checkpoint=checkpoint, sts=sts, device=device, minimum_gate=minimum_gate, stages=stages
    )


def _record(bundle: Bundle, report: ParityReport, *, asked: bool) -> str | None:
    """Record a validation if that is asked for; returns what the user is told about it."""
    from exporter.bundle import RECORD

    if asked and report.passed:
        from exporter.publication import record_validation

        record_validation(bundle, report)
        return f"{bundle.folder / RECORD}: recorded that the bundle passed"
    if asked:
        bundle.withdraw_record()
        return f"{bundle.folder}: has no record of validation, because it failed"
    if (
        report.passed
        and report.golden is None
        and not bundle.validated
        and report.device == bundle.manifest.validation.device
    ):
        return f"{bundle.folder}: passed, but the bundle still counts as unvalidated: --record records the result"
    return None


def _contents(bundle: Bundle, objections: Sequence[str]) -> list[tuple[str, str]]:
    """Return the rows that describe a bundle."""
    manifest = bundle.manifest
    engine, encoder, source, validation = manifest.engine, manifest.encoder, manifest.source, manifest.validation
    pooling = "+".join(encoder.pooling)
    rows = [
        ("name", manifest.recipe.name),
        ("checkpoint", f"{source.checkpoint}{f' @ {source.commit}' if source.commit else ''}"),
        (
            "encoder",
            f"{encoder.architecture}, {pooling} pooling, {encoder.dimension}-d, {encoder.max_seq_length} tokens, "
            f"{encoder.similarity} similarity{_truncation(encoder)}",
        ),
        ("engine", f"{engine.precision} on {engine.backend}: {', '.join(engine.files)}"),
        *([("needs", f"onnxruntime {engine.least_runtime} or newer")] if engine.least_runtime else ()),
        (
            "validated" if bundle.validated else "NOT VALIDATED",
            f"{validation.execution}, min cosine {validation.min_cosine:.8f}; {validation.note}",
        ),
    ]
    rows += [
        ("checked" if check.get("compared", True) else "skipped", f"{check['name']}: {check['coverage']}")
        for check in parity_of(bundle).get("checks", ())
    ]
    rows += _recorded(bundle)
    rows += [("BELOW THE DEFAULT GATE", objection) for objection in objections]
    if bundle.signed:
        rows.append(("signature", "model.sig, not verified here: use `korsbert verify-signature`"))
    return [
        *rows,
        ("size", f"{bundle.size_bytes / 1e6:.1f} MB, {len(manifest.files)} files, all hashes match"),
        ("created", f"{manifest.created} by korsbert {manifest.tools.get('korsbert', '?')}"),
        *(("decision", decision) for decision in manifest.decisions),
    ]


def _truncation(encoder: EncoderFacts) -> str:
    return "" if encoder.truncate_dim is None else f", truncated to {encoder.truncate_dim} dimensions"


def _recorded(bundle: Bundle) -> list[tuple[str, str]]:
    """Return a row about the validation that was recorded after the bundle was published."""
    record = bundle.record
    if record is None:
        return []
    worst = record.report["statistics"].get("min_cosine")
    told = f"{worst:.8f}" if isinstance(worst, float) else "unknown"
    return [("recorded", f"passed on {record.report.get('execution')}, min cosine {told}, {record.created}")]
