"""A server that is started as the generated files start it: it serves, and its restricted APIs want the secret."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from exporter.bundle import Bundle
from exporter.serving.triton import Options, ship
from exporter.serving.triton.address import Protocol
from exporter.serving.triton.deployment import ADMIN_HEADER, ADMIN_VARIABLE, deployed, server_arguments
from exporter.serving.triton.remote import RemoteEncoder
from tests.support.triton import TritonServer, running

SECRET = "of this test"


@pytest.fixture(scope="module")
def server(demo_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("deployed") / "models"
    ship([Bundle.open(demo_fp32)], folder, Options(runtime="python"))
    generated = server_arguments(deployed(folder), polls=False)
    arguments = [one.replace(f"$({ADMIN_VARIABLE})", SECRET) for one in generated if "--model-repository" not in one]
    with running(folder, tmp_path_factory.mktemp("triton"), *arguments) as server:
        yield server


def ask(server: TritonServer, path: str, headers: dict[str, str], body: bytes | None = None) -> int:
    """Return the status of an answer over HTTP."""
    request = urllib.request.Request(f"http://{server.http}{path}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_it_serves_what_inference_and_verification_need(server: TritonServer, demo_fp32: Path) -> None:
    with Bundle.open(demo_fp32).encoder(threads=1) as encoder:
        expected = encoder.encode(["한 문장"])
    addresses: dict[Protocol, str] = {"http": server.http, "grpc": server.grpc}
    for protocol, address in addresses.items():
        with RemoteEncoder(protocol, address, "demo_text") as remote:
            np.testing.assert_allclose(remote.encode_batch(["한 문장"]), expected, atol=2e-5, rtol=0)
    with RemoteEncoder("http", server.http, "demo_text") as remote:
        assert remote.seal() == Bundle.open(demo_fp32).manifest.seal
        assert remote.counts("demo", 2)[0] >= 2
    assert ask(server, "/v2/health/ready", {}) == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/systemsharedmemory/status", None),
        ("/v2/repository/index", b"{}"),
        ("/v2/logging", None),
        ("/v2/trace/setting", None),
    ],
)
def test_the_other_apis_want_the_secret(server: TritonServer, path: str, body: bytes | None) -> None:
    assert ask(server, path, {}, body) == 403
    assert ask(server, path, {ADMIN_HEADER: "another"}, body) == 403
    assert ask(server, path, {ADMIN_HEADER: SECRET}, body) == 200


def test_so_they_do_over_grpc(server: TritonServer) -> None:
    client = triton.InferenceServerClient(server.grpc)
    with pytest.raises(InferenceServerException):
        client.get_system_shared_memory_status(client_timeout=60)
    client.get_system_shared_memory_status(headers={f"triton-grpc-protocol-{ADMIN_HEADER}": SECRET}, client_timeout=60)
    client.close()


def test_no_model_is_loaded_on_request(server: TritonServer) -> None:
    assert ask(server, "/v2/repository/models/demo/unload", {ADMIN_HEADER: SECRET}, b"{}") >= 400
    assert ask(server, "/v2/models/demo/ready", {}) == 200
