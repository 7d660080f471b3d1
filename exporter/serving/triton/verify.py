"""verify(): compare a running server with the checkpoint, from string to vector, over both protocols and under load.

First the probes go through the bundle's own gate over HTTP and over gRPC. Then many clients at once ask for sentences
of all lengths, one a request, and every answer is compared with the sentence of its request. What the server counted
meanwhile tells whether requests shared batches: inferences over executions.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.bundle import Bundle
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.checkpoint import load_source
from exporter.errors import ServerError
from exporter.serving.triton.remote import Protocol, RemoteEncoder, addresses
from exporter.validator import ParityReport, reference_of, validate

DEFAULT_DEVIATION = 1e-2
"""Largest relative difference of an answer under load, where the gate states none."""


@dataclass(frozen=True)
class Load:
    """What came of many clients at once.

    Attributes:
        clients: At the same time.
        requests: Sent, one sentence each.
        lost: Requests that got an error, and what the first of them said.
        swapped: Answers closer to another sentence's vector than to their own.
        max_deviation: Largest relative difference to the same sentence asked for without load.
        bound: What that may be.
        inferences: Sentences that the encoder ran meanwhile.
        executions: Batches it ran them in.
    """

    clients: int
    requests: int
    lost: tuple[str, ...]
    swapped: int
    max_deviation: float
    bound: float
    inferences: int
    executions: int

    @property
    def batching(self) -> float:
        """Sentences per batch."""
        return self.inferences / self.executions if self.executions else 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost or swapped, and answers under load equal those without it.

        How many requests share a batch depends on what else the machine does. It is reported, not judged.
        """
        within = self.max_deviation <= self.bound  # a NaN never is
        return not self.lost and not self.swapped and within

    @property
    def note(self) -> str | None:
        """What to look into where no two requests of several clients shared a batch."""
        if self.clients == 1 or not self.executions or self.batching > 1:
            return None
        return (
            f"no two of {self.requests} requests by {self.clients} clients shared a batch; if more requests do not "
            "either, look at dynamic_batching in the model's config.pbtxt"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {
            "clients": self.clients,
            "requests": self.requests,
            "lost": len(self.lost),
            "first_error": self.lost[0] if self.lost else None,
            "swapped": self.swapped,
            "max_deviation": self.max_deviation if np.isfinite(self.max_deviation) else None,
            "bound": self.bound,
            "inferences": self.inferences,
            "executions": self.executions,
            "batching": round(self.batching, 3),
            "note": self.note,
            "passed": self.passed,
        }


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
    model: str | None = None,
    checkpoint: Path | None = None,
    clients: int = 32,
    requests: int = 512,
    minimum_gate: MinimumGate = DEFAULT_MINIMUM_GATE,
) -> Verification:
    """Hold a running server against the checkpoint that a bundle was made from.

    Args:
        bundle: What the server should serve.
        url: Of its HTTP port, ``"http://localhost:8000"`` for example.
        grpc: Host and port of gRPC; by default one port above HTTP.
        model: Name of the encoder in the repository; by default the recipe's.
        checkpoint: A local copy of the checkpoint; by default the source in the manifest, at its commit.
        clients: At the same time, half over HTTP and half over gRPC.
        requests: How many sentences they ask for.
        minimum_gate: Bounds that count where those of the bundle's own gate are weaker.

    Returns:
        The verification, passed or not.

    Raises:
        ServerError: The server cannot be reached, or serves another bundle.
        CheckpointError: The checkpoint cannot be loaded, or holds other weights than the bundle was made from.
    """
    manifest = bundle.manifest
    encoder = model or manifest.recipe.name
    where, ensemble = addresses(url, grpc), f"{encoder}_text"
    with RemoteEncoder("http", where["http"], ensemble) as remote:
        served = remote.config().get("parameters", {}).get("korsbert_bundle", {}).get("string_value")
        if served != manifest.seal:
            raise ServerError(
                f"{ensemble} at {where['http']} serves bundle {(served or 'of nobody')[:12]}, not {manifest.seal[:12]}",
                next_step="ship the bundle, or verify the one that is served",
            )
    gate, precision = minimum_gate.gate_for(manifest), manifest.engine.precision
    source = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
    reference = reference_of(source, precision=precision)
    reports = []
    for protocol, address in where.items():
        with RemoteEncoder(protocol, address, ensemble) as remote:
            subject = f"{ensemble}, {manifest.engine.precision} on {manifest.engine.backend}, {protocol}"
            reports.append(validate(reference, remote, gate, subject, precision))
    texts = [f"{first} {second}" for first, second in itertools.islice(_pairs(reference.texts), requests)]
    bound = gate.max_batch_deviation or DEFAULT_DEVIATION
    if manifest.engine.precision.scales_from_batch:
        # Scales come from the batch, so answers differ by what shares it: by no more than the gate lets two vectors
        # part that are each within it (an angle a from the reference is a distance of 2 sin(a/2) = sqrt(2 - 2 cos a)).
        bound = 2 * float(np.sqrt(2 - 2 * gate.min_cosine))
    return Verification(tuple(reports), load(where, ensemble, encoder, texts, clients=clients, bound=bound))


def load(
    where: dict[Protocol, str], ensemble: str, encoder: str, texts: Sequence[str], *, clients: int, bound: float
) -> Load:
    """Have many clients ask for one sentence a request, and hold each answer against its own sentence."""
    with RemoteEncoder("http", where["http"], ensemble) as remote:
        before = remote.counts(encoder)
        answers, lost = _ask(where, ensemble, texts, clients)
        after = remote.counts(encoder, before[0] + len(answers))
        expected = remote.encode(texts)  # not before: a response cache would answer the load
    answered = sorted(answers)
    got = np.array([answers[number] for number in answered], dtype=np.float64).reshape(len(answered), -1)
    deviation, swapped = _compare(got, np.asarray(expected, dtype=np.float64), answered)
    return Load(
        clients=clients,
        requests=len(texts),
        lost=tuple(lost),
        swapped=swapped,
        max_deviation=deviation,
        bound=bound,
        inferences=after[0] - before[0],
        executions=after[1] - before[1],
    )


def _ask(
    where: dict[Protocol, str], ensemble: str, texts: Sequence[str], clients: int
) -> tuple[dict[int, npt.NDArray[np.float32]], list[str]]:
    """Return the vector of every text that got one, by number, and the errors of the others."""
    protocols = tuple(where)
    left, turn = iter(range(len(texts))), threading.Lock()
    answers: dict[int, npt.NDArray[np.float32]] = {}
    lost: list[str] = []

    def client(number: int) -> None:
        protocol = protocols[number % len(protocols)]
        with RemoteEncoder(protocol, where[protocol], ensemble) as remote:
            while True:
                with turn:
                    mine = next(left, None)
                if mine is None:
                    return
                try:
                    answers[mine] = remote.encode_batch([texts[mine]])[0]
                except ServerError as error:
                    lost.append(error.message)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return answers, lost


def _compare(
    got: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], numbers: Sequence[int]
) -> tuple[float, int]:
    """Return the largest relative difference of answers, and how many are nearer to another sentence's vector."""
    if not len(got):
        return float("nan"), 0
    own = expected[list(numbers)]
    deviation = np.linalg.norm(got - own, axis=1) / np.linalg.norm(own, axis=1)
    # (a - b)^2 = a^2 - 2ab + b^2, of which a^2 is the same along a row.
    distance = (expected**2).sum(axis=1) - 2 * got @ expected.T
    nearest = distance.argmin(axis=1)
    swapped = sum(
        bool(np.linalg.norm(expected[near] - own[row]) > 1e-6 * np.linalg.norm(own[row]))
        for row, near in enumerate(nearest)
    )
    return float(deviation.max()), swapped


def _pairs(texts: Sequence[str]) -> Any:
    """Yield different pairs of texts: the first with the second, then with the third, and so on."""
    for step in range(1, len(texts)):
        for number in range(len(texts)):
            yield texts[number], texts[(number + step) % len(texts)]
