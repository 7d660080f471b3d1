"""Whatever a server answers, over real sockets, ends in a vector or in one sentence: in time, and within bounds."""

from __future__ import annotations

import json
import socket
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.dependencies import require
from exporter.errors import InputError, ServerError
from exporter.serving.http import read_authorities
from exporter.serving.limits import ANSWER_BYTES, Deadline
from exporter.serving.triton.address import Protocol
from exporter.serving.triton.load import load
from exporter.serving.triton.remote import RemoteEncoder, Server
from tests.support.fuzzing import CASES, JSON
from tests.support.hostile_servers import (
    RawServer,
    certificate,
    grpc_server,
    http_answer,
    inference,
    raw_server,
    repeated,
)

VECTOR = np.arange(1, 5, dtype="<f4")
DATA = VECTOR.tobytes()
SHORT_S = 0.3
"""For servers that never end: longer would only be slower."""


def ask(protocol: Protocol, url: str, seconds: float = 60, **options: Any) -> np.ndarray:
    """Ask for the vector of one sentence."""
    with RemoteEncoder(protocol, url, "demo_text", deadline=Deadline(seconds, 60), **options) as remote:
        return remote.encode_batch(["한 문장"])


def refusal(protocol: Protocol, url: str, seconds: float = 60, **options: Any) -> str:
    """Return the one sentence that asking ends in."""
    with pytest.raises(ServerError) as refused:
        ask(protocol, url, seconds, **options)
    assert refused.value.message.startswith("demo_text at 127.0.0.1:")
    assert "\n" not in refused.value.message
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400
    return refused.value.message


def test_a_sound_answer_is_a_vector() -> None:
    with raw_server(lambda _: [inference(DATA)]) as server:
        np.testing.assert_array_equal(ask("http", server.url), VECTOR[None])
    assert server.heads[0].startswith(b"POST /v2/models/demo_text/infer HTTP/1.1\r\n")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6_of_the_loopback_is_reached() -> None:
    with raw_server(lambda _: [inference(DATA)], host="::1") as server:
        np.testing.assert_array_equal(ask("http", f"http://{server.url}"), VECTOR[None])
    assert f"Host: {server.url}".encode() in server.heads[0]


def test_a_name_of_a_model_cannot_change_the_path() -> None:
    with (
        raw_server(lambda _: [inference(DATA)]) as server,
        RemoteEncoder("http", server.url, "a/../b\r\nX: 1") as remote,
    ):
        remote.encode_batch([""])
    assert server.heads[0].startswith(b"POST /v2/models/a%2F..%2Fb%0D%0AX%3A%201/infer HTTP/1.1\r\n")


HTML = b"<!DOCTYPE html><html><body>\x1b[31mWelcome to nginx</body></html>"
HTTP_ANSWERS: dict[str, tuple[bytes, str]] = {
    "an HTML page": (http_answer(HTML, "Content-Type: text/html"), "not what Triton answers: Invalid JSON"),
    "an error page": (http_answer(HTML, status="502 Bad Gateway"), "HTTP 502 Bad Gateway, and no error message of"),
    "a redirect": (http_answer(b"", "Location: http://elsewhere/", status="302 Found"), "HTTP 302 Found"),
    "an error of Triton's": (http_answer(b'{"error": "no such model"}', status="400 Bad"), ": no such model"),
    "an endless error": (http_answer(b'{"error": "%s"}' % (b"x" * 10**6), status="400 Bad"), "xxx..."),
    "an error with control characters": (http_answer(b'{"error": "a\\u001b[2J\\nb"}', status="400 Bad"), "a?[2J"),
    "an error that is no text": (http_answer(b'{"error": [1]}', status="400 Bad"), "HTTP 400 Bad"),
    "nothing": (b"", "the answer is not HTTP: RemoteDisconnected"),
    "an empty body": (http_answer(b""), "Invalid JSON"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "the answer is not HTTP: BadStatusLine"),
    "a line without end": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10**5, "the answer is not HTTP: LineTooLong"),
    "a thousand headers": (b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000, "more than 100 headers"),
    "a list": (http_answer(b"[]"), "not what Triton answers"),
    "deep JSON": (http_answer(b"[" * 10**6), "recursion limit exceeded"),
    "a number that is none": (http_answer(b'{"outputs": NaN}'), "not what Triton answers: outputs"),
    "no outputs": (http_answer(b'{"outputs": []}'), "the answer has no output sentence_embedding"),
    "another output": (inference(DATA, name="logits"), "the answer has no output sentence_embedding"),
    "another dtype": (inference(DATA, datatype="FP64"), "were answered with FP64 [1, 4] in 16 bytes"),
    "an unknown dtype": (inference(DATA, datatype="F\x1b32"), "were answered with F?32"),
    "another shape": (inference(DATA, shape=[4, 1]), "were answered with FP32 [4, 1]"),
    "a huge shape": (inference(DATA, shape=[1, 10**12]), "were answered with FP32 [1, 1000000000000]"),
    "a shape of a million axes": (inference(DATA, shape=[1] * 10**6), "were answered with FP32 [1, 1, 1"),
    "a negative shape": (inference(DATA, shape=[1, -1]), "outputs.0.shape.1"),
    "no columns": (inference(b"", shape=[1, 0]), "were answered with FP32 [1, 0] in 0 bytes"),
    "two rows for one": (inference(DATA * 2, shape=[2, 4]), "were answered with FP32 [2, 4]"),
    "half of the data": (inference(DATA[:8], parameters={"binary_data_size": 16}), "[1, 4] in 8 bytes"),
    "a negative size": (inference(DATA, parameters={"binary_data_size": -16}), "binary_data_size"),
    "data as text": (inference(b"", parameters={}), "binary_data_size"),
    "a body that ends early": (http_answer(b"{}", length=100), "closed 98 bytes before the answer's end"),
    "a length that is none": (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{", "not what Triton answers"),
    "a body that would be endless": (http_answer(b"{}", length=10**15), "before the answer's end"),
    "a negative chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc", "the answer is not HTTP"),
    "half a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nabc", "IncompleteRead"),
    "a compressed body": (http_answer(b"\x1f\x8b\x08\x00", "Content-Encoding: gzip"), "not what Triton answers"),
    "a header length beyond the body": (http_answer(b"{", "Inference-Header-Content-Length: 99"), "Triton answers"),
    "a header length of thousands of digits": (
        http_answer(b"{", "Inference-Header-Content-Length: " + "9" * 9999),
        "not what Triton answers",
    ),
}


@pytest.mark.parametrize("name", HTTP_ANSWERS)
def test_an_answer_that_is_none_is_one_sentence(name: str) -> None:
    answer, message = HTTP_ANSWERS[name]
    with raw_server(lambda _: [answer]) as server:
        assert message in refusal("http", server.url)


HEAD = b"HTTP/1.1 200 OK\r\n"
ENDLESS: dict[str, Callable[[], Iterable[bytes]]] = {
    "a body": lambda: _after(HEAD + b"\r\n", repeated(b"x" * 65536)),
    "a body of chunks": lambda: _after(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", repeated(b"8\r\n12345678\r\n" * 4096)
    ),
    "a chunk of size -1": lambda: _after(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", repeated(b"x" * 65536)),
    "interim answers": lambda: repeated(b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_answer_is_not_read_further_than_its_bound(name: str) -> None:
    with raw_server(lambda _: ENDLESS[name]()) as server:
        assert f"the answer is larger than {ANSWER_BYTES // 2**20} MiB" in refusal("http", server.url)
    assert server.sent < 8 * ANSWER_BYTES  # what the system's buffers hold besides


SLOW: dict[str, bytes] = {"silence": b"", "a slow head": HEAD + b"X: ", "a slow body": HEAD + b"\r\n"}


@pytest.mark.parametrize("name", SLOW)
def test_a_byte_now_and_then_does_not_renew_the_time(name: str) -> None:
    def answer(_: bytes) -> Iterator[bytes]:
        yield SLOW[name]
        yield from repeated(b"x" if SLOW[name] else b"", lambda: server.over.wait(0.05))

    with raw_server(answer) as server:
        assert refusal("http", server.url, SHORT_S).endswith("the answer was not complete within 0.3 s")


def test_a_server_that_reads_nothing_is_given_up() -> None:
    """What is sent is larger than the system's buffers, and waits for a reader for ever."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"127.0.0.1:{listener.getsockname()[1]}"
        remote = RemoteEncoder("http", url, "demo_text", deadline=Deadline(SHORT_S, 60))
        with remote, pytest.raises(ServerError, match="the answer was not complete within"):
            remote.encode_batch(["x" * (64 * 2**20)])


def test_nobody_listens() -> None:
    with raw_server(lambda _: []) as server:
        pass
    assert "nothing answers there" in refusal("http", server.url)
    assert refusal("grpc", server.url)


def test_the_time_of_all_requests_ends() -> None:
    with raw_server(lambda _: [inference(DATA)]) as server:
        remote = RemoteEncoder("http", server.url, "demo_text", deadline=Deadline(60, 1e-9))
        with remote, pytest.raises(ServerError, match="did not answer all requests within 1e-09 s"):
            remote.encode_batch(["x"])
    assert server.heads == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 86401])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    for times in ((seconds, 60), (60, seconds)):
        with pytest.raises(InputError, match=r"must be above 0 and at most 86400 seconds"):
            Deadline(*times)


def test_every_answer_has_the_dimension() -> None:
    answers = iter([inference(DATA), inference(DATA[:8], shape=[1, 2])])
    with raw_server(lambda _: [next(answers)]) as server, RemoteEncoder("http", server.url, "demo_text") as remote:
        remote.encode_batch(["x"])
        with pytest.raises(ServerError, match=r"answered with FP32 \[1, 2\] in 8 bytes, not FP32 \[1, 4\]"):
            remote.encode_batch(["x"])
    with raw_server(lambda _: [inference(DATA)]) as server:
        assert "not FP32 [1, 256]" in refusal("http", server.url, dimension=256)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of the loopback, and its key."""
    return certificate(tmp_path_factory.mktemp("tls"))


class TestTls:
    """``https://`` and ``grpcs://``."""

    def test_http_with_the_right_authority(self, pem: Path) -> None:
        with raw_server(lambda _: [inference(DATA)], tls=pem) as server:
            np.testing.assert_array_equal(ask("http", f"https://{server.url}", ca=pem.read_bytes()), VECTOR[None])

    def test_http_with_an_authority_that_nobody_knows(self, pem: Path) -> None:
        with raw_server(lambda _: [inference(DATA)], tls=pem) as server:
            assert "its certificate is not trusted" in refusal("http", f"https://{server.url}")
        assert server.heads == []

    def test_a_certificate_of_another_address(self, tmp_path: Path) -> None:
        other = certificate(tmp_path, "127.0.0.2")
        with raw_server(lambda _: [inference(DATA)], tls=other) as server:
            assert "its certificate is not trusted" in refusal("http", f"https://{server.url}", ca=other.read_bytes())

    def test_nothing_is_sent_in_plain_text(self) -> None:
        with raw_server(lambda _: [inference(DATA)]) as server:
            refusal("http", f"https://{server.url}")
        assert [head[:2] for head in server.heads] == [b"\x16\x03"]  # a TLS handshake

    def test_a_handshake_has_a_deadline(self) -> None:
        with raw_server(lambda _: repeated(b"", lambda: server.over.wait(0.05))) as server:
            message = refusal("http", f"https://{server.url}", SHORT_S)
        assert "the answer was not complete within" in message

    def test_grpc_with_the_right_authority(self, pem: Path) -> None:
        with grpc_server(lambda _: grpc_inference(), tls=pem) as url:
            np.testing.assert_array_equal(ask("grpc", f"grpcs://{url}", ca=pem.read_bytes()), VECTOR[None])

    def test_grpc_with_an_authority_that_nobody_knows(self, pem: Path) -> None:
        with grpc_server(lambda _: grpc_inference(), tls=pem) as url:
            assert refusal("grpc", f"grpcs://{url}")

    def test_a_file_of_certificates(self, pem: Path, tmp_path: Path) -> None:
        assert read_authorities(pem, tls=True) == pem.read_bytes()
        (tmp_path / "garbage").write_text("인증서")
        (tmp_path / "empty").touch()
        for file in (tmp_path / "garbage", tmp_path / "empty", tmp_path / "absent", tmp_path, Path("/dev/zero")):
            with pytest.raises(InputError, match="not readable as certificates"):
                read_authorities(file, tls=True)
        with pytest.raises(InputError, match="no address uses TLS"):
            read_authorities(pem, tls=False)


def grpc_inference(data: bytes = DATA, **changes: Any) -> bytes:
    from tritonclient.grpc.service_pb2 import ModelInferResponse

    output = {"name": "sentence_embedding", "datatype": "FP32", "shape": [1, 4]} | changes
    return bytes(ModelInferResponse(outputs=[output], raw_output_contents=[data]).SerializeToString())


def _abort(context: Any) -> bytes:
    grpc = require("grpc")
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no\x1b such\nmodel")
    raise AssertionError


GRPC_ANSWERS: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "no message": (lambda _: b"\xff" * 40, "Exception deserializing response"),
    "an empty message": (lambda _: b"", "the answer has no output sentence_embedding"),
    "another output": (lambda _: grpc_inference(name="x"), "the answer has no output sentence_embedding"),
    "another dtype": (lambda _: grpc_inference(datatype="BYTES"), "were answered with BYTES [1, 4]"),
    "another shape": (lambda _: grpc_inference(shape=[1, -1]), "were answered with FP32 [1, -1]"),
    "half of the data": (lambda _: grpc_inference(DATA[:8]), "were answered with FP32 [1, 4] in 8 bytes"),
    "too much": (lambda _: b"\0" * (ANSWER_BYTES + 1), "larger than max"),
    "an error of Triton's": (_abort, "no? such"),
}


class TestGrpc:
    """The same over gRPC."""

    def test_a_sound_answer_is_a_vector(self) -> None:
        with grpc_server(lambda _: grpc_inference()) as url:
            np.testing.assert_array_equal(ask("grpc", url), VECTOR[None])

    @pytest.mark.parametrize("name", GRPC_ANSWERS)
    def test_an_answer_that_is_none_is_one_sentence(self, name: str) -> None:
        answer, message = GRPC_ANSWERS[name]
        with grpc_server(answer) as url:
            assert message in refusal("grpc", url)

    def test_a_compressed_answer_is_not_unpacked(self) -> None:
        """A few thousand bytes can become gigabytes."""

        def compressed(context: Any) -> bytes:
            context.set_compression(require("grpc").Compression.Gzip)
            return bytes(4 * ANSWER_BYTES)

        with grpc_server(compressed) as url:
            assert "gzip' is disabled" in refusal("grpc", url)

    def test_an_answer_that_never_comes(self) -> None:
        over = threading.Event()
        with grpc_server(lambda _: bytes(over.wait())) as url:
            try:
                assert refusal("grpc", url, SHORT_S).endswith("the answer was not complete within 0.3 s")
            finally:
                over.set()

    def test_a_server_that_says_nothing(self) -> None:
        with raw_server(lambda _: repeated(b"", lambda: server.over.wait(0.05))) as server:
            assert refusal("grpc", server.url, SHORT_S)

    def test_a_server_of_http(self) -> None:
        with raw_server(lambda _: [http_answer(HTML)]) as server:
            assert refusal("grpc", server.url)


class TestModels:
    """What a server says about its models."""

    @pytest.mark.parametrize("body", [b"[]", b'{"parameters": []}', b'{"parameters": {"korsbert_bundle": 1}}', HTML])
    def test_a_configuration_that_is_none(self, body: bytes) -> None:
        with (
            raw_server(lambda _: [http_answer(body)]) as server,
            RemoteEncoder("http", server.url, "demo_text") as remote,
            pytest.raises(ServerError, match="not what Triton answers"),
        ):
            remote.seal()

    def test_the_seal(self) -> None:
        bodies = iter([b'{"parameters": {"korsbert_bundle": {"string_value": "abc"}}}', b'{"name": "x"}'])
        with (
            raw_server(lambda _: [http_answer(next(bodies))]) as server,
            RemoteEncoder("http", server.url, "demo_text") as remote,
        ):
            assert [remote.seal(), remote.seal()] == ["abc", None]

    @pytest.mark.parametrize("count", ["-1", '"x"', "null", "9223372036854775808", "1.5", "[]", "NaN", "1e400"])
    def test_a_count_that_is_none(self, count: str) -> None:
        body = f'{{"model_stats": [{{"inference_count": {count}, "execution_count": 1}}]}}'.encode()
        with (
            raw_server(lambda _: [http_answer(body)]) as server,
            RemoteEncoder("http", server.url, "demo_text") as remote,
            pytest.raises(ServerError, match="not what Triton answers"),
        ):
            remote.counts("demo")


class Counting:
    """A server that counts each request some reads of its statistics later than it answers it."""

    def __init__(self, late: Iterable[int]) -> None:
        self._late = iter(late)
        self._lag = 0
        self.answered = 0

    def __call__(self, head: bytes) -> Iterator[bytes]:
        if head.startswith(b"POST"):
            self.answered += 1
            self._lag = next(self._late, 0)
            yield inference(DATA)
        else:
            counted = self.answered - bool(self._lag)
            self._lag = max(self._lag - 1, 0)
            yield http_answer(_statistics(counted))


def _statistics(count: int) -> bytes:
    versions = [{"inference_count": count, "execution_count": count}, {"inference_count": 0, "execution_count": 0}]
    return json.dumps({"model_stats": versions}).encode()


@pytest.mark.parametrize("late", [(3, 0), (0, 3)], ids=["before", "after"])
def test_the_counters_settle_before_and_after_the_load(late: tuple[int, int]) -> None:
    with raw_server(Counting(late)) as server:
        place = _server(server)
        with place.connect(place.where[0]) as remote:
            remote.encode_batch(["a probe"])  # counted only when it is waited for
            found = load(place, ["한 문장"], counted=remote.answered, clients=1, bound=1.0)
    assert (found.inferences, found.executions, found.lost) == (1, 1, ())


def test_counters_that_never_come_as_far_are_read_when_they_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.serving.triton.remote.SETTLE_S", 0.1)
    with (
        raw_server(lambda _: [http_answer(_statistics(5))]) as server,
        RemoteEncoder("http", server.url, "demo_text") as remote,
    ):
        assert remote.counts("demo", expected=512) == (5, 5)
    assert len(server.heads) >= 2


def _server(server: RawServer) -> Server:
    from exporter.serving.triton.address import address_of

    return Server((address_of(server.url, "http"),), "demo_text", "demo", 4, None, Deadline())


def _after(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _end(request: Callable[[], object]) -> None:
    """Send a request, and hold the sentence that it may end in to what a sentence is. All else is raised."""
    try:
        request()
    except ServerError as error:
        message = error.message
    else:
        return
    assert message.isprintable()
    assert len(message) < 400


_OUTPUT_CHANGES = st.dictionaries(
    st.sampled_from(["name", "datatype", "shape", "parameters", "data"]),
    JSON | st.lists(st.integers(-2, 2**64), max_size=4),
    max_size=3,
)
_SOUND = st.sampled_from([inference(DATA), http_answer(_statistics(3)), http_answer(b'{"parameters": {}}')])


@st.composite
def _answers(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Draw an answer, and whether its end is repeated for ever."""
    kind = draw(st.integers(0, 4))
    if kind == 0:
        answer = draw(st.binary(max_size=300))
    elif kind == 1:
        answer = http_answer(
            json.dumps(draw(JSON)).encode(),
            status=draw(st.sampled_from(["200 OK", "400 Bad Request", "100 Continue", "204 No", "999 x"])),
            length=draw(st.none() | st.integers(-5, 10**12)),
        )
    elif kind == 2:
        answer = inference(draw(st.binary(max_size=64)), **draw(_OUTPUT_CHANGES))
    else:  # a sound one, of which some bytes are others
        changed = bytearray(draw(_SOUND))
        for _ in range(draw(st.integers(0, 4))):
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
        answer = bytes(changed[: draw(st.none() | st.integers(0, len(changed)))])
    return answer, draw(st.integers(0, 9)) == 0


def test_no_answer_has_another_end_than_a_vector_or_one_sentence() -> None:
    """Answers over HTTP, each to an inference, a configuration and statistics; one in ten does not end."""
    current: tuple[bytes, bool] = (b"", False)
    peaks: list[int] = []

    def answer(_: bytes) -> Iterator[bytes]:
        answer, endless = current
        yield answer
        if endless:
            yield from repeated(answer[-64:] * 500 or b"\r\n" * 16384)

    with (
        raw_server(answer) as server,
        RemoteEncoder("http", server.url, "demo_text", deadline=Deadline(60, 3600)) as remote,
    ):

        @settings(max_examples=CASES, derandomize=True)
        @given(_answers())
        def one(drawn: tuple[bytes, bool]) -> None:
            nonlocal current
            current = drawn
            for request in (lambda: remote.encode_batch(["x"]), remote.seal, lambda: remote.counts("demo")):
                tracemalloc.reset_peak()  # hypothesis itself reads the source of all modules: that is not counted
                before, _ = tracemalloc.get_traced_memory()
                _end(request)
                peaks.append(tracemalloc.get_traced_memory()[1] - before)

        tracemalloc.start()
        try:
            one()
        finally:
            tracemalloc.stop()
        assert max(peaks) < 8 * ANSWER_BYTES


def test_no_message_over_grpc_has_another_end_either() -> None:
    """Messages: those of a sound answer with other bytes, and any bytes."""
    current = b""
    sound = grpc_inference()

    with (
        grpc_server(lambda _: current) as url,
        RemoteEncoder("grpc", url, "demo_text", deadline=Deadline(60, 3600)) as remote,
    ):

        @settings(max_examples=CASES, derandomize=True)
        @given(st.binary(max_size=64), st.integers(0, len(sound)))
        def one(drawn: bytes, start: int) -> None:
            nonlocal current
            current = sound[:start] + drawn + sound[start + len(drawn) :]
            _end(lambda: remote.encode_batch(["x"]))

        one()


def test_texts_are_sent_as_triton_reads_them() -> None:
    """Each text after its length, after the JSON text of the stated length: the protocol's binary tensor extension."""
    with (
        raw_server(lambda _: [inference(DATA * 2, shape=[2, 4])]) as server,
        RemoteEncoder("http", server.url, "demo_text") as remote,
    ):
        remote.encode_batch(["가", ""])
    length = int(
        dict(line.split(b": ") for line in server.heads[0].split(b"\r\n")[1:])[b"Inference-Header-Content-Length"]
    )
    header = json.loads(server.bodies[0][:length])
    assert header["inputs"] == [
        {"name": "text", "shape": [2, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 11}}
    ]
    assert server.bodies[0][length:] == struct.pack("<I", 3) + "가".encode() + struct.pack("<I", 0)
