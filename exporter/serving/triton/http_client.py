"""Triton over HTTP: one connection for one request, within its time and up to the bytes of an answer.

tritonclient's own HTTP client bounds neither: its timeout is that of a single read, and it reads a body to its end.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from exporter.runtime.contract import OUTPUT
from exporter.serving.triton.address import Address
from exporter.serving.triton.answers import (
    AnswerError,
    Configuration,
    Inference,
    Refusal,
    Statistics,
    Tensor,
    parse,
)
from exporter.serving.triton.facts import TEXT
from exporter.serving.triton.limits import ANSWER_BYTES, Timer

_HEADER_LENGTH = "Inference-Header-Content-Length"


class HttpClient:
    """Requests to one server. Each has a connection of its own, so none meets one that was closed meanwhile."""

    def __init__(self, address: Address, ca: bytes | None) -> None:
        """Remember where the server listens.

        Args:
            address: Of its HTTP port.
            ca: Certificates (PEM) that vouch for the server's; by default, those of the system.
        """
        self._address = address
        authorities = None if ca is None else ca.decode("ascii", "replace")
        self._tls = ssl.create_default_context(cadata=authorities) if address.tls else None

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
        return parse(Configuration, self._request(_path(model, "config"), seconds)[1])

    def statistics(self, model: str, seconds: float) -> Statistics:
        """Return what the versions of a model have done.

        Raises:
            AnswerError: There is no such model, or the server answers something else.
            OSError: It cannot be reached, or does not answer in time.
        """
        return parse(Statistics, self._request(_path(model, "stats"), seconds)[1])

    def close(self) -> None:
        """Do nothing: no connection is left open."""

    def _request(
        self, path: str, seconds: float, body: bytes | None = None, headers: dict[str, Any] | None = None
    ) -> tuple[str | None, bytes]:
        """Return the header of a body's JSON length, and the body, of the answer to a GET, or a POST with a body."""
        timer = Timer(seconds)
        connection = http.client.HTTPConnection(self._address.host, self._address.port)
        with _connect(self._address, timer, self._tls) as plain:
            try:
                connection.sock = _BoundedSocket(plain, timer)
                connection.request("POST" if body else "GET", path, body, {"Connection": "close", **(headers or {})})
                with connection.getresponse() as response:
                    answer = response.read(ANSWER_BYTES)
            except (http.client.HTTPException, ValueError) as error:
                raise AnswerError(f"the answer is not HTTP: {type(error).__name__}: {error}") from error
        if response.length:
            raise AnswerError(f"the connection was closed {response.length} bytes before the answer's end")
        if response.status != http.HTTPStatus.OK:
            raise AnswerError(_refusal(response, answer))
        return response.getheader(_HEADER_LENGTH), answer


class _BoundedSocket:
    """As much of a socket as ``http.client`` uses. Every wait ends with the timer, every answer at its largest size."""

    def __init__(self, plain: socket.socket, timer: Timer) -> None:
        self._plain, self._timer = plain, timer

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._plain.settimeout(self._timer.left())
            left = left[self._plain.send(left) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Received(self._plain, self._timer))

    def close(self) -> None:
        """Leave it open: an answer is read after ``http.client`` has closed its connection."""


class _Received(io.RawIOBase):
    def __init__(self, plain: socket.socket, timer: Timer) -> None:
        self._plain, self._timer = plain, timer
        self._left = ANSWER_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._plain.settimeout(self._timer.left())
        count = self._plain.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise AnswerError(f"the answer is larger than {ANSWER_BYTES // 2**20} MiB")
        return count


def _connect(address: Address, timer: Timer, tls: ssl.SSLContext | None) -> socket.socket:
    """Return a connection to the first address of a host that takes one."""
    failure: OSError = OSError(f"{address.host} has no address")
    for *_, place in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        try:
            plain = socket.create_connection((str(place[0]), address.port), timer.left())
        except OSError as error:
            failure = error
            continue
        if tls is None:
            return plain
        with plain:  # which no longer holds the connection when it has TLS
            plain.settimeout(timer.left())
            try:
                return tls.wrap_socket(plain, server_hostname=address.host)
            except ssl.SSLCertVerificationError as error:
                raise AnswerError(f"its certificate is not trusted: {error.verify_message}") from error
    raise failure


def _path(model: str, what: str) -> str:
    return f"/v2/models/{quote(model, safe='')}/{what}"


def _tensor(name: str, length: str | None, answer: bytes) -> Tensor:
    """Return an output of an answer: JSON text of a stated length, then the data of the outputs in their order."""
    end = int(length) if length is not None and length.isdecimal() and len(length) < 20 else len(answer)
    inference = parse(Inference, answer[:end])
    for output in inference.outputs:
        start, end = end, end + output.parameters.binary_data_size
        if output.name == name:
            return Tensor(output.datatype, output.shape, answer[start:end])
    raise AnswerError(f"the answer has no output {name}")


def _refusal(response: http.client.HTTPResponse, answer: bytes) -> str:
    try:
        return parse(Refusal, answer).error
    except AnswerError:
        return f"HTTP {response.status} {response.reason}, and no error message of Triton's"
