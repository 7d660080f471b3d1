"""Repositories for Triton's own backends, which the server of the tests lacks: configuration, buckets and batching.

The onnxruntime backend is stood in for by a model that stacks requests as it does. Everything else is real: the
configuration but for the name of the backend, the tokenizer with its buckets, the ensemble, Triton's batching.
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from exporter.bundle import Bundle
from exporter.errors import BundleError
from exporter.serving.limits import Deadline
from exporter.serving.triton import Options, ship
from exporter.serving.triton.config import FILE, read_config, to_text
from exporter.serving.triton.lint import check
from exporter.serving.triton.remote import RemoteEncoder
from exporter.validator.probes import shipped_probes
from tests.conftest import Shared
from tests.support.triton import TritonServer, running

STAND_IN = Path(__file__).parents[1] / "support" / "onnxruntime_stand_in.py"
REQUESTS, CLIENTS, FULL = 600, 24, 16


@pytest.fixture(scope="module")
def repository(demo_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "models"
    ship([Bundle.open(demo_fp32)], folder, Options(queue_delay_us=5000))
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, demo_fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("stand-in") / "models"
    shutil.copytree(repository, folder)
    ship([Bundle.open(demo_fp32)], folder, Options(queue_delay_us=60_000_000), name="patient")
    for name in ("demo", "patient"):
        config = read_config(folder / name / FILE)
        config.backend = "python"
        if name == "patient":
            config.dynamic_batching.preferred_batch_size[:] = [FULL]
        (folder / name / FILE).write_text(to_text(config), encoding="utf-8")
        shutil.copy(STAND_IN, folder / name / "1" / "model.py")
    with running(folder, tmp_path_factory.mktemp("triton")) as server:
        yield server


def test_the_version_folder_holds_what_the_backend_opens(repository: Path) -> None:
    assert {path.name for path in (repository / "demo" / "1").iterdir()} == {"model.onnx", "manifest.json"}
    assert check(repository) == []


def test_the_server_reads_the_configuration_as_it_was_meant(server: TritonServer, repository: Path) -> None:
    from google.protobuf import json_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    with urllib.request.urlopen(f"http://{server.http}/v2/models/demo/config", timeout=60) as response:
        reported = json_format.ParseDict(json.load(response), ModelConfig(), ignore_unknown_fields=True)
    ours = read_config(repository / "demo" / FILE)
    ours.backend, ours.default_model_filename = "python", "model.py"
    ours.optimization.CopyFrom(reported.optimization)
    ours.instance_group[0].name = reported.instance_group[0].name
    assert to_text(reported) == to_text(ours)


def test_ragged_sentences_are_batched_in_equal_shapes(server: TritonServer, demo_fp32: Path) -> None:
    """None fails, so every batch was of one shape; vectors hold; and batches were made."""
    texts = [f"{probe.text[:200]} {number}" for number, probe in enumerate(shipped_probes()[:REQUESTS])]
    with Bundle.open(demo_fp32).encoder(threads=1) as encoder:
        expected = encoder.encode(texts)
    assert len({len(text) for text in texts}) > 50

    def client(first: int) -> list[tuple[int, np.ndarray]]:
        with RemoteEncoder("grpc", server.grpc, "demo_text") as remote:
            return [(number, remote.encode_batch([texts[number]])[0]) for number in range(first, REQUESTS, CLIENTS)]

    with RemoteEncoder("http", server.http, "demo_text") as statistics:
        before = statistics.counts("demo")
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = [answer for found in pool.map(client, range(CLIENTS)) for answer in found]
        inferences, executions = np.subtract(statistics.counts("demo", before[0] + REQUESTS), before)
    assert inferences == len(answers) == REQUESTS
    for number, vector in answers:
        np.testing.assert_allclose(vector, expected[number], atol=2e-5, rtol=0)
    assert 1 <= executions <= inferences
    print(f"{inferences / executions:.2f} sentences a batch")  # depends on what else the machine does


@pytest.mark.slow
def test_sentences_of_one_width_share_a_batch(server: TritonServer) -> None:
    """``patient`` waits a minute for its preferred batch: as many requests as fill it run together, at once."""
    texts = [f"{number}번 손님이 커피를 주문했다." for number in range(FULL)]

    def client(number: int) -> np.ndarray:
        with RemoteEncoder("grpc", server.grpc, "patient_text", deadline=Deadline(300, 600)) as remote:
            return remote.encode_batch([texts[number]])

    with RemoteEncoder("http", server.http, "patient_text") as statistics:
        before = statistics.counts("patient")
        with ThreadPoolExecutor(FULL) as pool:
            assert len(list(pool.map(client, range(FULL)))) == FULL
        inferences, executions = np.subtract(statistics.counts("patient", before[0] + FULL), before)
    assert (inferences, executions) == (FULL, 1)


def test_an_openvino_bundle_is_shipped_with_the_python_runtime(shared: Shared, twin: Path, tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        import exporter

        exporter.export(str(twin), precision="bf16", backend="openvino", out=folder)

    bundle = Bundle.open(shared("twin-openvino", fill) / "twin" / "bf16-openvino")
    with pytest.raises(BundleError, match="openvino backend fixes the batch"):
        ship([bundle], tmp_path / "models", Options())
    assert list(tmp_path.iterdir()) == []
    ship([bundle], tmp_path / "models", Options(runtime="python"))
    assert check(tmp_path / "models") == []
