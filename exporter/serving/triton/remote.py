"""A running server as an encoder: strings go out over HTTP or gRPC, vectors come back.

Whatever else a server answers than Triton would, and too much, too late or nothing, is a ``ServerError``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from exporter.errors import ServerError
from exporter.serving.answers import AnswerError, shown
from exporter.serving.limits import Deadline, Timer
from exporter.serving.triton.address import Address, Protocol, address_of
from exporter.serving.triton.answers import Tensor
from exporter.serving.triton.facts import TextModel
from exporter.serving.triton.grpc_client import GrpcClient
from exporter.serving.triton.http_client import HttpClient

SEAL = "korsbert_bundle"  # a parameter in the ensemble's config.pbtxt
ROWS_PER_REQUEST = 32
POLL_S = 0.05
SETTLE_S = 2.0

Vectors = npt.NDArray[np.float32]


class RemoteEncoder:
    """One ensemble of one server. For one thread.

    Attributes:
        execution: Where it runs, for reports.
        model: Name of the ensemble.
        answered: How many sentences it has answered.
    """

    def __init__(
        self,
        protocol: Protocol,
        address: Address | str,
        model: str,
        *,
        ca: bytes | None = None,
        deadline: Deadline | None = None,
        dimension: int | None = None,
    ) -> None:
        """Prepare requests to ``model``.

        Args:
            protocol: That the server speaks at the address.
            address: Of the server, or its URL.
            model: Name of the ensemble.
            ca: Certificates (PEM) that vouch for the server's; by default, those of the system.
            deadline: Of all requests; by default 60 seconds for one, and half an hour for all of them.
            dimension: Of the vectors; by default, that of the first answer.

        Raises:
            InputError: ``address`` is no such URL.
            MissingDependencyError: tritonclient is not installed.
        """
        place = address if isinstance(address, Address) else address_of(address, protocol)
        self._client = HttpClient(place, ca) if protocol == "http" else GrpcClient(place, ca)
        self._address = place
        self._deadline = deadline or Deadline()
        self._dimension = dimension
        self.model = model
        self.answered = 0
        self.execution = f"Triton over {place.name} at {place}"

    def encode(self, sentences: Sequence[str], prompt_name: str | None = None) -> Vectors:
        """Return (len(sentences), dimension) float32, asked for in requests of 32 sentences.

        Args:
            sentences: Without a prompt.
            prompt_name: The prompt that each request names (default: none).

        Raises:
            ServerError: The server cannot be reached or refuses, or its answer is unusable.
        """
        starts = range(0, len(sentences), ROWS_PER_REQUEST)
        batches = (sentences[start : start + ROWS_PER_REQUEST] for start in starts)
        return np.concatenate([self.encode_batch(batch, prompt_name) for batch in batches])

    def encode_batch(self, sentences: Sequence[str], prompt_name: str | None = None) -> Vectors:
        """Return (len(sentences), dimension) float32, asked for in one request.

        Raises:
            ServerError: The server cannot be reached or refuses, or returns something else than float32 rows.
        """
        texts = [sentence.encode() for sentence in sentences]
        named = {} if prompt_name is None else {"prompt_name": prompt_name}
        with self._request() as seconds:
            tensor = self._client.infer(self.model, texts, seconds, named)
            vectors = _vectors(tensor, len(texts), self._dimension)
        self._dimension = vectors.shape[1]
        self.answered += len(texts)
        return vectors

    def seal(self) -> str | None:
        """Return the seal of the bundle that the ensemble was made from, as the server reports it. HTTP only.

        Raises:
            ServerError: The server cannot be reached or has no such model, or its answer is unusable.
        """
        with self._request() as seconds:
            parameters = self._http.configuration(self.model, seconds).parameters
        return parameters[SEAL].string_value if SEAL in parameters else None

    def counts(self, model: str, expected: int = 0) -> tuple[int, int]:
        """Return (inference count, execution count) of a model over all of its versions. HTTP only.

        A server counts a request after it has answered it. So this waits until it has counted as far as expected, or
        has counted nothing for two seconds: what its response cache has answered is never counted.

        Args:
            model: Any model of the server.
            expected: Inferences that are known to have been answered.

        Raises:
            ServerError: The server cannot be reached or has no such model, or its answer is unusable.
        """
        last, settled = None, Timer(SETTLE_S)
        while True:
            with self._request() as seconds:
                versions = self._http.statistics(model, seconds).model_stats
            counts = sum(one.inference_count for one in versions), sum(one.execution_count for one in versions)
            if counts != last:
                last, settled = counts, Timer(SETTLE_S)
            if counts[0] >= expected or settled.over:
                return counts
            time.sleep(POLL_S)

    @property
    def _http(self) -> HttpClient:
        if not isinstance(self._client, HttpClient):
            raise TypeError("a server is asked about its models over HTTP")
        return self._client

    @contextmanager
    def _request(self) -> Iterator[float]:
        """Yield the seconds that a request may take; what goes wrong with it is an error of ours."""
        subject, seconds = f"{self.model} at {self._address}", self._deadline.seconds()
        try:
            yield seconds
        except TimeoutError as error:
            raise ServerError(
                f"{subject}: the answer was not complete within {seconds:.3g} s",
                next_step="look into the server's log, or raise `timeout_s`",
            ) from error
        except ConnectionRefusedError as error:
            raise ServerError(
                f"{subject}: nothing answers there", next_step="start the server, or check host and port"
            ) from error
        except (AnswerError, OSError) as error:
            raise ServerError(f"{subject}: {shown(error)}", next_step="look into the server's log") from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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

    def for_client(self, number: int) -> RemoteEncoder:
        """Return the ensemble for one of many clients, which share the addresses evenly."""
        return self.connect(self.where[number % len(self.where)])


class PromptedEncoder:
    """The ensembles of one encoder at one address, with the methods of an encoder that has prompts.

    Attributes:
        text: The ensemble for texts of any kind.
    """

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


def _vectors(tensor: Tensor, rows: int, dimension: int | None) -> Vectors:
    """Return (rows, dimension) float32, if that is what a tensor holds.

    Raises:
        AnswerError: It is not.
    """
    columns = len(tensor.data) // (4 * rows) if dimension is None else dimension
    # As many bytes as rows: a wrong shape cannot make an array of another size.
    whole = columns > 0 and list(tensor.shape) == [rows, columns] and len(tensor.data) == 4 * rows * columns
    if tensor.datatype != "FP32" or not whole:
        wanted = "FP32 vectors" if dimension is None else f"FP32 {[rows, dimension]}"
        raise AnswerError(f"{rows} sentences were answered with {tensor}, not {wanted}")
    return np.frombuffer(tensor.data, "<f4").reshape(rows, columns).astype(np.float32)
