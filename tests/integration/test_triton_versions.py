"""A repository that changes under a server: versions switched under load, a server killed, a ship killed."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exporter.bundle import Bundle
from exporter.errors import BundleError, ExportError, InputError, ServerError
from exporter.serving.triton import Options, repository, ship
from exporter.serving.triton.address import Protocol
from exporter.serving.triton.config import FILE, read_config
from exporter.serving.triton.lint import check
from exporter.serving.triton.remote import RemoteEncoder
from tests.support.triton import TritonServer, running
from tests.support.warm import WarmPython

SENTENCES = [f"{number}번째 손님이 {'국밥을 ' * (number % 9)}주문했다." for number in range(40)]
PYTHON = Options(runtime="python")


@pytest.fixture(scope="module")
def expected(demo_fp32: Path, demo_fp16: Path) -> dict[str, np.ndarray]:
    """The vectors of both bundles, which lie further apart than a server's may lie from its own."""
    vectors = {}
    for name, folder in (("fp32", demo_fp32), ("fp16", demo_fp16)):
        with Bundle.open(folder).encoder(threads=1) as encoder:
            vectors[name] = encoder.encode(SENTENCES)
    assert np.abs(vectors["fp32"] - vectors["fp16"]).max(axis=1).min() > 2e-5
    return vectors


class Clients:
    """Clients that ask for the sentences over and over, one a request, until they are told to stop."""

    def __init__(self, server: TritonServer, count: int) -> None:
        self.answers: list[tuple[int, np.ndarray]] = []
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(server, number)) for number in range(count)]

    def _run(self, server: TritonServer, number: int) -> None:
        protocol: Protocol = "grpc" if number % 2 else "http"
        with RemoteEncoder(protocol, server.grpc if number % 2 else server.http, "demo_text") as remote:
            for row in itertools.islice(itertools.cycle(range(len(SENTENCES))), number, None):
                if self._stop.is_set():
                    return
                try:
                    self.answers.append((row, remote.encode_batch([SENTENCES[row]])[0]))
                except ServerError as error:
                    self.errors.append(error.message)
                    return

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(300)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition() and not self.errors:
            assert time.monotonic() < deadline, f"nothing came of it; {len(self.answers)} answers"
            time.sleep(0.05)


def origin(row: int, vector: np.ndarray, expected: dict[str, np.ndarray]) -> str:
    """Return which bundle a vector is of; an error where it is of none."""
    distances = {name: float(np.abs(vectors[row] - vector).max()) for name, vectors in expected.items()}
    near = min(distances, key=lambda name: distances[name])
    assert distances[near] < 1e-5, (row, distances)
    return near


def test_shipping_again_under_load_switches_versions_and_no_request_fails(
    demo_fp32: Path, demo_fp16: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    ship([Bundle.open(demo_fp32)], models, PYTHON)
    watched = threading.Event()
    seen: list[str] = []
    watcher = threading.Thread(target=_watch, args=(models, watched, seen))
    poll = ("--model-control-mode=poll", "--repository-poll-secs=1")
    with running(models, tmp_path / "triton", *poll) as server:
        with Clients(server, 6) as clients:
            clients.wait_for(lambda: len(clients.answers) > 50, 300)
            watcher.start()
            (shipped,) = ship([Bundle.open(demo_fp16)], models, PYTHON)
            watched.set()
            watcher.join()
            assert shipped.version == 2
            clients.wait_for(lambda: origin(*clients.answers[-1], expected) == "fp16", 300)
            enough = len(clients.answers) + 100
            clients.wait_for(lambda: len(clients.answers) > enough, 300)
        assert clients.errors == [], server.tail()
        origins = [origin(row, vector, expected) for row, vector in clients.answers]
        assert set(origins) == {"fp32", "fp16"}
        assert origins[-1] == "fp16"
        assert _ask_version(server, 1, expected) == "fp32"  # the older encoder is kept, and can be asked for
        assert _ask_version(server, 2, expected) == "fp16"
        assert check(models) == []
    assert seen == [], "a half model was seen"


def test_a_version_that_is_not_loaded_is_deleted_under_load_and_no_request_fails(
    demo_fp32: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    for _ in range(3):
        ship([Bundle.open(demo_fp32)], models, PYTHON)
    poll = ("--model-control-mode=poll", "--repository-poll-secs=1")
    with running(models, tmp_path / "triton", *poll) as server, Clients(server, 6) as clients:
        clients.wait_for(lambda: len(clients.answers) > 20, 300)
        for name in ("demo_text", "demo_tokenizer", "demo"):
            shutil.rmtree(models / name / "1")
        # The server has noticed: it sets up the ensemble again, and the encoder and the tokenizer stay as they are.
        clients.wait_for(lambda: "unloaded 'demo_text' version 3" in server.log.read_text(errors="replace"), 300)
        enough = len(clients.answers) + 50
        clients.wait_for(lambda: len(clients.answers) > enough, 300)
        assert clients.errors == [], server.tail()
    assert check(models) == []


def _watch(models: Path, stop: threading.Event, seen: list[str]) -> None:
    """Read the repository over and over, as a polling server does, and note whatever is not whole."""
    while not stop.is_set():
        for name in ("demo", "demo_tokenizer", "demo_text"):
            try:
                read_config(models / name / FILE)
                for version in (models / name).glob("[0-9]*"):
                    files = {path.name for path in version.iterdir()}
                    wanted = {"demo": {"model.py", "bundle"}, "demo_tokenizer": {"model.py", "tokenizer.json"}}
                    if not files >= wanted.get(name, set()):
                        seen.append(f"{version}: {files}")
            except (OSError, ExportError) as error:
                seen.append(str(error))


def _ask_version(server: TritonServer, version: int, expected: dict[str, np.ndarray]) -> str:
    import tritonclient.http as triton

    client = triton.InferenceServerClient(server.http)
    text = triton.InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[SENTENCES[0].encode()]], dtype=np.object_))
    tokens = client.infer("demo_tokenizer", [text], model_version=str(version))
    inputs = []
    for name in ("input_ids", "attention_mask"):
        array = tokens.as_numpy(name)
        inputs.append(triton.InferInput(name, list(array.shape), "INT64"))
        inputs[-1].set_data_from_numpy(array)
    vector = client.infer("demo", inputs, model_version=str(version)).as_numpy("sentence_embedding")[0]
    client.close()
    return origin(0, vector, expected)


def test_a_killed_server_loses_requests_in_flight_only_and_serves_the_same_after_a_restart(
    demo_fp32: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    ship([Bundle.open(demo_fp32)], models, PYTHON)
    with running(models, tmp_path / "first") as server, Clients(server, 8) as clients:
        clients.wait_for(lambda: len(clients.answers) > 100, 300)
        server.kill()
        clients.wait_for(lambda: len(clients.errors) == 8, 300)
    # One error per client: what it had in flight. Everything answered before is right.
    assert len(clients.errors) <= 8
    assert clients.errors
    assert {origin(row, vector, expected) for row, vector in clients.answers} == {"fp32"}
    with running(models, tmp_path / "second") as server, RemoteEncoder("http", server.http, "demo_text") as remote:
        np.testing.assert_allclose(remote.encode(SENTENCES), expected["fp32"], atol=1e-5, rtol=0)


SHIP = """
import sys, time
from pathlib import Path
from exporter.bundle import Bundle
from exporter.serving.triton import Options, ship, repository
bundle, models, stop_at = sys.argv[1:]
put, count = repository.put_in_place, 0
def counted(folder, target):
    global count
    if count == int(stop_at):
        Path(models + ".stopped").touch()
        time.sleep(600)
    put(folder, target)
    count += 1
repository.put_in_place = counted
ship([Bundle.open(Path(bundle))], Path(models), Options(runtime="python"))
"""


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_a_ship_that_is_killed_leaves_a_sound_repository(
    python: WarmPython, demo_fp32: Path, demo_fp16: Path, tmp_path: Path, stop_at: int
) -> None:
    """Killed before the encoder, the tokenizer or the ensemble is put in place; the next ship cleans up."""
    import os
    import signal

    models = tmp_path / "models"
    ship([Bundle.open(demo_fp32)], models, PYTHON)
    run = python.start(SHIP, demo_fp16, models, str(stop_at))
    deadline = time.monotonic() + 300
    while not Path(f"{models}.stopped").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert check(models) == []
    (step, _) = read_config(models / "demo_text" / FILE).ensemble_scheduling.step
    assert step.model_version == 1
    (shipped,) = ship([Bundle.open(demo_fp16)], models, PYTHON)
    assert shipped.version == 2
    assert repository.versions(models / "demo") == repository.versions(models / "demo_tokenizer") == [1, 2]
    assert check(models) == []
    assert [path.name for path in tmp_path.iterdir() if "staging" in path.name] == []


@pytest.fixture
def at_version_two(demo_fp32: Path, tmp_path: Path) -> Path:
    models = tmp_path / "models"
    ship([Bundle.open(demo_fp32)], models, PYTHON)
    ship([Bundle.open(demo_fp32)], models, PYTHON)
    return models


def test_the_latest_version_can_be_replaced_and_numbers_can_be_jumped(at_version_two: Path, demo_fp16: Path) -> None:
    bundle = Bundle.open(demo_fp16)
    ship([bundle], at_version_two, PYTHON, version=2)
    assert repository.versions(at_version_two / "demo") == [1, 2]
    assert Bundle.open(at_version_two / "demo" / "2" / "bundle").manifest.engine.precision == "fp16"
    ship([bundle], at_version_two, PYTHON, version=7)
    assert repository.versions(at_version_two / "demo") == [1, 2, 7]
    assert [
        step.model_version for step in read_config(at_version_two / "demo_text" / FILE).ensemble_scheduling.step
    ] == [
        7,
        7,
    ]
    assert check(at_version_two) == []


def test_an_older_version_cannot_be_forced(at_version_two: Path, demo_fp16: Path) -> None:
    before = sorted(at_version_two.rglob("*"))
    with pytest.raises(InputError, match="demo has version 2, and Triton would not serve an older one"):
        ship([Bundle.open(demo_fp16)], at_version_two, PYTHON, version=1)
    assert sorted(at_version_two.rglob("*")) == before


def test_another_dimension_is_no_version_of_the_model(at_version_two: Path, twin_bundle: Path) -> None:
    with pytest.raises(InputError, match="they cannot be versions of one model"):
        ship([Bundle.open(twin_bundle)], at_version_two, PYTHON, name="demo")


def test_nothing_is_left_where_the_first_ship_fails(
    twin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(repository, "_ship", fail)
    with pytest.raises(BundleError, match="new/models: the disk is full"):
        ship([Bundle.open(twin_bundle)], tmp_path / "new" / "models", PYTHON)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_ours_is_left_alone(demo_fp32: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "models" / "demo"
    (theirs / "1").mkdir(parents=True)
    (theirs / FILE).write_text('name: "demo"\nbackend: "python"\n')
    with pytest.raises(InputError, match="was not written by korsbert"):
        ship([Bundle.open(demo_fp32)], tmp_path / "models", PYTHON)
    assert (theirs / FILE).read_text() == 'name: "demo"\nbackend: "python"\n'
