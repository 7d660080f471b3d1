"""verify(): compare a running server with the checkpoint, from string to vector, over both protocols and under load.

First the probes go through the bundle's own gate over HTTP and over gRPC. Then many clients at once ask for sentences
of all lengths, one a request, and every answer is compared with the sentence of its request. What the server counted
meanwhile tells whether requests shared batches: inferences over executions.
"""

from __future__ import annotations

import dataclasses
import itertools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.bundle import Bundle
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.errors import InputError, ServerError, first_line
from exporter.files import read_file
from exporter.golden import Golden
from exporter.golden.judging import check_golden_prompts, check_made_from, refuse_to_judge
from exporter.serving.triton.address import addresses
from exporter.serving.triton.answers import shown
from exporter.serving.triton.facts import text_models
from exporter.serving.triton.limits import REQUEST_S, TOTAL_S, Deadline
from exporter.serving.triton.load import Load, load, load_bound
from exporter.serving.triton.remote import PromptedEncoder, Server
from exporter.validator import ParityReport, Reference, validate
from exporter.validator.prompts import PromptVectors, check_prompts, prompt_vectors_of


@dataclass(frozen=True)
class Verification:
    """A server against its bundle's gates: the reports by protocol, and the load."""

    reports: tuple[ParityReport, ...]
    load: Load

    @property
    def passed(self) -> bool:
        """Whether every gate held and the load passed."""
        return all(report.passed for report in self.reports) and self.load.passed

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        parity = [report.to_dict() for report in self.reports]
        return {"passed": self.passed, "parity": parity, "load": self.load.to_dict()}


def verify(
    bundle: Bundle,
    url: str,
    *,
    grpc: str | None = None,
    ca_file: Path | None = None,
    model: str | None = None,
    checkpoint: Path | None = None,
    golden: Golden | None = None,
    clients: int = 32,
    requests: int = 512,
    timeout_s: float = REQUEST_S,
    deadline_s: float = TOTAL_S,
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE,
) -> Verification:
    """Hold a running server against the checkpoint that a bundle was made from.

    Args:
        bundle: What the server should serve.
        url: Of its HTTP port, ``"http://localhost:8000"`` for example; ``https://`` for TLS. The port is 8000 unless
            stated.
        grpc: Of gRPC, ``"grpc://localhost:8001"`` for example; ``grpcs://`` for TLS. Without a scheme, TLS as in
            ``url``. By default the host of ``url``, one port above HTTP.
        ca_file: Certificates (PEM) that vouch for the server's; by default, those of the system.
        model: Name of the encoder in the repository; by default the recipe's.
        checkpoint: A local copy of the checkpoint; by default the source in the manifest, at its commit.
        golden: Answers that take the place of the checkpoint's, which is then not loaded.
        clients: At the same time, half over HTTP and half over gRPC.
        requests: How many sentences they ask for.
        timeout_s: Most seconds for one request.
        deadline_s: Most seconds for all requests together, from the first probe on.
        minimum_gate: Bounds that count where those of the bundle's own gate are weaker.

    Returns:
        The verification, passed or not.

    Raises:
        InputError: An address, a time or the file of certificates cannot be used.
        ServerError: The server cannot be reached, serves another bundle, is too slow, or answers something that Triton
            does not.
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
    """
    manifest = bundle.manifest
    encoder = model or manifest.recipe.name
    where = addresses(url, grpc)
    ca = None if ca_file is None else read_authorities(ca_file, tls=any(address.tls for address in where))
    deadline = Deadline(timeout_s, timeout_s)
    models = text_models(encoder, manifest.encoder)
    server = Server(where, models[0].ensemble, encoder, manifest.encoder.dimension, ca, deadline)
    _check_bundle(server, manifest.seal)
    gate, precision = minimum_gate.gate_for(manifest), manifest.engine.precision
    if golden is not None:
        gate = gate.tightened(golden.facts.gates.of(precision))
        refuse_to_judge(golden, manifest, gate)
        reference, prompts = golden.reference(None), None
        checks = [check_made_from(manifest, golden)]
    else:
        reference, prompts = _answers_of_checkpoint(bundle, checkpoint)
        checks = []
    server = dataclasses.replace(server, deadline=Deadline(timeout_s, deadline_s))
    with server.connect(where[0]) as remote:
        counted, _ = remote.counts(encoder)
    reports = []
    for address in where:
        with PromptedEncoder(server, address, models) as remote:
            subject = f"{server.ensemble}, {precision} on {manifest.engine.backend}, {address.protocol}"
            report = validate(reference, remote.text, gate, subject, precision)
            report = dataclasses.replace(report, golden=None if golden is None else golden.facts.seal)
            judged = [] if prompts is None else [check_prompts(prompts, remote, gate)]
            judged += [] if golden is None else check_golden_prompts(golden, manifest, remote, gate)
            reports.append(report.with_checks(*checks, *judged))
            counted += remote.answered
    texts = [f"{first} {second}" for first, second in itertools.islice(_pairs(reference.texts), requests)]
    bound = load_bound(gate, precision)
    return Verification(tuple(reports), load(server, texts, counted=counted, clients=clients, bound=bound))


def _answers_of_checkpoint(bundle: Bundle, checkpoint: Path | None) -> tuple[Reference, PromptVectors | None]:
    from exporter.checkpoint import load_source  # noqa: PLC0415 - imports torch
    from exporter.validator.reference import reference_of  # noqa: PLC0415 - imports torch

    manifest = bundle.manifest
    source = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
    reference = reference_of(source, precision=manifest.engine.precision)
    return reference, prompt_vectors_of(source, reference.texts)


def read_authorities(file: Path, *, tls: bool) -> bytes:
    """Return the certificates (PEM) of a file.

    Raises:
        InputError: It holds none, or no connection would use them.
    """
    if not tls:
        raise InputError(
            "`ca_file` is given, and no address uses TLS", next_step="give an https:// URL, or omit `ca_file`"
        )
    try:
        content = read_file(file)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{file}: not readable as certificates: {reason}", next_step="give a PEM file") from error
    return content


def _check_bundle(server: Server, seal: str) -> None:
    """Refuse a server of another bundle."""
    http = server.where[0]
    with server.connect(http) as remote:
        served = remote.seal()
    if served != seal:
        raise ServerError(
            f"{server.ensemble} at {http} serves bundle {shown(served or 'of nobody')[:12]}, not {seal[:12]}",
            next_step="ship the bundle, or verify the one that is served",
        )


def _pairs(texts: Sequence[str]) -> Any:
    """Yield different pairs of texts: the first with the second, then with the third, and so on."""
    for step in range(1, len(texts)):
        for number in range(len(texts)):
            yield texts[number], texts[(number + step) % len(texts)]
