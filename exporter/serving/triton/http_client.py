"""Triton over HTTP: its requests and answers.

tritonclient's own HTTP client bounds neither time nor bytes: its timeout is that of a single read, and it reads a body
to its end.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from exporter.runtime.contract import OUTPUT
from exporter.serving.answers import AnswerError, parse
from exporter.serving.http import HttpConnector, Response
from exporter.serving.triton.address import Address
from exporter.serving.triton.answers import Configuration, Inference, Refusal, Statistics, Tensor
from exporter.serving.triton.facts import TEXT

TRITON = "Triton"
_HEADER_LENGTH = "Inference-Header-Content-Length"


class HttpClient:
    """Requests to one server."""

    def __init__(self, address: Address, ca: bytes | None) -> None:
        """Remember where the server listens.

        Args:
            address: Of its HTTP port.
            ca: Certificates (PEM) that vouch for the server's; by default, those of the system.
        """
        self._connector = HttpConnector(address.host, address.port, tls=address.tls, ca=ca)

    def infer(self, model: str, texts: Sequence[bytes], seconds: float, parameters: Mapping[str, str]) -> Tensor:
        """Return the vectors of texts that are sent as one batch of shape (len(texts), 1), with request parameters.

        Raises:
            AnswerError: The server refuses, or answers something else.
            OSError: It cannot be reached, or does not answer in time.
        """
        data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        text_input = {
            "name": TEXT,
            "shape": [len(texts), 1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(data)},
        }
        wanted = {"name": OUTPUT, "parameters": {"binary_data": True}}
        request = {"parameters": dict(parameters), "inputs": [text_input], "outputs": [wanted]}
        header = json.dumps(request).encode()
        length, answer = self._request(_path(model, "infer"), seconds, header + data, {_HEADER_LENGTH: len(header)})
        return _tensor(OUTPUT, length, answer)

    def configuration(self, model: str, seconds: float) -> Configuration:
        """Return the configuration of a model, as the server reports it.

        Raises:
            AnswerError: There is no such model, or the server answers something else.
            OSError: It cannot be reached, or does not answer in time.
        """
        return parse(Configuration, self._request(_path(model, "config"), seconds)[1], TRITON)

    def statistics(self, model: str, seconds: float) -> Statistics:
        """Return what the versions of a model have done.

        Raises:
            AnswerError: There is no such model, or the server answers something else.
            OSError: It cannot be reached, or does not answer in time.
        """
        return parse(Statistics, self._request(_path(model, "stats"), seconds)[1], TRITON)

    def close(self) -> None:
        """Do nothing: no connection is left open."""

    def _request(
        self, path: str, seconds: float, body: bytes | None = None, headers: dict[str, Any] | None = None
    ) -> tuple[str | None, bytes]:
        """Return the header of a body's JSON length, and the body, of the answer to a GET, or a POST with a body."""
        response = self._connector.request(path, seconds, body, headers)
        if not response.ok:
            raise AnswerError(_refusal(response))
        return response.headers.get(_HEADER_LENGTH.lower()), response.body


def _path(model: str, what: str) -> str:
    return f"/v2/models/{quote(model, safe='')}/{what}"


def _tensor(name: str, length: str | None, answer: bytes) -> Tensor:
    """Return an output of an answer: JSON text of a stated length, then the data of the outputs in their order."""
    end = int(length) if length is not None and length.isdecimal() and len(length) < 20 else len(answer)
    inference = parse(Inference, answer[:end], TRITON)
    for output in inference.outputs:
        start, end = end, end + output.parameters.binary_data_size
        if output.name == name:
            return Tensor(output.datatype, output.shape, answer[start:end])
    raise AnswerError(f"the answer has no output {name}")


def _refusal(response: Response) -> str:
    try:
        return parse(Refusal, response.body, TRITON).error
    except AnswerError:
        return f"HTTP {response.status} {response.reason}, and no error message of Triton's"
