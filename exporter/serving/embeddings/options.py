"""How a server is asked: which API, as whom, and within which limits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from exporter.errors import InputError
from exporter.serving.limits import REQUEST_S, TOTAL_S

Api = Literal["triton", "tei", "openai"]

RETRIES = 4
HIDDEN = "***"
_TELLING = 8  # characters of a secret that must not be told
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_OWN = {"content-type", "content-length", "host", "connection", "transfer-encoding", "accept-encoding"}


@dataclass(frozen=True)
class ServerOptions:
    """How a server is asked.

    Attributes:
        api: What it speaks: Triton's HTTP, ``/embed`` and ``/info`` of Text Embeddings Inference (TEI), or
            ``/v1/embeddings`` of OpenAI.
        model: What OpenAI's API calls ``model``; by default the only one that the server lists. Of Triton, the name of
            the encoder.
        headers: Sent with every request, name and value.
        key: Sent as ``Authorization: Bearer``. No message repeats it.
        ca_file: Certificates (PEM) that vouch for the server's; by default, those of the system.
        timeout_s: Most seconds for one request.
        deadline_s: Most seconds for all requests together.
        retries: How often a request is sent again that was answered with 429, 502, 503 or 504, or with nothing.
        normalize: What TEI is told to do; by default it is told nothing, and normalizes.
        dimension: Of the vectors; by default that of the first answer.
        prompt_name: The prompt that TEI is told to use where none is asked for.
        prompt: Text that is put before every text for OpenAI's API, which has no prompts.
    """

    api: Api = "tei"
    model: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    key: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    timeout_s: float = REQUEST_S
    deadline_s: float = TOTAL_S
    retries: int = RETRIES
    normalize: bool | None = None
    dimension: int | None = None
    prompt_name: str | None = None
    prompt: str = ""

    def __post_init__(self) -> None:
        for name, value in self.headers:
            if not _NAME.fullmatch(name) or name.lower() in _OWN:
                raise InputError(f"`header` {name[:40]!r} cannot be sent", next_step="give 'Name: value'")
            _refuse_unsendable(value, f"the value of `header` {name}")
        names = [name.lower() for name, _ in self.headers]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"`header` {twice[:40]!r} is given twice", next_step="give it once")
        if self.key is not None:
            _refuse_unsendable(self.key, "the key")
            if "authorization" in names:
                raise InputError(
                    "a key and a header Authorization are both given", next_step="omit `key_env` or the header"
                )

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers of every request."""
        key = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        return {**dict(self.headers), **key}

    @property
    def has_secrets(self) -> bool:
        """Whether a key or headers are sent."""
        return bool(self._secrets())

    def without_secrets(self, said: str) -> str:
        """Return what a server says without the key and the values of headers, which it may repeat.

        The beginning of a secret is taken out too: what is said may have been cut. So are the credentials behind a
        scheme, such as those of ``Authorization: Bearer``.
        """
        for secret in self._secrets():
            said = said.replace(secret, HIDDEN)
            for length in range(len(secret) - 1, _TELLING - 1, -1):
                said = said.replace(secret[:length], HIDDEN)
        return said

    def _secrets(self) -> list[str]:
        """Return what no message repeats, the longest first: one may be a part of another."""
        values = [value for _, value in self.headers]
        credentials = [value.partition(" ")[2].strip() for value in values]
        return sorted({each for each in (self.key, *values, *credentials) if each}, key=lambda each: (-len(each), each))


def header_of(text: str) -> tuple[str, str]:
    """Return name and value of ``"Name: value"``.

    Raises:
        InputError: It is none. The message has no value, which may be a secret.
    """
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise InputError("a `header` has no name, or no colon behind it", next_step="give 'Name: value'")
    return name.strip(), value.strip()


def _refuse_unsendable(value: str, what: str) -> None:
    if not value or not value.isascii() or not value.isprintable():
        raise InputError(f"{what} is empty, or has characters that no header can have", next_step="check it")
