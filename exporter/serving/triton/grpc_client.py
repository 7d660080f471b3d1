"""Triton over gRPC, through tritonclient: within the time of a request and up to the bytes of an answer."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from exporter.dependencies import require
from exporter.runtime.contract import OUTPUT
from exporter.serving.answers import AnswerError
from exporter.serving.limits import ANSWER_BYTES
from exporter.serving.triton.address import Address
from exporter.serving.triton.answers import Tensor
from exporter.serving.triton.facts import TEXT

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", ANSWER_BYTES),
    # The limit is that of the message as it is sent: a compressed one could be a thousand times larger.
    ("grpc.per_message_decompression", 0),
    ("grpc.compression_enabled_algorithms_bitset", 1),
]


class GrpcClient:
    """One connection to one server."""

    def __init__(self, address: Address, ca: bytes | None) -> None:
        """Prepare a connection; the first request makes it.

        Args:
            address: Of the server's gRPC port.
            ca: Certificates (PEM) that vouch for the server's; by default the system's file of them, or gRPC's own.

        Raises:
            MissingDependencyError: tritonclient is not installed.
        """
        grpc, self._triton = require("grpc"), require("tritonclient.grpc")
        credentials = grpc.ssl_channel_credentials(ca or _system_authorities()) if address.tls else None
        self._client = self._triton.InferenceServerClient(str(address), creds=credentials, channel_args=_OPTIONS)

    def infer(self, model: str, texts: Sequence[bytes], seconds: float, parameters: Mapping[str, str]) -> Tensor:
        """Return the vectors of texts that are sent as one batch of shape (len(texts), 1), with request parameters.

        Raises:
            AnswerError: The server cannot be reached, refuses, or answers something else.
            TimeoutError: It does not answer in time.
        """
        batch = self._triton.InferInput(TEXT, [len(texts), 1], "BYTES")
        batch.set_data_from_numpy(np.array([[text] for text in texts], dtype=np.object_))
        try:
            asked = self._client.infer(model, [batch], client_timeout=seconds, parameters=dict(parameters))
            answer = asked.get_response()
        except self._triton.InferenceServerException as error:
            if error.status() == "StatusCode.DEADLINE_EXCEEDED":
                raise TimeoutError from error
            raise AnswerError(error.message() or error.status()) from error
        for output, data in zip(answer.outputs, answer.raw_output_contents, strict=False):
            if output.name == OUTPUT:
                return Tensor(output.datatype, output.shape, data)
        raise AnswerError(f"the answer has no output {OUTPUT}")

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _system_authorities() -> bytes | None:
    file = ssl.get_default_verify_paths().cafile  # also that of SSL_CERT_FILE
    return None if file is None else Path(file).read_bytes()
