"""The generated files and what they deploy: images that get all that they copy, volumes that hold it, a server.

The server is started as the files start it: it serves, and its restricted APIs want the secret.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tritonclient.grpc as triton
import yaml
from docker.utils import exclude_paths
from tritonclient.utils import InferenceServerException

from exporter.bundle import Bundle
from exporter.serving.triton import Options, ship
from exporter.serving.triton.address import Protocol
from exporter.serving.triton.deployment import ADMIN_HEADER, ADMIN_VARIABLE, deployed, server_arguments
from exporter.serving.triton.lint import check
from exporter.serving.triton.remote import RemoteEncoder
from tests.support.triton import TritonServer, running

SECRET = "of this test"


@pytest.fixture(scope="module")
def server(demo_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("deployed") / "models"
    ship([Bundle.open(demo_fp32)], folder, Options(runtime="python"), measure=True)
    generated = server_arguments(deployed(folder), polls=False)
    arguments = [one.replace(f"$({ADMIN_VARIABLE})", SECRET) for one in generated if "--model-repository" not in one]
    with running(folder, tmp_path_factory.mktemp("triton"), *arguments) as server:
        yield server


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("runtime", ["engine", "python"])
def test_the_images_get_what_they_copy(demo_fp32: Path, tmp_path: Path, runtime: Literal["engine", "python"]) -> None:
    folder = tmp_path / "models"
    ship([Bundle.open(demo_fp32)], folder, Options(runtime=runtime))
    models = {file for file in files_in(folder) if "/" in file}
    step = r"^    pip wheel --no-deps --wheel-dir FOLDER \.  # (\S+)$"
    (wheel,) = re.findall(step, (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    (folder / wheel).touch()  # as if the step had been done; `make wheel` compares the name with that of the wheel
    (folder / "korsbert-0.0.1-py3-none-any.whl").touch()
    (folder / ".git").mkdir()
    (folder / ".git" / "config").touch()

    dockerfile = (folder / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) == [wheel, "."]
    ignored = (folder / ".dockerignore").read_text(encoding="utf-8").splitlines()[1:]
    context = exclude_paths(str(folder), ignored)
    assert {file for file in context if (folder / file).is_file()} == {
        *models,
        wheel,
        *("Dockerfile", ".dockerignore"),  # which Docker sends whatever is ignored
    }


def test_the_volume_holds_every_version_and_the_memory_those_that_are_loaded(demo_fp32: Path, tmp_path: Path) -> None:
    folder, bundle = tmp_path / "models", Bundle.open(demo_fp32)
    ship([bundle], folder, Options(runtime="python"))
    os.truncate(folder / "demo" / "1" / "model.py", 5 * 2**30)  # without a block on the disk
    sizes = []
    for version in (2, 3):
        ship([bundle], folder, Options(runtime="python"))
        assert (folder / "demo" / str(version)).is_dir()
        documents = yaml.safe_load_all((folder / "kubernetes.yaml").read_text(encoding="utf-8"))
        (pod,) = [one["spec"]["template"]["spec"] for one in documents if one["kind"] == "Deployment"]
        limits = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"]}
        sizes.append((limits["models"], pod["containers"][0]["resources"]["limits"]["memory"]))
    assert sizes == [("7Gi", "19Gi"), ("7Gi", "4Gi")]


def test_the_memory_of_an_encoder_is_measured_once(demo_fp32: Path, tmp_path: Path) -> None:
    folder, bundle = tmp_path / "models", Bundle.open(demo_fp32)
    for version in (1, 2):
        (shipped,) = ship([bundle], folder, Options(runtime="python"), measure=True)
        assert (shipped.version, shipped.remarks) == (version, ())
    (model,) = deployed(folder)
    first, second = (loaded.peak for loaded in model.loaded)
    assert first == second
    assert first is not None
    assert (first.rows, first.tokens) == (64, 256)  # as many tokens as 128 rows of 128
    assert bundle.size_bytes < first.peak_bytes < 2**31
    assert check(folder) == []


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
