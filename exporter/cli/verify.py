"""``korsbert verify``: a running server answers as it should: Triton, TEI, or whatever has OpenAI's API."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from exporter.cli.arguments import GatesOption, GoldenOption, JsonFlag, QuietFlag, RecipeOption, RequireSignatureOption
from exporter.cli.completion import bundle_folders
from exporter.cli.output import print_json, print_parity, print_table, stderr_console
from exporter.cli.progress import progress
from exporter.cli.reports import BaselineOption, JunitOption, PageOption, Reports, SummaryOption
from exporter.cli.triton import NameOption
from exporter.errors import InputError, printable
from exporter.serving.limits import REQUEST_S, TOTAL_S
from exporter.targets import Precision

if TYPE_CHECKING:
    from exporter.bundle import Bundle
    from exporter.bundle.minimum_gate import MinimumGate
    from exporter.golden import Golden
    from exporter.serving.embeddings import ServerOptions
    from exporter.validator import Check, ParityReport

Api = Literal["triton", "tei", "openai"]
_LOAD = "Load test"
SERVER = "Server"
ApiOption = Annotated[
    Api,
    typer.Option(
        "--api",
        help="triton: NVIDIA Triton. tei: Text Embeddings Inference. openai: whatever has OpenAI's /v1/embeddings.",
        rich_help_panel=SERVER,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Model to ask for (default: the only one that the server lists).",
        rich_help_panel=SERVER,
    ),
]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--header", metavar="'NAME: VALUE'", help="Header of every request (repeatable).", rich_help_panel=SERVER
    ),
]
KeyEnvOption = Annotated[
    str | None,
    typer.Option(
        "--key-env",
        metavar="VARIABLE",
        help="Environment variable whose value is sent as Authorization: Bearer.",
        rich_help_panel=SERVER,
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        metavar="FILE",
        help="Certificates (PEM) that vouch for the server's (default: the system's).",
        rich_help_panel=SERVER,
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="Longest time for one request.", rich_help_panel=SERVER),
]
DeadlineOption = Annotated[
    float,
    typer.Option(
        "--deadline", metavar="SECONDS", help="Longest time for all requests together.", rich_help_panel=SERVER
    ),
]


def verify_command(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="Address of the server, such as http://localhost:8000; https:// for TLS."),
    ],
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE", help="Folder of the bundle; required for Triton.", autocompletion=bundle_folders
        ),
    ] = None,
    api: ApiOption = "triton",
    model: ModelOption = None,
    header: HeaderOption = None,
    key_env: KeyEnvOption = None,
    name: NameOption = None,
    grpc: Annotated[
        str | None,
        typer.Option(
            "--grpc",
            metavar="[SCHEME://]HOST[:PORT]",
            help="gRPC address of Triton; grpcs:// for TLS, grpc:// for none (default: the host of URL, the HTTP port "
            "plus 1, TLS as in URL; default port where a host is given: 8001).",
            rich_help_panel=SERVER,
        ),
    ] = None,
    ca_file: CaFileOption = None,
    reference: Annotated[
        Literal["checkpoint", "bundle"],
        typer.Option("--reference", help="What a bundle stands for: its checkpoint, or its own answers here."),
    ] = "checkpoint",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="FOLDER|MODEL",
            help="With a bundle: local copy of its checkpoint. Without: name of a recipe, folder, or hub id.",
        ),
    ] = None,
    golden: GoldenOption = None,
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", help="What the server computes in: which gate counts (default: fp32)."),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Normalize the reference: for a server that always normalizes.")
    ] = False,
    clients: Annotated[
        int, typer.Option("--clients", min=1, help="Concurrent clients of the load test.", rich_help_panel=_LOAD)
    ] = 32,
    requests: Annotated[
        int, typer.Option("--requests", min=1, help="Requests of the load test.", rich_help_panel=_LOAD)
    ] = 512,
    timeout_s: TimeoutOption = REQUEST_S,
    deadline_s: DeadlineOption = TOTAL_S,
    recipe: RecipeOption = None,
    gates: GatesOption = None,
    require_signature: RequireSignatureOption = None,
    junit: JunitOption = None,
    summary: SummaryOption = None,
    baseline: BaselineOption = None,
    page: PageOption = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare a running server with a bundle, a checkpoint or a golden file: every text, in batches and under load."""
    reports = Reports(junit, summary, baseline, page)
    with reports.telling("the server" if bundle is None else f"a server of {bundle}"):
        of_others = {"model": model, "header": header, "key_env": key_env, "precision": precision}
        _refuse_useless(api, {"name": name, "grpc": grpc}, of_others | {"normalize": normalize})
        asked = _open(bundle, checkpoint, golden, reference, gates, recipe, require_signature)
        with progress("importing torch" if asked.needs_torch else "importing", quiet=quiet) as stages:
            _require(asked, api)
            with stages("the server encodes the probes") as stage:
                if api == "triton":
                    limits = _Limits(ca_file, clients, requests, timeout_s, deadline_s)
                    outcome = _verify_triton(url, asked, limits, name=name, grpc=grpc)
                else:
                    options = server_options(api, model, header or (), key_env, ca_file, timeout_s, deadline_s)
                    outcome = _verify_embeddings(
                        url, options, asked, precision, clients=clients, requests=requests, normalize=normalize
                    )
                stage.failed = not outcome.passed
    reports.write(outcome.reports, outcome.together, bundle=asked.bundle, compared_with=outcome.compared_with)
    if as_json:
        print_json(outcome.content)
    else:
        _print(outcome)
    if not outcome.passed:
        raise typer.Exit(1)


def server_options(
    api: Api,
    model: str | None,
    header: Sequence[str],
    key_env: str | None,
    ca_file: Path | None,
    timeout_s: float,
    deadline_s: float,
) -> ServerOptions:
    """Return what the options of a command say of a server.

    Raises:
        InputError: One of them cannot be used.
    """
    from exporter.serving.embeddings import ServerOptions, header_of

    key = None if key_env is None else os.environ.get(key_env)
    if key_env is not None and not key:
        raise InputError(  # the value is not repeated: it may be the key
            "the environment variable of `key_env` is not set, or empty",
            next_step="give the name of a variable that holds the key, not the key",
        )
    return ServerOptions(
        api=api,
        model=model,
        headers=tuple(header_of(one) for one in header),
        key=key,
        ca_file=ca_file,
        timeout_s=timeout_s,
        deadline_s=deadline_s,
    )


@dataclass(frozen=True)
class _Asked:
    """What a server is compared with, opened."""

    bundle: Bundle | None
    checkpoint: str | None
    golden: Golden | None
    source: Literal["checkpoint", "bundle"]
    minimum_gate: MinimumGate

    @property
    def needs_torch(self) -> bool:
        return self.golden is None and self.source == "checkpoint"


@dataclass(frozen=True)
class _Limits:
    ca_file: Path | None
    clients: int
    requests: int
    timeout_s: float
    deadline_s: float


@dataclass(frozen=True)
class _Outcome:
    """What came of a verification.

    Attributes:
        reports: Of the server, one for each protocol.
        together: Checks of all protocols together.
        compared_with: Whose answers the server was compared with.
        content: The result as JSON data.
        passed: Whether nothing failed.
        notes: What else the user should know.
    """

    reports: Sequence[ParityReport]
    together: Sequence[Check]
    compared_with: str
    content: dict[str, Any]
    passed: bool
    notes: Sequence[str] = ()


def _refuse_useless(api: Api, of_triton: Mapping[str, object], of_others: Mapping[str, object]) -> None:
    """Refuse options that the API has no use for."""
    useless, told = (of_others, "is not of Triton") if api == "triton" else (of_triton, "is of Triton only")
    for option, value in useless.items():
        if value:
            next_step = f"omit `{option}`, or give another `api`"
            raise InputError(f"`{option}` {told}, and `api` is {api}", next_step=next_step)


def _open(
    bundle: Path | None,
    checkpoint: str | None,
    golden: Path | None,
    source: Literal["checkpoint", "bundle"],
    gates: Path | None,
    recipe: str | None,
    require_signature: Path | None,
) -> _Asked:
    from exporter.bundle import Bundle
    from exporter.bundle.finding import find_bundle
    from exporter.bundle.minimum_gate import minimum_gate_of
    from exporter.golden import read_golden

    if golden is not None and checkpoint is not None:
        raise InputError("`golden` and `checkpoint` are both given", next_step="omit one of them")
    if source == "bundle" and (bundle is None or golden is not None or checkpoint is not None):
        told = "without a bundle" if bundle is None else "with another source of answers"
        raise InputError(f"`reference=bundle` is given {told}", next_step="give a bundle, and neither of the others")
    if bundle is None and golden is None and checkpoint is None:
        raise InputError(
            "nothing to compare the server with is given", next_step="give a bundle, `golden`, or `checkpoint`"
        )
    if require_signature is not None and bundle is None and golden is None:
        raise InputError("`require_signature` is given, and a checkpoint has no signature", next_step="omit it")
    minimum_gate = minimum_gate_of(gates, recipe)
    opened = None
    if bundle is not None:
        folder = find_bundle(bundle).folder
        opened = Bundle.open(folder, require_signature=require_signature, for_encoding=source == "bundle")
        if (warning := minimum_gate.warning(opened.manifest)) is not None:
            stderr_console().print(f"warning: {warning}")
    answers = None if golden is None else read_golden(golden, require_signature=require_signature)
    return _Asked(opened, checkpoint, answers, source, minimum_gate)


def _require(asked: _Asked, api: Api) -> None:
    from exporter.dependencies import REFERENCE_PACKAGES, require_all

    # gRPC's core writes lines of its own to stderr when a connection fails; the error is raised as well.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    require_all((*(REFERENCE_PACKAGES if asked.needs_torch else ()), *(("tritonclient",) if api == "triton" else ())))


def _verify_triton(url: str, asked: _Asked, limits: _Limits, *, name: str | None, grpc: str | None) -> _Outcome:
    from exporter.serving.triton.verify import verify

    if asked.bundle is None:
        raise InputError(
            "a Triton server is compared with a bundle, and none is given",
            next_step="give its folder, or `api=tei` or `api=openai` for another server",
        )
    result = verify(
        asked.bundle,
        url,
        grpc=grpc,
        ca_file=limits.ca_file,
        model=name,
        checkpoint=None if asked.checkpoint is None else Path(asked.checkpoint),
        golden=asked.golden,
        source=asked.source,
        clients=limits.clients,
        requests=limits.requests,
        timeout_s=limits.timeout_s,
        deadline_s=limits.deadline_s,
        minimum_gate=asked.minimum_gate,
    )
    notes = () if result.load.note is None else (result.load.note,)
    together = [result.load.check()]
    return _Outcome(result.reports, together, result.compared_with, result.to_dict(), result.passed, notes)


def _verify_embeddings(
    url: str,
    options: ServerOptions,
    asked: _Asked,
    precision: Precision | None,
    *,
    clients: int,
    requests: int,
    normalize: bool,
) -> _Outcome:
    from exporter.serving.embeddings.verify import Judged, refuse_unreachable, verify
    from exporter.serving.expected import expected_of

    if precision is None:
        precision = Precision.FP32 if asked.bundle is None else asked.bundle.manifest.engine.precision
    refuse_unreachable(url, options)
    expected = expected_of(asked.bundle, asked.checkpoint, asked.golden, asked.source, precision)
    report = verify(url, options, expected, Judged(precision, asked.minimum_gate, clients, requests, normalize))
    content = {"passed": report.passed, "compared_with": expected.told, "parity": [report.to_dict()]}
    return _Outcome([report], (), expected.told, content, report.passed)


def _print(outcome: _Outcome) -> None:
    stderr = stderr_console()
    for report in outcome.reports:
        print(printable(f"{report.subject}, {report.execution}, compared with {outcome.compared_with}"))  # noqa: T201
        print_parity(report, report.coverage)
    if outcome.together:
        rows = [(check.result, check.name, check.coverage) for check in outcome.together]
        print_table(("", "check", "all protocols together"), rows)
    for report in outcome.reports:
        if not report.passed:
            stderr.print(report.failure())
    for check in outcome.together:
        for failure in check.failures:
            stderr.print(f"{check.name}: {failure}")
    for note in outcome.notes:
        stderr.print(f"note: {note}")
