"""Servers on the loopback that answer what no Triton would: over HTTP, with TLS, and over gRPC."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.dependencies import require

__all__ = [
    "RawServer",
    "certificate",
    "grpc_server",
    "http_answer",
    "inference",
    "raw_server",
    "repeated",
]

Answer = Callable[[bytes], Iterable[bytes]]
"""A request's head to the pieces of its answer. The connection is closed after the last of them."""


@dataclass
class RawServer:
    """A server that answers the head of every request with bytes, whatever they are.

    Attributes:
        url: ``"127.0.0.1:12345"``, or with brackets.
        heads: What clients have sent, up to the first empty line: the whole of what is no HTTP.
        bodies: What they have sent after that, as much as they stated.
        sent: Bytes that were handed to the system.
        over: Set at the end, for answers that wait.
    """

    answer: Answer
    url: str = ""
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    sent: int = 0
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def raw_server(answer: Answer, *, tls: Path | None = None, host: str = "127.0.0.1") -> Iterator[RawServer]:
    """Yield a server.

    Args:
        answer: To each request.
        tls: Certificate and key (PEM) of a server with TLS.
        host: IPv4 or IPv6 address of the loopback.
    """
    found = RawServer(answer)
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client has gone, as it should
                connection = self.request if context is None else context.wrap_socket(self.request, server_side=True)
                with connection:
                    _serve(found, connection)

    class Server(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True
        request_queue_size = 64

    with Server((host, 0), Handler) as server:
        found.url = f"[{host}]:{server.server_address[1]}" if ":" in host else f"{host}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield found
        finally:
            found.over.set()
            server.shutdown()
            thread.join()


def _serve(server: RawServer, connection: socket.socket) -> None:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        received += piece
        if not piece or not received[:1].isupper():
            break
    head, _, body = received.partition(b"\r\n\r\n")
    server.heads.append(head)
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length and (piece := connection.recv(65536)):
        body += piece
    server.bodies.append(body)
    for piece in server.answer(head):
        if server.over.is_set():
            return
        connection.sendall(piece)
        server.sent += len(piece)


def repeated(piece: bytes, wait: Callable[[], object] = lambda: None) -> Iterator[bytes]:
    """Yield a piece for ever."""
    while True:
        yield piece
        wait()


def http_answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """Return an answer of HTTP; ``length`` states another length of the body than it has."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def inference(data: bytes, /, **changes: Any) -> bytes:
    """Return Triton's answer with one vector of four values, ``data``; ``changes`` are of the output."""
    output = {
        "name": "sentence_embedding",
        "datatype": "FP32",
        "shape": [1, 4],
        "parameters": {"binary_data_size": len(data)},
    }
    text = json.dumps({"model_name": "demo_text", "outputs": [output | changes]}).encode()
    return http_answer(text + data, f"Inference-Header-Content-Length: {len(text)}")


@contextmanager
def grpc_server(answer: Callable[[Any], bytes], tls: Path | None = None) -> Iterator[str]:
    """Yield the address of a gRPC server that answers every method with bytes that need not be a message.

    Args:
        answer: The server's context to the bytes.
        tls: Certificate and key (PEM) of a server with TLS.
    """
    grpc = require("grpc")

    class Handler(grpc.GenericRpcHandler):  # type: ignore[name-defined,misc]
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda _request, context: answer(context))

    pool = ThreadPoolExecutor(8)
    server = grpc.server(pool, handlers=(Handler(),), options=[("grpc.max_send_message_length", -1)])
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pem = tls.read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pem, pem)]))
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
        pool.shutdown()


def certificate(folder: Path, name: str = "127.0.0.1") -> Path:
    """Write a self-signed certificate of an address and its key to one PEM file, and return it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    return file
