"""The URL of a server to the host, the port, and whether TLS is used: for HTTP and for gRPC."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from exporter.errors import InputError, without_credentials

Protocol = Literal["http", "grpc"]

# Triton's own: --http-port and --grpc-port.
_PORTS: dict[Protocol, int] = {"http": 8000, "grpc": 8001}
_SCHEMES: dict[Protocol, tuple[str, str]] = {"http": ("http", "https"), "grpc": ("grpc", "grpcs")}
_URL = re.compile(r"(?:([A-Za-z]+)://)?(?:\[([0-9A-Za-z:.]+)\]|([\w.-]+))(?::([0-9]{1,5}))?/?", re.ASCII)


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        protocol: That it speaks there.
        host: A name, or an IPv4 or IPv6 address without brackets.
        port: 1 to 65535.
        tls: Whether the connection is encrypted, and the server's certificate verified.
    """

    protocol: Protocol
    host: str
    port: int
    tls: bool

    @property
    def name(self) -> str:
        """The protocol, for people."""
        return {"http": "HTTP", "grpc": "gRPC"}[self.protocol] + (" with TLS" if self.tls else "")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def addresses(url: str, grpc: str | None = None) -> tuple[Address, Address]:
    """Return the addresses of HTTP and of gRPC.

    Args:
        url: Of HTTP: ``https://`` for TLS, ``http://`` or no scheme for none. The port is 8000 unless stated.
        grpc: Of gRPC: ``grpcs://`` for TLS, ``grpc://`` for none; without a scheme, TLS if ``url`` has it. The port is
            8001 unless stated. By default, the host of ``url`` and the port after its port.

    Raises:
        InputError: One of them is no such URL.
    """
    http = address_of(url, "http")
    if grpc is not None:
        return http, address_of(grpc, "grpc", tls=http.tls)
    if http.port == 65535:
        raise InputError(
            f"{http} has the last port, so gRPC cannot be on the next one", next_step="give the address of `grpc`"
        )
    return http, Address("grpc", http.host, http.port + 1, http.tls)


def address_of(url: str, protocol: Protocol, *, tls: bool = False) -> Address:
    """Return where a URL points.

    Args:
        url: ``"https://host:8000"``, ``"grpc://[::1]"``, or without a scheme ``"host:8001"``.
        protocol: Which schemes it may have.
        tls: Whether a URL without a scheme means TLS.

    Raises:
        InputError: It is anything else than scheme, host and port.
    """
    plain, encrypted = _SCHEMES[protocol]
    example = f"give {plain}://HOST:PORT, or {encrypted}://HOST:PORT for TLS; an IPv6 address in brackets"
    if "@" in url:  # the message does not repeat the URL: it may hold a password
        raise InputError(
            f"the {protocol} address has a user name or a password, which would not be sent", next_step=example
        )
    told = without_credentials(url)
    found = _URL.fullmatch(url)
    scheme, ipv6, name, port = found.groups() if found else (None, None, None, None)
    scheme = scheme.lower() if scheme else (encrypted if tls else plain)
    number = int(port) if port else _PORTS[protocol]
    labels = (name or "a").removesuffix(".").split(".")
    if not all(1 <= len(label) <= 63 for label in labels):
        raise InputError(f"{told!r} is no server address: a part of the host's name is empty or longer than 63 letters")
    if not found or scheme not in _SCHEMES[protocol] or not 1 <= number <= 65535 or (ipv6 and not _is_ipv6(ipv6)):
        raise InputError(
            f"{told!r} is no server address: scheme ({plain} or {encrypted}), host, port (1 to 65535), nothing else",
            next_step=example,
        )
    return Address(protocol, str(ipv6 or name), number, scheme == encrypted)


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
