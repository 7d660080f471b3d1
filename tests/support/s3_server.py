"""A real S3 server on this machine: that of ``moto``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

import fsspec
import pytest
from moto.server import ThreadedMotoServer

BUCKETS = ("corpus", "vectors")


@contextmanager
def s3_server() -> Iterator[Any]:
    """Yield the file system of ``fsspec`` for a server with two buckets; the environment names it for this time."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()  # of an earlier one in this process
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # an instance keeps the address that it was made with
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", address)
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(name, "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            system = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)  # as another process
            for bucket in BUCKETS:
                system.mkdir(bucket)
            yield system
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        server.stop()
