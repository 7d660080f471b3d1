"""verify(): compare a running server with the checkpoint, from string to vector, over both protocols and under load.

First the probes go through the bundle's own gate over HTTP and over gRPC. Then many clients at once ask for sentences
of all lengths, one a request, and every answer is compared with the sentence of its request. What the server counted
meanwhile tells whether requests shared batches: inferences over executions.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.bundle import Bundle
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.errors import ServerError
from exporter.golden import Golden
from exporter.golden.judging import check_golden_prompts, refuse_to_judge
from exporter.serving.answers import shown
from exporter.serving.concurrency import load_bound, pairs
from exporter.serving.expected import Source, expected_of_bundle, expected_of_golden
from exporter.serving.http import read_authorities
from exporter.serving.limits import REQUEST_S, TOTAL_S, Deadline
from exporter.serving.triton.address import addresses
from exporter.serving.triton.facts import text_models
from exporter.serving.triton.load import Load, load
from exporter.serving.triton.remote import PromptedEncoder, Server
from exporter.validator import ParityReport, validate
from exporter.validator.prompts import check_prompts


@dataclass(frozen=True)
class Verification:
    """A server against its bundle's gates.

    Attributes:
        reports: One for each protocol.
        load: What came of many clients at once.
        compared_with: Whose answers the server was compared with, for people.
    """

    reports: tuple[ParityReport, ...]
    load: Load
    compared_with: str

    @property
    def passed(self) -> bool:
        """Whether every gate held and the load passed."""
        return all(report.passed for report in self.reports) and self.load.passed

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        parity = [report.to_dict() for report in self.reports]
        return {
            "passed": self.passed,
            "compared_with": self.compared_with,
            "parity": parity,
            "load": self.load.to_dict(),
        }


def verify(
    bundle: Bundle,
    url: str,
    *,
    grpc: str | None = None,
    ca_file: Path | None = None,
    model: str | None = None,
    checkpoint: Path | None = None,
    golden: Golden | None = None,
    source: Source = "checkpoint",
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
        source: Without a golden file: ``"checkpoint"``, or ``"bundle"`` for what the bundle itself answers here.
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
        expected = expected_of_golden(golden, manifest)
    else:
        expected = expected_of_bundle(bundle, source, precision, checkpoint=checkpoint)
    reference = expected.reference
    server = dataclasses.replace(server, deadline=Deadline(timeout_s, deadline_s))
    with server.connect(where[0]) as remote:
        counted, _ = remote.counts(encoder)
    reports = []
    for address in where:
        with PromptedEncoder(server, address, models) as remote:
            subject = f"{server.ensemble}, {precision} on {manifest.engine.backend}, {address.protocol}"
            report = validate(reference, remote.text, gate, subject, precision)
            report = dataclasses.replace(report, golden=expected.golden)
            if golden is not None:
                judged = check_golden_prompts(golden, manifest, remote, gate)
            else:
                judged = [] if expected.prompts is None else [check_prompts(expected.prompts, remote, gate)]
            reports.append(report.with_checks(*expected.checks, *judged))
            counted += remote.answered
    texts = list(itertools.islice(pairs(reference.texts), requests))
    bound = load_bound(gate, precision)
    found = load(server, texts, counted=counted, clients=clients, bound=bound)
    return Verification(tuple(reports), found, expected.told)


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
