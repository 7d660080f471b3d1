"""Requests to a server: sent again where that helps, within the time for all, and counted."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

from exporter.errors import ServerError
from exporter.serving.answers import AnswerError, BrokenOffError, shown
from exporter.serving.embeddings.address import BaseUrl
from exporter.serving.embeddings.options import ServerOptions
from exporter.serving.http import HttpConnector, Response, read_authorities
from exporter.serving.limits import Deadline

T = TypeVar("T")

AGAIN = (429, 502, 503, 504)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 60.0
_MOST_SAID = 10_000  # characters that are searched for secrets; a message shows fewer


class RefusedError(ServerError):
    """The server answered with an error.

    Attributes:
        status: Of HTTP.
        said: What it said, in one line.
    """

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message, next_step=_NEXT.get(status, "look into the server's log"))
        self.status, self.said = status, said

    @property
    def is_refusal(self) -> bool:
        """Whether the server says that the request was wrong or is not supported, and not that it has failed itself."""
        return 400 <= self.status < 500 or self.status == HTTPStatus.NOT_IMPLEMENTED


_OF_KEYS = (401, 403)
_NEXT = {
    401: "give the key in an environment variable, with `key_env`",
    403: "give the key in an environment variable, with `key_env`",
    404: "check the path of the URL, `api` and `model`",
}


class Requests:
    """Requests to one server. Several threads may share it.

    Attributes:
        url: Of the server.
        sent: Requests that were sent, repetitions included.
        again: How often one was sent again, by reason.
    """

    def __init__(self, url: BaseUrl, options: ServerOptions, said_by: Callable[[bytes], str | None]) -> None:
        """Prepare requests.

        Args:
            url: Of the server.
            options: How it is asked.
            said_by: The body of an error to its message; None where it has none.

        Raises:
            InputError: The certificates or a time cannot be used.
        """
        ca = None if options.ca_file is None else read_authorities(options.ca_file, tls=url.tls)
        self.url = url
        self._connector = HttpConnector(url.host, url.port, tls=url.tls, ca=ca)
        self._options, self._said_by = options, said_by
        self._deadline = Deadline(options.timeout_s, options.deadline_s)
        self._counting = threading.Lock()
        self.sent = 0
        self.again: Counter[str] = Counter()

    def get(self, path: str) -> bytes:
        """Return what a path is answered with.

        Raises:
            RefusedError: With an error.
            ServerError: The server cannot be reached, or what it answers is unusable.
        """
        return self._ask(path, None, _as_it_is)

    def post(self, path: str, content: Mapping[str, Any], read: Callable[[bytes], T]) -> T:
        """Return what JSON is answered with, read by ``read``, which raises ``AnswerError`` where it is unusable.

        Raises:
            RefusedError: The answer is an error.
            ServerError: The server cannot be reached, or what it answers is unusable.
        """
        return self._ask(path, json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"), read)

    def _ask(self, path: str, body: bytes | None, read: Callable[[bytes], T]) -> T:
        attempt = 0
        while True:
            last = attempt == self._options.retries
            seconds = self._deadline.seconds()
            with self._counting:
                self.sent += 1
            try:
                response = self._connector.request(path, seconds, body, self._headers(body))
                if response.ok:
                    return read(response.body)
            except (BrokenOffError, ConnectionResetError, BrokenPipeError) as error:
                if last:
                    raise self._failed(error, seconds) from self.told(error)
                self._wait("broken connections", None, attempt)
            except (AnswerError, OSError) as error:
                raise self._failed(error, seconds) from self.told(error)
            else:
                if response.status not in AGAIN or last:
                    raise self._refused(response)
                self._wait(f"HTTP {response.status}", _retry_after(response), attempt)
            attempt += 1

    def said(self, said: object) -> str:
        """Return the first line of what the server says, for a message: without secrets, and not too long."""
        return shown(self._options.without_secrets(str(said)[:_MOST_SAID]))

    def told(self, error: Exception) -> Exception | None:
        """Return an error if a traceback may show it: where there are secrets, it may repeat them."""
        return None if self._options.has_secrets else error

    def _headers(self, body: bytes | None) -> dict[str, str]:
        json_body = {} if body is None else {"Content-Type": "application/json"}
        return {"Accept": "application/json", **self._options.sent_headers, **json_body}

    def _wait(self, reason: str, asked_for: float | None, attempt: int) -> None:
        with self._counting:
            self.again[reason] += 1
        wanted = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) if asked_for is None else asked_for
        if wanted > min(LONGEST_WAIT_S, self._deadline.left()):
            raise ServerError(
                f"{self.url}: the server answers {reason} and asks to wait {wanted:.0f} s, which is too long",
                next_step="try again later, or raise `deadline_s`",
            )
        time.sleep(wanted)

    def _refused(self, response: Response) -> RefusedError:
        told = self.said(self._said_by(response.body) or f"{response.reason}, and no error message")
        error = RefusedError(f"{self.url}: HTTP {response.status}: {told}", response.status, told)
        if response.status in _OF_KEYS and self._options.has_secrets:
            error.next_step = "check the key or the headers that are sent: the server refuses them"
        return error

    def _failed(self, error: Exception, seconds: float) -> ServerError:
        if isinstance(error, TimeoutError):
            told, next_step = f"the answer was not complete within {seconds:.3g} s", "raise `timeout_s`"
        elif isinstance(error, ConnectionRefusedError):
            told, next_step = "nothing answers there", "start the server, or check host and port"
        elif isinstance(error, socket.gaierror):
            told, next_step = "there is no such host", "check the name of the host"
        elif isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            told, next_step = "it does not speak TLS", "give http:// in place of https://"
        else:
            told, next_step = self.said(error), "look into the server's log"
        return ServerError(f"{self.url}: {told}", next_step=next_step)


def _as_it_is(body: bytes) -> bytes:
    return body


def _retry_after(response: Response) -> float | None:
    """Return the seconds that a server asks to wait, in a number or as a date; None where it does not."""
    stated = response.headers.get("retry-after", "").strip()
    if stated.isdecimal() and len(stated) < 9:
        return float(stated)
    try:
        at = parsedate_to_datetime(stated)
    except (TypeError, ValueError, OverflowError):
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return max((at - datetime.now(UTC)).total_seconds(), 0.0)
