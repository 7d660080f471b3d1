"""HTTP within limits: one connection for one request, within its time and up to the bytes of an answer.

The usual clients bound a single read, not the whole request: a server that sends one byte a minute would hold them for
ever. No redirect is followed, so a key never reaches another host.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.errors import InputError, first_line
from exporter.files import read_file
from exporter.serving.answers import AnswerError, BrokenOffError
from exporter.serving.limits import ANSWER_BYTES, Timer


@dataclass(frozen=True)
class Response:
    """An answer of HTTP, whole.

    Attributes:
        status: 200 to 599.
        reason: As the server words it.
        headers: By name in lower case.
        body: At most ``ANSWER_BYTES``.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 200."""
        return self.status == http.HTTPStatus.OK


class HttpConnector:
    """Requests to one server. Each has a connection of its own, so none meets one that was closed meanwhile."""

    def __init__(self, host: str, port: int, *, tls: bool, ca: bytes | None) -> None:
        """Remember where the server listens.

        Args:
            host: A name, or an IPv4 or IPv6 address without brackets.
            port: 1 to 65535.
            tls: Whether connections are encrypted, and the server's certificate verified.
            ca: Certificates (PEM) that vouch for the server's; by default, those of the system.
        """
        self._host, self._port = host, port
        authorities = None if ca is None else ca.decode("ascii", "replace")
        self._tls = ssl.create_default_context(cadata=authorities) if tls else None

    def request(
        self, path: str, seconds: float, body: bytes | None = None, headers: Mapping[str, Any] | None = None
    ) -> Response:
        """Return the answer to a GET, or to a POST with a body.

        Raises:
            AnswerError: What answers is no HTTP, is too large, or has a certificate that is not trusted.
            BrokenOffError: The connection ended before the answer did.
            OSError: It cannot be reached, or does not answer in time.
        """
        timer = Timer(seconds)
        connection = http.client.HTTPConnection(self._host, self._port)
        with _connect(self._host, self._port, timer, self._tls) as plain:
            try:
                connection.sock = _BoundedSocket(plain, timer)
                method = "GET" if body is None else "POST"
                connection.request(method, path, body, {"Connection": "close", **(headers or {})})
                with connection.getresponse() as response:
                    answer = response.read(ANSWER_BYTES)
            except (http.client.RemoteDisconnected, http.client.IncompleteRead) as error:
                raise BrokenOffError(f"the answer is not HTTP: {type(error).__name__}: {error}") from error
            except (http.client.HTTPException, ValueError) as error:
                raise AnswerError(f"the answer is not HTTP: {type(error).__name__}: {error}") from error
        if response.length:
            raise BrokenOffError(f"the connection was closed {response.length} bytes before the answer's end")
        found = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, response.reason, found, answer)


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


def _connect(host: str, port: int, timer: Timer, tls: ssl.SSLContext | None) -> socket.socket:
    """Return a connection to the first address of a host that takes one."""
    failure: OSError = OSError(f"{host} has no address")
    for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            plain = socket.create_connection((str(place[0]), port), timer.left())
        except OSError as error:
            failure = error
            continue
        if tls is None:
            return plain
        with plain:  # which no longer holds the connection when it has TLS
            plain.settimeout(timer.left())
            try:
                return tls.wrap_socket(plain, server_hostname=host)
            except ssl.SSLCertVerificationError as error:
                raise AnswerError(f"its certificate is not trusted: {error.verify_message}") from error
    raise failure
