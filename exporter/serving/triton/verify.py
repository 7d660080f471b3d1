"""verify(): compare a running server with the checkpoint, from string to vector, over both protocols and under load.

First the probes go through the bundle's own gate over HTTP and over gRPC. Then many clients at once ask for sentences
of all lengths, one a request, and every answer is compared with the sentence of its request. What the server counted
meanwhile tells whether requests shared batches: inferences over executions.
"""

from __future__ import annotations

import dataclasses
import itertools
import ssl
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from exporter.bundle import Bundle
from exporter.bundle.minimum_gate import DEFAULT_MINIMUM_GATE, MinimumGate
from exporter.checkpoint import load_source
from exporter.errors import InputError, ServerError, first_line
from exporter.files import read_file
from exporter.recipe import Gate
from exporter.serving.triton.address import Address, addresses
from exporter.serving.triton.answers import shown
from exporter.serving.triton.facts import TextModel, text_models
from exporter.serving.triton.limits import REQUEST_S, TOTAL_S, Deadline
from exporter.serving.triton.remote import RemoteEncoder, Vectors
from exporter.targets import Precision
from exporter.validator import ParityReport, reference_of, validate
from exporter.validator.prompts import check_prompts

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


@dataclass(frozen=True)
class Server:
    """A server that serves an ensemble, and what it may take.

    Attributes:
        where: Its addresses: HTTP, then gRPC.
        ensemble: Strings in, vectors out.
        encoder: The model of the ensemble whose batches are counted.
        dimension: Of the vectors.
        ca: Certificates (PEM) that vouch for the server's; by default, those of the system.
        deadline: Of all requests.
    """

    where: tuple[Address, ...]
    ensemble: str
    encoder: str
    dimension: int
    ca: bytes | None
    deadline: Deadline

    def connect(self, address: Address, ensemble: str | None = None) -> RemoteEncoder:
        """Return an ensemble (default: that for texts of any kind) at one of the addresses."""
        return RemoteEncoder(
            address.protocol,
            address,
            ensemble or self.ensemble,
            ca=self.ca,
            deadline=self.deadline,
            dimension=self.dimension,
        )


def verify(
    bundle: Bundle,
    url: str,
    *,
    grpc: str | None = None,
    ca_file: Path | None = None,
    model: str | None = None,
    checkpoint: Path | None = None,
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
    texts_of = text_models(encoder, manifest.encoder)
    server = Server(where, texts_of[0].ensemble, encoder, manifest.encoder.dimension, ca, deadline)
    _check_bundle(server, manifest.seal)
    gate, precision = minimum_gate.gate_for(manifest), manifest.engine.precision
    source = load_source(manifest.recipe, manifest.source, checkpoint, str(bundle.folder))
    reference = reference_of(source, precision=precision)
    server = dataclasses.replace(server, deadline=Deadline(timeout_s, deadline_s))
    with server.connect(where[0]) as remote:
        counted, _ = remote.counts(encoder)
    reports = []
    for address in where:
        with _Prompted(server, address, texts_of) as remote:
            subject = f"{server.ensemble}, {precision} on {manifest.engine.backend}, {address.protocol}"
            report = validate(reference, remote.text, gate, subject, precision)
            prompts = check_prompts(source, remote, gate, reference.texts)
            reports.append(report if prompts is None else report.with_checks(prompts))
            counted += remote.answered
    texts = [f"{first} {second}" for first, second in itertools.islice(_pairs(reference.texts), requests)]
    bound = load_bound(gate, precision)
    return Verification(tuple(reports), load(server, texts, counted=counted, clients=clients, bound=bound))


class _Prompted:
    """A server's ensembles at one address, with the methods of an encoder that has prompts."""

    def __init__(self, server: Server, address: Address, models: Sequence[TextModel]) -> None:
        self._remotes = {model.kind: server.connect(address, model.ensemble) for model in models}
        self.text = self._remotes["text"]

    @property
    def answered(self) -> int:
        """How many sentences all of them have answered."""
        return sum(remote.answered for remote in self._remotes.values())

    def encode(self, sentences: Sequence[str], prompt_name: str | None = None) -> Vectors:
        """Ask the ensemble for texts of any kind."""
        return self.text.encode(sentences, prompt_name)

    def encode_query(self, sentences: Sequence[str]) -> Vectors:
        """Ask the ensemble for queries."""
        return self._remotes.get("query", self.text).encode(sentences)

    def encode_document(self, sentences: Sequence[str]) -> Vectors:
        """Ask the ensemble for documents."""
        return self._remotes.get("document", self.text).encode(sentences)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for remote in self._remotes.values():
            remote.close()


def load_bound(gate: Gate, precision: Precision) -> float:
    """Return the largest relative difference of an answer under load to the same sentence asked for without."""
    if precision.scales_from_batch:
        # Scales come from the batch, so answers differ by what shares it: by no more than the gate lets two vectors
        # part that are each within it (an angle a from the reference is a distance of 2 sin(a/2) = sqrt(2 - 2 cos a)).
        return 2 * float(np.sqrt(2 - 2 * gate.min_cosine))
    return gate.max_batch_deviation or DEFAULT_DEVIATION


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


def load(server: Server, texts: Sequence[str], *, counted: int, clients: int, bound: float) -> Load:
    """Have many clients ask for one sentence a request, and hold each answer against its own sentence.

    Args:
        server: To send the load to.
        texts: One for each request.
        counted: How far the server has counted when the requests before these are all counted.
        clients: At the same time.
        bound: See ``Load``.

    Raises:
        ServerError: The server cannot be reached, or is too slow, or its answer is unusable: before or after the load.
    """
    with server.connect(server.where[0]) as remote:
        before = remote.counts(server.encoder, counted)
        answers, lost = _ask(server, texts, clients)
        after = remote.counts(server.encoder, before[0] + len(answers))
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


def _ask(server: Server, texts: Sequence[str], clients: int) -> tuple[dict[int, npt.NDArray[np.float32]], list[str]]:
    """Return the vector of every text that got one, by number, and the errors of the others."""
    left, turn = iter(range(len(texts))), threading.Lock()
    answers: dict[int, npt.NDArray[np.float32]] = {}
    lost: list[str] = []

    def client(number: int) -> None:
        with server.connect(server.where[number % len(server.where)]) as remote:
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
        try:
            list(pool.map(client, range(clients)))
        except BaseException:  # a signal: what was not sent yet must not be waited for
            with turn:
                list(left)
            raise
    return answers, lost


@np.errstate(invalid="ignore", divide="ignore")  # a server may answer anything; what is no number passes no bound
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
