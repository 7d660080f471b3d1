"""The URL of a server to host, port and path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from exporter.errors import InputError, without_credentials

_PATH = re.compile(r"(/[\w.~%!$&'()*+,;=:@-]*)*", re.ASCII)
_HOST = re.compile(r"[0-9A-Za-z_.:-]+", re.ASCII)


@dataclass(frozen=True)
class BaseUrl:
    """Where a server listens.

    Attributes:
        host: A name, or an IPv4 or IPv6 address without brackets.
        port: 1 to 65535.
        tls: Whether the connection is encrypted, and the server's certificate verified.
        path: What stands before the paths of the API: ``""``, or such as ``"/openai"``.
    """

    host: str
    port: int
    tls: bool
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"


def base_url(url: str) -> BaseUrl:
    """Return where a URL points.

    Args:
        url: ``http://`` or ``https://``, or no scheme for ``http://``; then host, port and path. The port is 80 or 443
            unless stated.

    Raises:
        InputError: It is no such URL.
    """
    if "@" in url:  # the message does not repeat the URL: it may hold a password
        raise InputError("the URL has a user name or a password, which would not be sent", next_step="give `key_env`")
    if re.match(r"https?:(?!//)[^0-9]", url):
        raise _refused(url)
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _refused(url) from None
    sound = (
        parts.scheme in {"http", "https"}
        and host is not None
        and _HOST.fullmatch(host)
        and all(len(label) <= 63 for label in host.split("."))
        and not host.startswith(".")
        and ".." not in host
        and _PATH.fullmatch(parts.path)
        and not (parts.query or parts.fragment or port == 0)
    )
    if not sound or host is None:
        raise _refused(url)
    tls = parts.scheme == "https"
    return BaseUrl(host, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


def _refused(url: str) -> InputError:
    told = without_credentials(url)[:200]
    if "?" in url:
        raise InputError(
            f"{told!r} has a query, which is not sent", next_step="give scheme, host, port and path; a key by `key_env`"
        )
    return InputError(
        f"{told!r} is no address of a server: scheme (http or https), host, port (1 to 65535) and path",
        next_step="give http://HOST:PORT, or https://HOST/PATH",
    )
