"""The command line: parse, call one function, print, exit code.

Results go to stdout, progress to stderr (and only to a terminal). ``--json`` prints one JSON object on stdout and
nothing else there. Exit codes: 0 done, 1 a gate failed, 2 bad input or usage, 3 something is missing on this machine,
70 a bug in korsbert; 130 interrupted, 141 nobody read on.
"""

from __future__ import annotations

import errno
import io
import json
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from exporter.cli import export
from exporter.cli.output import CLOSED_PIPE, JsonFlag, print_json, print_table, spinner, stderr_console
from exporter.cli.signing import BundleArgument, RequireSignatureOption, sign_command, verify_signature_command
from exporter.cli.triton import GatesOption, RecipeOption, ship_command
from exporter.errors import ExportError, InputError

if TYPE_CHECKING:
    from exporter.bundle import Bundle

BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT
TORCH = "torch"  # what --against calls the checkpoint itself

app = typer.Typer(
    name="korsbert",
    help="From a sentence-transformers checkpoint to a serving artifact proven equal to it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
export_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command("ship")(ship_command)
app.command("sign")(sign_command)
app.command("verify-signature")(verify_signature_command)


CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="FOLDER", help="A local copy that takes the place of the source.")
]
StsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--sts", metavar="FILE", help="Score both sides: TSV as KorSTS, JSON as KLUE-STS, CSV as stsb_multi_mt."
    ),
]
DeviceOption = Annotated[Literal["cpu", "cuda"], typer.Option("--device", help="Where to compute.")]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"korsbert {version('korsbert')}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _korsbert(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None: ...


app.command("export")(export.command())
export_app.command()(export.command())


@app.command("list")
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


@app.command("show")
def show_command(bundle: BundleArgument, as_json: JsonFlag = False) -> None:
    """Show what a bundle is, after comparing its files with their hashes."""
    from exporter.bundle import Bundle
    from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE
    from exporter.bundle.signing import SIGNATURE

    opened = Bundle.open(bundle)
    manifest = opened.manifest
    objections = DEFAULT_MINIMUM_GATE.objections(opened)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "manifest": manifest.model_dump(mode="json"),
                "parity": _parity(opened),
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
        *(("checked", f"{check['name']}: {check['coverage']}") for check in _parity(opened).get("checks", ())),
        *_recorded(opened),
        *(("BELOW THE DEFAULT GATE", objection) for objection in objections),
        *((("signature", f"{SIGNATURE}, not verified: `korsbert verify-signature` does it"),) if opened.signed else ()),
        ("size", f"{opened.size_bytes / 1e6:.1f} MB, {len(manifest.files)} files, all hashes agree"),
        ("created", f"{manifest.created} by korsbert {manifest.tools.get('korsbert', '?')}"),
        *(("decision", decision) for decision in manifest.decisions),
    ]
    print_table(("", str(bundle)), rows)


@app.command("validate")
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
    from exporter.bundle.minimum_gate import minimum_gate_of
    from exporter.dependencies import REFERENCE_PACKAGES, require_all

    minimum_gate = minimum_gate_of(gates, recipe)
    opened = Bundle.open(bundle, require_signature=require_signature, for_encoding=True)
    stderr = stderr_console()
    if (warning := minimum_gate.warning(opened.manifest)) is not None:
        stderr.print(f"warning: {warning}")
    with spinner(stderr, "importing torch"):
        require_all(REFERENCE_PACKAGES)
        from exporter.validation import validate_bundle
    with spinner(stderr, "reference and bundle encode the probes"):
        report = validate_bundle(
            opened, checkpoint=checkpoint, sts=tuple(sts or ()), device=device, minimum_gate=minimum_gate
        )
    if junit is not None:
        _write(junit, f"{report.to_junit()}\n".encode())
    if as_json:
        print_json({**report.to_dict(), "weaker_own_gate": list(minimum_gate.weaker_bounds(opened.manifest))})
    else:
        rows = [("passed" if v.passed else "FAILED", v.name, str(v)) for v in report.verdicts]
        rows += [("passed" if check.passed else "FAILED", check.name, check.coverage) for check in report.checks]
        print_table(("", "bound", f"{report.subject}, {len(report.probes)} probes, {report.execution}"), rows)
        if not report.passed:
            print(report.failure(), file=sys.stderr)  # noqa: T201
    if not report.passed:
        raise typer.Exit(1)


@app.command("encode")
def encode_command(
    bundle: BundleArgument,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="One sentence a line; by default, and for -, stdin.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.npy", help="Write float32 (lines, dimension).")
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale every vector to length 1.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows per batch.")] = 32,
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


@app.command("bench")
def bench_command(
    bundle: BundleArgument,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="torch|BUNDLE",
            help="Measure in the same run; bundles of other precisions beside an int8 one are found by themselves.",
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", help="One sentence a line, or JSONL with text.")
    ] = None,
    checkpoint: CheckpointOption = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; by default all cores.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows per batch.")] = 32,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds; the median counts.")] = 5,
    as_json: JsonFlag = False,
) -> None:
    """Measure a bundle's throughput and latency, beside PyTorch in the same run if asked."""
    from exporter.benchmark import bench_bundle, siblings_of
    from exporter.bundle import Bundle

    opened = Bundle.open(bundle)
    given = [Bundle.open(Path(other)) for other in against or () if other != TORCH]
    with spinner(stderr_console(), "measuring"):
        result = bench_bundle(
            opened,
            against_torch=TORCH in (against or ()),
            against=given or siblings_of(opened),
            text=text,
            checkpoint=checkpoint,
            threads=threads,
            batch_size=batch_size,
            rounds=rounds,
        )
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        (s.name, f"{s.sentences_per_s:.0f}", f"{s.p50_ms:.2f}", f"{s.p99_ms:.2f}", f"{s.ratio:.2f}x")
        for s in result.subjects
    ]
    print_table(("", "sentences/s", "p50 ms", "p99 ms", f"vs {result.subjects[0].name}"), rows)
    if result.verdict is not None:
        print(result.verdict)  # noqa: T201
    print(result.conditions)  # noqa: T201


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


def _recorded(bundle: Bundle) -> list[tuple[str, str]]:
    """Return a row about the gate that a bundle passed after it was published."""
    record = bundle.record
    if record is None:
        return []
    worst = record.report["statistics"]["min_cosine"]
    return [("recorded", f"passed on {record.report['execution']}, min cosine {worst:.8f}, {record.created}")]


def _parity(bundle: Bundle) -> Any:
    return json.loads(bundle.read("parity.json"))


def _run(command: Callable[[], Any]) -> None:
    """Run a Typer app: a korsbert error becomes a message on stderr and its exit code, without a traceback."""
    try:
        command()
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except SystemExit as stop:
        # typer answers a reader that went away (`| head`) with 1, which here means that a gate failed.
        gone = type(sys.stdout).__name__ == "PacifyFlushWrapper"
        if stop.code == INTERRUPTED:
            print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(CLOSED_PIPE if gone and stop.code == 1 else stop.code)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            traceback.print_exc()
            sys.exit(BUG)
        print("error: the output cannot be written: the disk is full", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except Exception:  # noqa: BLE001 - 1 means that a gate failed, and Python would exit with it
        traceback.print_exc()
        print("error: this is a bug in korsbert, please report it with the lines above", file=sys.stderr)  # noqa: T201
        sys.exit(BUG)


def main() -> None:
    """Entry point of ``korsbert``."""
    _run(app)


def export_main() -> None:
    """Entry point of ``korsbert-export``, which is ``korsbert export``."""
    _run(export_app)
