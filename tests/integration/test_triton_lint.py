"""The linter finds every seeded mistake, and a real server rejects or mis-serves those it can notice."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from exporter.bundle import Bundle
from exporter.errors import InputError, ServerError
from exporter.serving.triton import Options, ship
from exporter.serving.triton.config import FILE
from exporter.serving.triton.lint import check, engine
from exporter.serving.triton.remote import RemoteEncoder
from tests.conftest import SCRIPTS, Shared
from tests.support.process import run_program
from tests.support.triton import TritonServer, running
from tests.support.triton_mistakes import MISTAKES, Mistake

BY_NAME = {mistake.name: mistake for mistake in MISTAKES}
SEEN_BY_THE_SERVER = [mistake for mistake in MISTAKES if mistake.server == "rejects"]
MODELS = ("demo", "demo_tokenizer", "demo_text")


@pytest.fixture(scope="module")
def sound(demo_fp32: Path, shared: Shared) -> dict[str, Path]:
    """A repository of the demo per runtime."""

    def fill(folder: Path) -> None:
        ship([Bundle.open(demo_fp32)], folder / "python" / "models", Options(runtime="python"))
        ship([Bundle.open(demo_fp32)], folder / "engine" / "models", Options(runtime="engine"))

    folder = shared("sound-repositories", fill)
    return {runtime: folder / runtime / "models" for runtime in ("python", "engine")}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, TritonServer]]:
    """A folder and a server on it that loads what it is told to: one server for all mistakes."""
    folder = tmp_path_factory.mktemp("mistaken")
    with running(folder, tmp_path_factory.mktemp("triton"), "--model-control-mode=explicit") as server:
        yield folder, server


def put(repository: Path, folder: Path) -> None:
    """Replace the models of a folder by copies of a repository's."""
    for name in MODELS:
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(repository / name, folder / name)


def control(server: TritonServer, model: str, action: str) -> str | None:
    """Ask a server to load or unload a model; return its error, or None."""
    url = f"http://{server.http}/v2/repository/models/{model}/{action}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=b"{}", method="POST"), timeout=300):
            return None
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["error"])


def seeded(mistake: Mistake, sound: dict[str, Path], folder: Path) -> Path:
    put(sound[mistake.runtime], folder)
    mistake.seed(folder)
    return folder


def test_there_are_enough_of_them() -> None:
    assert len(BY_NAME) == len(MISTAKES) >= 15
    assert len(SEEN_BY_THE_SERVER) >= 15


@pytest.mark.parametrize("runtime", ["python", "engine"])
def test_a_sound_repository_has_none(sound: dict[str, Path], runtime: str) -> None:
    assert [str(finding) for finding in check(sound[runtime])] == []


@pytest.mark.parametrize("name", BY_NAME)
def test_the_linter_finds_it(
    sound: dict[str, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_compute_capabilities", lambda: {"9.0"})
    mistake = BY_NAME[name]
    findings = check(seeded(mistake, sound, tmp_path))
    named = [finding for finding in findings if finding.field == mistake.field]
    assert named, [str(finding) for finding in findings]
    found, wanted = mistake.values
    assert found in named[0].found, str(named[0])
    assert wanted in named[0].wanted, str(named[0])
    assert named[0].fix
    assert tmp_path in named[0].file.parents
    # What follows from a mistake may be named as well, but nothing else.
    assert len(findings) <= 8, [str(finding) for finding in findings]


@pytest.mark.parametrize("name", [mistake.name for mistake in SEEN_BY_THE_SERVER])
def test_the_server_rejects_it(sound: dict[str, Path], served: tuple[Path, TritonServer], name: str) -> None:
    folder, server = served
    mistake = BY_NAME[name]
    seeded(mistake, sound, folder)
    try:
        error = control(server, mistake.model, "load")
        assert error is not None, "the server loaded it"
        assert mistake.says.lower() in (error + server.tail(40)).lower(), error
    finally:
        for model in reversed(MODELS):
            control(server, model, "unload")


def test_the_server_loads_a_sound_repository(sound: dict[str, Path], served: tuple[Path, TritonServer]) -> None:
    """Without this, a server that rejects everything would pass for one that sees mistakes."""
    folder, server = served
    put(sound["python"], folder)
    assert [control(server, model, "load") for model in MODELS] == [None, None, None]
    with RemoteEncoder("http", server.http, "demo_text") as remote:
        assert remote.encode_batch(["한 문장"]).shape == (1, 256)
    for model in reversed(MODELS):
        control(server, model, "unload")


@pytest.mark.parametrize("name", [mistake.name for mistake in MISTAKES if mistake.server == "is lost"])
def test_the_whole_server_is_lost(sound: dict[str, Path], tmp_path: Path, name: str) -> None:
    """2.51 waits for ever, gives up or crashes, one as the other: in servers of their own, for the others' sake."""
    server = TritonServer(seeded(BY_NAME[name], sound, tmp_path / "models"), tmp_path / "triton")
    server.start()
    deadline = time.monotonic() + 300
    try:
        while BY_NAME[name].says not in server.log.read_text(errors="replace"):
            assert time.monotonic() < deadline, server.tail()
            time.sleep(0.1)
        time.sleep(4)  # of which a sound encoder takes less than one
        assert not server.answers("/v2/health/ready")
    finally:
        server.kill()


def test_an_engine_s_own_backend_is_not_in_this_build(
    sound: dict[str, Path], served: tuple[Path, TritonServer]
) -> None:
    """As far as this server goes with such a repository: it reads the configuration, and then looks for the backend."""
    folder, server = served
    put(sound["engine"], folder)
    error = control(server, "demo", "load")
    assert error is not None
    assert "unable to find backend library for backend 'onnxruntime'" in error


class TestServedWrongly:
    """The server loads these and answers: wrongly, or slowly, or not everybody."""

    @pytest.fixture
    def ask(
        self, sound: dict[str, Path], served: tuple[Path, TritonServer], request: pytest.FixtureRequest
    ) -> Iterator[tuple[RemoteEncoder, TritonServer]]:
        folder, server = served
        seeded(BY_NAME[request.param], sound, folder)
        assert [control(server, model, "load") for model in MODELS] == [None, None, None]
        with RemoteEncoder("http", server.http, "demo_text") as remote:
            yield remote, server
        for model in reversed(MODELS):
            control(server, model, "unload")

    @pytest.mark.parametrize("ask", ["a tokenizer that lets too much through"], indirect=True)
    def test_long_texts_are_refused(self, ask: tuple[RemoteEncoder, TritonServer]) -> None:
        remote, _ = ask
        assert remote.encode_batch(["짧다"]).shape == (1, 256)
        with pytest.raises(ServerError, match="row 0 has 300 tokens, and 256 are the model's maximum"):
            remote.encode_batch(["길다 " * 400])

    @pytest.mark.parametrize("ask", ["a tokenizer that disagrees with the encoder", "another prompt"], indirect=True)
    def test_vectors_are_wrong(self, ask: tuple[RemoteEncoder, TritonServer], demo_fp32: Path) -> None:
        remote, _ = ask
        with Bundle.open(demo_fp32).encoder(threads=1) as encoder:
            expected = encoder.encode(["SEOUL Station"])[0]
        vector = remote.encode_batch(["SEOUL Station"])[0]
        assert vector @ expected / np.linalg.norm(vector) / np.linalg.norm(expected) < 0.99

    @pytest.mark.parametrize("ask", ["no dynamic batching"], indirect=True)
    def test_every_request_runs_alone(self, ask: tuple[RemoteEncoder, TritonServer]) -> None:
        remote, server = ask
        before = remote.counts("demo")

        def client(number: int) -> None:
            with RemoteEncoder("http", server.http, "demo_text") as own:
                for row in range(8):
                    own.encode_batch([f"{number}번 손님의 {row}번째 문장"])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, range(8)))
        inferences, executions = np.subtract(remote.counts("demo", before[0] + 64), before)
        assert inferences == executions == 64


def test_every_mistake_that_is_served_wrongly_has_a_test() -> None:
    shown = {
        name
        for function in vars(TestServedWrongly).values()
        for mark in getattr(function, "pytestmark", ())
        for name in mark.args[1]
    }
    assert shown == {mistake.name for mistake in MISTAKES if mistake.server == "serves wrongly"}


def test_from_the_command_line(sound: dict[str, Path], tmp_path: Path) -> None:
    done = run_program([SCRIPTS / "korsbert", "check", sound["python"]])
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == f"{sound['python']}: no mistakes\n"
    seeded(BY_NAME["an output of another length"], sound, tmp_path)
    done = run_program([SCRIPTS / "korsbert", "check", tmp_path])
    assert (done.status, done.stderr) == (1, "")
    assert done.stdout.splitlines()[0] == (
        f"{tmp_path / 'demo' / FILE}: output[sentence_embedding].dims is [128], wanted [256]"
    )
    done = run_program([SCRIPTS / "korsbert", "check", tmp_path, "--json"])
    assert done.status == 1
    assert json.loads(done.stdout)["findings"][0]["found"] == "[128]"


def test_a_repository_that_others_wrote(tmp_path: Path) -> None:
    """No bundle, no manifest: an onnx file of their own, whose configuration names another output."""
    from onnx import TensorProto, helper, save

    place = tmp_path / "adder" / "1"
    place.mkdir(parents=True)
    rows = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y", "sum")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "y"], ["sum"])], "adder", rows[:2], rows[2:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), place / "model.onnx")
    (tmp_path / "adder" / FILE).write_text(
        """platform: "onnxruntime_onnx"
        max_batch_size: 8
        input [{ name: "x" data_type: TYPE_FP32 dims: [4] }, { name: "y" data_type: TYPE_FP32 dims: [4] }]
        output [{ name: "total" data_type: TYPE_FP32 dims: [4] }]
        dynamic_batching {}"""
    )
    (finding,) = check(tmp_path)
    assert (finding.field, finding.found, finding.wanted) == ("output.name", "'total'", "'sum'")


@pytest.mark.parametrize(("served", "version"), [("latest", 2), ("older, still served", 1)])
@pytest.mark.parametrize("runtime", ["engine", "python"])
def test_altered_weights_are_found_in_every_version_that_is_served(
    demo_fp32: Path, tmp_path: Path, runtime: Literal["engine", "python"], served: str, version: int
) -> None:
    for _ in range(2):
        ship([Bundle.open(demo_fp32)], tmp_path, Options(runtime=runtime))
    assert check(tmp_path) == []
    engine = next((tmp_path / "demo" / str(version)).rglob("model.onnx"))
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(bytes(data))
    findings = check(tmp_path)
    assert len(findings) == 1, (served, findings)
    assert findings[0].file.is_relative_to(tmp_path / "demo" / str(version))
    assert "altered" in findings[0].fix + findings[0].found


def test_a_model_that_cannot_be_read_brings_no_findings_of_others(sound: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound["engine"], tmp_path / "models"))
    (folder / "demo_tokenizer" / "config.pbtxt").write_text("garbage {", encoding="utf-8")
    assert [finding.file.parent.name for finding in check(folder)] == ["demo_tokenizer"]


@pytest.mark.parametrize("content", [None, "empty"])
def test_what_is_no_repository_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match="no folder" if content is None else "there is no model in it"):
        check(tmp_path / "models")
