"""A server as a side of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from exporter.comparison.sides import OpenServer, ServerSide
from exporter.serving.embeddings import EmbeddingServer, ServerOptions, connect
from exporter.serving.triton.remote import RemoteEncoder
from exporter.targets import Precision

_PRECISIONS = {"float32": Precision.FP32, "float16": Precision.FP16, "bfloat16": Precision.BF16}
"""What TEI says it computes in."""


def opener_of(options: ServerOptions) -> OpenServer:
    """Return what opens the URL of a server.

    Args:
        options: How it is asked.
    """

    @contextmanager
    def open_server(url: str) -> Iterator[ServerSide]:
        with connect(url, options) as remote:
            seal = remote.seal() if isinstance(remote, RemoteEncoder) else None
            info = remote.info if isinstance(remote, EmbeddingServer) else None
            precision = None if info is None else _PRECISIONS.get(info.model_dtype)
            yield ServerSide(url, remote, seal=seal, precision=precision)

    return open_server
