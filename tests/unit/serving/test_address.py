"""URLs of servers: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from exporter.errors import InputError
from exporter.serving.triton.address import Address, Protocol, address_of, addresses

MEANT: dict[str, Address] = {
    "host": Address("http", "host", 8000, False),
    "host:9000": Address("http", "host", 9000, False),
    "http://host.example": Address("http", "host.example", 8000, False),
    "https://host": Address("http", "host", 8000, True),
    "HTTPS://host:443/": Address("http", "host", 443, True),
    "http://127.0.0.1:80": Address("http", "127.0.0.1", 80, False),
    "http://[::1]": Address("http", "::1", 8000, False),
    "https://[2001:db8::1]:65535": Address("http", "2001:db8::1", 65535, True),
    "grpc://host": Address("grpc", "host", 8001, False),
    "grpcs://[::1]:443": Address("grpc", "::1", 443, True),
}


@pytest.mark.parametrize("url", MEANT)
def test_what_a_url_means(url: str) -> None:
    assert address_of(url, MEANT[url].protocol) == MEANT[url]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "http://:8000",
        "::1",
        "http://::1:8000",
        "http://[::1",
        "http://[host]",
        "http://[1.2.3.4]",
        "http://host:0",
        "http://host:65536",
        "http://host:-1",
        "http://host:80a",
        "http://host:８０",
        "http://host:",
        "http://host:80:80",
        "http://host/v2",
        "http://host//",
        "http://host?token=1",
        "http://host#there",
        "http://host\n",
        "http://ho\tst",
        "http://ho st",
        "ftp://host",
        "https:host",
        "grpc://host:8001",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is no server address") as refused:
        address_of(url, "http")
    assert refused.value.message.count("\n") == 0
    assert "https://HOST:PORT" in str(refused.value.next_step)


@pytest.mark.parametrize(
    "url", ["http://me:s3cret@host", "https://me:s3cret@host:x/path", "me:s3cret@host", "//s3cret@h"]
)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_password_is_refused_and_not_printed(url: str, protocol: Protocol) -> None:
    with pytest.raises(InputError, match="has a user name or a password") as refused:
        address_of(url, protocol)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "grpc", "wanted"),
    [
        ("http://host:9000", None, Address("grpc", "host", 9001, False)),
        ("host", None, Address("grpc", "host", 8001, False)),
        ("https://[::1]", None, Address("grpc", "::1", 8001, True)),
        ("http://host:80", "other", Address("grpc", "other", 8001, False)),
        ("https://host", "other:1", Address("grpc", "other", 1, True)),
        ("https://host", "grpc://other", Address("grpc", "other", 8001, False)),
        ("http://host", "grpcs://other", Address("grpc", "other", 8001, True)),
    ],
)
def test_where_grpc_is(url: str, grpc: str | None, wanted: Address) -> None:
    assert addresses(url, grpc)[1] == wanted


def test_there_is_no_port_after_the_last() -> None:
    with pytest.raises(InputError, match="give the address of `grpc`"):
        addresses("http://host:65535")


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    assert [str(address) for address in addresses("[::1]:8000")] == ["[::1]:8000", "[::1]:8001"]
