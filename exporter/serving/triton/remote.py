"""A running server as an encoder: strings go out over HTTP or gRPC, vectors come back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from exporter.dependencies import require
from exporter.errors import ServerError, first_line
from exporter.runtime.contract import OUTPUT
from exporter.serving.triton.facts import TEXT

ROWS_PER_REQUEST = 32
TIMEOUT_S = 120
SETTLE_S = 10

Protocol = Literal["http", "grpc"]
Vectors = npt.NDArray[np.float32]


class RemoteEncoder:
    """One connection to one ensemble. For one thread: tritonclient's connections are not shared.

    Attributes:
        execution: Where it runs, for reports.
        model: Name of the ensemble.
    """

    def __init__(self, protocol: Protocol, address: str, model: str) -> None:
        """Connect to ``address``, host and port, and ask for ``model``.

        Raises:
            MissingDependencyError: tritonclient is not installed.
        """
        if protocol == "grpc":
            require("grpc")
        self._triton = require(f"tritonclient.{protocol}")
        limits = {"network_timeout": TIMEOUT_S, "connection_timeout": TIMEOUT_S} if protocol == "http" else {}
        self._client = self._triton.InferenceServerClient(address, **limits)
        # A server that goes away is an error of the library below tritonclient, which hides it over gRPC only.
        lost = (require("geventhttpclient.response").HTTPParseError,) if protocol == "http" else ()
        self._errors = (require("tritonclient.utils").InferenceServerException, OSError, *lost)
        self._address = address
        self.model = model
        self.execution = f"Triton over {'HTTP' if protocol == 'http' else 'gRPC'} at {address}"

    def encode(self, sentences: Sequence[str]) -> Vectors:
        """Return (len(sentences), dimension) float32, asked for in requests of 32 sentences.

        Raises:
            ServerError: The server cannot be reached or refuses.
        """
        starts = range(0, len(sentences), ROWS_PER_REQUEST)
        return np.concatenate([self.encode_batch(sentences[start : start + ROWS_PER_REQUEST]) for start in starts])

    def encode_batch(self, sentences: Sequence[str]) -> Vectors:
        """Return (len(sentences), dimension) float32, asked for in one request.

        Raises:
            ServerError: The server cannot be reached or refuses, or returns something else than float32 rows.
        """
        text = self._triton.InferInput(TEXT, [len(sentences), 1], "BYTES")
        text.set_data_from_numpy(np.array([[sentence.encode()] for sentence in sentences], dtype=np.object_))
        with self._failures():
            vectors = self._client.infer(self.model, [text]).as_numpy(OUTPUT)
        if vectors is None or vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(sentences):
            shape = None if vectors is None else f"{vectors.dtype} {vectors.shape}"
            raise ServerError(f"{self.model} at {self._address} answered {len(sentences)} sentences with {shape}")
        result: Vectors = vectors
        return result

    def config(self) -> dict[str, Any]:
        """Return the configuration that the server reports of the ensemble. HTTP only.

        Raises:
            ServerError: The server cannot be reached or has no such model.
        """
        with self._failures():
            config: dict[str, Any] = self._client.get_model_config(self.model)
        return config

    def counts(self, model: str, expected: int = 0) -> tuple[int, int]:
        """Return (inference count, execution count) of a model over all of its versions. HTTP only.

        Args:
            model: Any model of the server.
            expected: Inferences that are known to have been answered. A server counts a request after it has answered
                it: this waits until it has counted that far, ten seconds at most.

        Raises:
            ServerError: The server cannot be reached or has no such model.
        """
        deadline = time.monotonic() + SETTLE_S
        while True:
            with self._failures():
                stats = self._client.get_inference_statistics(model)["model_stats"]
            inferences, executions = (
                sum(int(one[count]) for one in stats) for count in ("inference_count", "execution_count")
            )
            if inferences >= expected or time.monotonic() >= deadline:
                return inferences, executions
            time.sleep(0.05)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what tritonclient and the connections below it raise into one error of ours."""
        try:
            yield
        except self._errors as error:
            raise ServerError(
                f"{self.model} at {self._address}: {first_line(error)}", next_step="look into the server's log"
            ) from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def addresses(url: str, grpc: str | None) -> dict[Protocol, str]:
    """Return host and port per protocol; gRPC is by default one port above HTTP, as Triton has it."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    host, port = parts.hostname or "localhost", parts.port or 8000
    return {"http": f"{host}:{port}", "grpc": grpc or f"{host}:{port + 1}"}
