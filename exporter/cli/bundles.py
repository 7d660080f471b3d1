"""``korsbert list``, ``show``, ``validate`` and ``encode``: the recipes, and what can be done with a bundle."""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from exporter.cli.arguments import (
    BatchSizeOption,
    BundleArgument,
    CheckpointOption,
    GatesOption,
    JsonFlag,
    RecipeOption,
    RequireSignatureOption,
    StsOption,
)
from exporter.cli.output import parity_of, print_json, print_table, spinner, stderr_console
from exporter.errors import InputError

if TYPE_CHECKING:
    from exporter.bundle import Bundle


def list_command(as_json: JsonFlag = False) -> None:
    """List the recipes that ship."""
    from exporter.recipe import list_recipes

    recipes = list_recipes()
    if as_json:
        print_json({"recipes": [recipe.model_dump(mode="json") for recipe in recipes]})
        return
    rows = []
    for recipe in recipes:
        expect = recipe.expect
        scores = ", ".join(f"{score.dataset} {score.value:.2f}" for score in recipe.published[:1])
        pooling = "+".join(expect.pooling or ("?",))
        facts = f"{expect.architecture}, {pooling}, {expect.dimension}-d, {expect.max_seq_length} tokens"
        rows.append((recipe.name, recipe.source, facts, scores))
    print_table(("recipe", "source", "what it is", "published"), rows)


def show_command(bundle: BundleArgument, as_json: JsonFlag = False) -> None:
    """Show what a bundle is, after comparing its files with their hashes."""
    from exporter.bundle import Bundle
    from exporter.bundle.floor import DEFAULT
    from exporter.bundle.signing import SIGNATURE

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    objections = DEFAULT.objections(opened)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "manifest": manifest.model_dump(mode="json"),
                "parity": parity_of(opened),
                "below_default_gate": list(objections),
                "signed": opened.signed,
            }
        )
        return
    encoder, source, proven = manifest.encoder, manifest.source, manifest.validation
    pooling = "+".join(encoder.pooling)
    rows = [
        ("recipe", manifest.recipe.name),
        ("checkpoint", f"{source.checkpoint}{f' @ {source.commit}' if source.commit else ''}"),
        (
            "encoder",
            f"{encoder.architecture}, {pooling} pooling, {encoder.dimension}-d, {encoder.max_seq_length} tokens",
        ),
        ("engine", f"{manifest.engine.precision} on {manifest.engine.backend}: {', '.join(manifest.engine.files)}"),
        (
            "validated" if opened.validated else "NOT VALIDATED",
            f"{proven.execution}, min cosine {proven.min_cosine:.8f}; {proven.note}",
        ),
        *(("checked", f"{check['name']}: {check['coverage']}") for check in parity_of(opened).get("checks", ())),
        *_recorded(opened),
        *(("BELOW THE DEFAULT GATE", objection) for objection in objections),
        *((("signature", f"{SIGNATURE}, not verified: `korsbert verify-signature` does it"),) if opened.signed else ()),
        ("size", f"{opened.size_bytes / 1e6:.1f} MB, {len(manifest.files)} files, all hashes agree"),
        ("created", f"{manifest.created} by korsbert {manifest.tools.get('korsbert', '?')}"),
        *(("decision", decision) for decision in manifest.decisions),
    ]
    print_table(("", str(bundle)), rows)


def validate_command(
    bundle: BundleArgument,
    checkpoint: CheckpointOption = None,
    sts: StsOption = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option("--device", help="By default where the bundle was validated.")
    ] = None,
    recipe: RecipeOption = None,
    gates: GatesOption = None,
    require_signature: RequireSignatureOption = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML for a CI system.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Repeat a bundle's parity gate on this machine, against its checkpoint."""
    from exporter.bundle import Bundle
    from exporter.bundle.floor import floor_of
    from exporter.dependencies import require

    floor = floor_of(gates, recipe)
    opened = Bundle.open(bundle, require_signature=require_signature, for_encoding=True)
    stderr = stderr_console()
    if (warning := floor.warning(opened.manifest)) is not None:
        stderr.print(f"warning: {warning}")
    with spinner(stderr, "importing torch"):
        for package in ("torch", "sentence_transformers", "optimum"):
            require(package)
        from exporter import pipeline
    with spinner(stderr, "reference and bundle encode the probes"):
        report = pipeline.validate_bundle(
            opened, checkpoint=checkpoint, sts=tuple(sts or ()), device=device, floor=floor
        )
    if junit is not None:
        _write(junit, f"{report.to_junit()}\n".encode())
    if as_json:
        print_json({**report.to_dict(), "weaker_own_gate": list(floor.weaker(opened.manifest))})
    else:
        rows = [("passed" if v.passed else "FAILED", v.name, str(v)) for v in report.verdicts]
        rows += [("passed" if check.passed else "FAILED", check.name, check.coverage) for check in report.checks]
        print_table(("", "bound", f"{report.subject}, {len(report.probes)} probes, {report.execution}"), rows)
        if not report.passed:
            print(report.failure(), file=sys.stderr)  # noqa: T201
    if not report.passed:
        raise typer.Exit(1)


def encode_command(
    bundle: BundleArgument,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="One sentence a line; by default, and for -, stdin.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.npy", help="Write float32 (lines, dimension).")
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale every vector to length 1.")] = False,
    batch_size: BatchSizeOption = 32,
) -> None:
    """Encode text with a bundle: to a .npy file, or as one JSON array a line on stdout."""
    import numpy as np

    from exporter.bundle import Bundle

    lines = _lines(file)
    with Bundle.open(bundle, for_encoding=True).encoder() as encoder:
        vectors = encoder.encode(lines, batch_size, normalize, show_progress_bar=sys.stderr.isatty())
    vectors = vectors.reshape(len(lines), encoder.dimension)
    if out is None:
        for vector in vectors:
            sys.stdout.write(json.dumps([float(f"{x:.9g}") for x in vector]) + "\n")
        return
    buffer = io.BytesIO()
    np.save(buffer, vectors)
    _write(out, buffer.getbuffer())
    stderr_console().print(f"{vectors.shape[0]} x {vectors.shape[1]} float32 in {out}")


def _recorded(bundle: Bundle) -> list[tuple[str, str]]:
    """Return a row about the gate that a bundle passed after it was published."""
    record = bundle.record
    if record is None:
        return []
    worst = record.report["statistics"]["min_cosine"]
    return [("recorded", f"passed on {record.report['execution']}, min cosine {worst:.8f}, {record.created}")]


def _lines(file: Path | None) -> list[str]:
    """Read sentences, one a line; an empty line is an empty sentence, so that row numbers agree."""
    try:
        data = sys.stdin.buffer.read() if file is None or str(file) == "-" else file.read_bytes()
        # Not str.splitlines, to which U+2028 and others ends a line as well: rows are counted as `wc -l` counts them.
        return [line.removesuffix("\n") for line in io.StringIO(data.decode("utf-8-sig"), newline=None)]
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file or 'stdin'}: not UTF-8 at byte {error.start}") from error


def _write(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all; a link, a device or a pipe is written through."""
    partial = path.parent / f".{path.name}.partial"
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_bytes(content)
        else:
            partial.write_bytes(content)
            partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
