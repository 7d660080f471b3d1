"""Whatever an embedding server answers ends in vectors or in one sentence; and what is sent to it."""

from __future__ import annotations

import base64
import json
import struct
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import InputError, ServerError
from exporter.serving.answers import AnswerError
from exporter.serving.embeddings import ServerOptions, connect, header_of
from exporter.serving.embeddings.address import base_url
from exporter.serving.embeddings.apis import OpenAi, Question, Tei, said_by
from exporter.serving.embeddings.options import Api
from exporter.serving.embeddings.requests import RefusedError
from exporter.serving.limits import ANSWER_BYTES
from exporter.serving.triton.address import addresses
from tests.support.fuzzing import CASES, changed_json_bytes, told_in_a_sentence
from tests.support.hostile_servers import http_answer, raw_server, repeated

VECTOR = [1.0, 2.0, -3.5, 0.25]
INFO = {"model_id": "m", "model_dtype": "float32", "version": "1", "max_client_batch_size": 16}
TEI_ANSWER = json.dumps([VECTOR]).encode()
OPENAI_ANSWER = json.dumps({"data": [{"index": 0, "embedding": VECTOR}]}).encode()
SOUND = {"tei": TEI_ANSWER, "openai": OPENAI_ANSWER}
HTML = b"<html>\x1b[31mWelcome to nginx</html>"


def answering(answer: bytes | Callable[[], bytes]) -> Callable[[bytes], Iterable[bytes]]:
    """Return the answers of a server to whatever has texts; ``/info`` and ``/models`` are sound."""

    def to(head: bytes) -> Iterable[bytes]:
        if head.startswith(b"GET"):
            content = INFO if b"/info" in head else {"data": [{"id": "only"}]}
            return [http_answer(json.dumps(content).encode())]
        return [answer if isinstance(answer, bytes) else answer()]

    return to


def ask(url: str, api: Api, **options: Any) -> np.ndarray:
    with connect(url, ServerOptions(api=api, model="m" if api == "openai" else None, **options)) as server:
        return server.encode_batch(["한 문장"])


def refusal(url: str, api: Api, **options: Any) -> str:
    """Return the one sentence that asking ends in."""
    with pytest.raises(ServerError) as refused:
        ask(url, api, retries=0, **options)
    assert refused.value.message.startswith("http://127.0.0.1:")
    assert "\n" not in refused.value.message
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400
    return refused.value.message


@pytest.mark.parametrize("api", ["tei", "openai"])
def test_a_sound_answer_is_a_vector(api: Api) -> None:
    with raw_server(answering(http_answer(SOUND[api]))) as server:
        np.testing.assert_array_equal(ask(server.url, api), np.array([VECTOR], np.float32))
    sent = json.loads(server.bodies[-1])
    if api == "tei":
        assert server.heads[-1].startswith(b"POST /embed HTTP/1.1\r\n")
        assert sent == {"inputs": ["한 문장"], "truncate": True}
    else:
        assert server.heads[-1].startswith(b"POST /v1/embeddings HTTP/1.1\r\n")
        assert sent == {"model": "m", "input": ["한 문장"], "encoding_format": "float"}


ANSWERS: dict[str, tuple[bytes, str]] = {
    "an HTML page": (http_answer(HTML), "the answer is not what"),
    "an error page": (http_answer(HTML, status="500 Oops"), "HTTP 500: Oops, and no error message"),
    "a redirect": (http_answer(b"", "Location: http://elsewhere/", status="307 Temporary Redirect"), "HTTP 307"),
    "an error of TEI's": (http_answer(b'{"error": "no batch", "error_type": "x"}', status="422 No"), ": no batch"),
    "an error of OpenAI's": (http_answer(b'{"error": {"message": "no key"}}', status="400 No"), "400: no key"),
    "an error of FastAPI's": (http_answer(b'{"detail": [{"msg": "too short"}]}', status="422 No"), ": too short"),
    "an endless error": (http_answer(b'{"error": "%s"}' % (b"x" * 10**6), status="400 Bad"), "xxx..."),
    "an error with control characters": (http_answer(b'{"error": "a\\u001b[2J\\nb"}', status="400 Bad"), "a?[2J"),
    "nothing": (b"", "RemoteDisconnected"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "BadStatusLine"),
    "deep JSON": (http_answer(b"[" * 10**6), "recursion limit exceeded"),
    "no vector": (http_answer(b'{"data": []}'), "the answer is not what TEI answers|1 texts were answered with 0"),
    "an object": (http_answer(b"{}"), "the answer is not what"),
    "too long": (http_answer(b"[" + b" " * ANSWER_BYTES), "larger than 8 MiB"),
    "half of it": (http_answer(TEI_ANSWER, length=10**6), "before the answer's end"),
}


@pytest.mark.parametrize("api", ["tei", "openai"])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_none_is_one_sentence(name: str, api: Api) -> None:
    answer, told = ANSWERS[name]
    with raw_server(answering(answer)) as server:
        message = refusal(server.url, api)
    assert any(part in message for part in told.split("|")), message


def encoded(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def datum(embedding: Any, index: Any = 0) -> dict[str, Any]:
    return {"index": index, "embedding": embedding}


NO_VECTORS: dict[str, tuple[Any, str]] = {
    "two for one": ([datum(VECTOR), datum(VECTOR, 1)], "1 texts were answered with 2 vectors, numbered 0, 1"),
    "another number": ([datum(VECTOR, 5)], "1 texts were answered with 1 vectors, numbered 5"),
    "a negative number": ([datum(VECTOR, -1)], "data.0.index"),
    "base64 that nobody asked for": ([datum(encoded(1, 2))], "a vector is text, and numbers was asked for"),
    "texts as numbers": ([datum(["1", "2"])], "data.0.embedding"),
    "no dimensions": ([datum([])], "vectors of 0 dimensions"),
    "a matrix": ([datum([[1.0]])], "data.0.embedding"),
}


@pytest.mark.parametrize("name", NO_VECTORS)
def test_vectors_of_openai_that_are_none(name: str) -> None:
    data, told = NO_VECTORS[name]
    with raw_server(answering(http_answer(json.dumps({"data": data}).encode()))) as server:
        assert told in refusal(server.url, "openai")


def test_vectors_are_put_in_the_order_of_their_numbers() -> None:
    answer = json.dumps({"data": [datum([3.0], 1), datum([2.0], 0)]}).encode()
    found = OpenAi("/v1/embeddings", "m", "").vectors(answer, Question(["a", "b"]))
    np.testing.assert_array_equal(found, [[2.0], [3.0]])


@pytest.mark.parametrize(("sent", "told"), [("!", "no base64"), (encoded(1)[:-3], "no base64"), ("AAAA", "3 bytes")])
def test_base64_that_is_none(sent: str, told: str) -> None:
    answer = json.dumps({"data": [datum(sent)]}).encode()
    with pytest.raises(AnswerError, match=told):
        OpenAi("/v1/embeddings", "m", "").vectors(answer, Question(["a"], encoded=True))


def test_base64_is_little_endian_float32() -> None:
    answer = json.dumps({"data": [datum(encoded(1.5, -2.0))]}).encode()
    found = OpenAi("/v1/embeddings", "m", "").vectors(answer, Question(["a"], encoded=True))
    np.testing.assert_array_equal(found, [[1.5, -2.0]])


@pytest.mark.parametrize("value", [b"null", b"NaN", b"1e400", b"-Infinity"])
def test_what_is_no_number_is_no_number_in_the_vector(value: bytes) -> None:
    found = Tei("/embed", None, None).vectors(b"[[1.0, %s]]" % value, Question(["a"]))
    assert found[0, 0] == 1.0
    assert not np.isfinite(found[0, 1])


@settings(max_examples=CASES)
@given(changed_json_bytes([VECTOR, VECTOR]))
def test_any_answer_of_tei(answer: bytes) -> None:
    _any(Tei("/embed", None, None), answer)


@settings(max_examples=CASES)
@given(changed_json_bytes({"data": [datum(VECTOR), datum(VECTOR, 1)], "model": "m", "usage": {}}))
def test_any_answer_of_openai(answer: bytes) -> None:
    _any(OpenAi("/v1/embeddings", "m", ""), answer)


def _any(api: Tei | OpenAi, answer: bytes) -> None:
    with suppress(AnswerError):
        found = api.vectors(answer, Question(["a", "b"]))
        assert found.shape[0] == 2
        assert found.dtype == np.float32


@settings(max_examples=CASES)
@given(st.binary(max_size=200) | changed_json_bytes({"error": {"message": "m", "type": "t"}, "detail": [{"msg": "x"}]}))
def test_any_body_of_an_error(body: bytes) -> None:
    assert said_by(body) is None or isinstance(said_by(body), str)


@settings(max_examples=20)
@given(changed_json_bytes(INFO))
def test_any_info(info: bytes) -> None:
    with raw_server(lambda _: [http_answer(info)]) as server, told_in_a_sentence():
        connect(server.url, ServerOptions(api="tei"))


@pytest.mark.parametrize("api", [Tei("/embed", None, None), OpenAi("/v1/embeddings", "m", "")], ids=["tei", "openai"])
def test_more_numbers_than_a_vector_has_are_not_read(api: Tei | OpenAi) -> None:
    numbers = [0.0] * 200_000
    content = [numbers] if isinstance(api, Tei) else {"data": [datum(numbers)]}
    with pytest.raises(AnswerError, match="1 texts were answered with more than 65,536 numbers each"):
        api.vectors(json.dumps(content).encode(), Question(["a"]))


def test_an_answer_that_never_ends_is_ended() -> None:
    def drips(head: bytes) -> Iterable[bytes]:
        if head.startswith(b"GET"):
            return [http_answer(json.dumps(INFO).encode())]
        return repeated(b"X", lambda: server.over.wait(0.05))  # one byte after another: no single read takes long

    with raw_server(drips) as server:
        assert refusal(server.url, "tei", timeout_s=0.5).endswith("the answer was not complete within 0.5 s")


@pytest.mark.parametrize("status", ["429 Many", "502 Bad", "503 Soon", "504 Late"])
def test_what_may_pass_later_is_asked_again(status: str) -> None:
    answers = iter([http_answer(b"{}", "Retry-After: 0", status=status), b"", http_answer(TEI_ANSWER)])
    with raw_server(answering(lambda: next(answers))) as server:
        np.testing.assert_array_equal(ask(server.url, "tei"), np.array([VECTOR], np.float32))
    assert len(server.heads) == 4  # with that of /info


@pytest.mark.parametrize("status", ["400 Bad", "401 No", "404 None", "500 Oops"])
def test_what_will_not_pass_later_is_not(status: str) -> None:
    with raw_server(answering(http_answer(b"{}", status=status))) as server, pytest.raises(RefusedError):
        ask(server.url, "tei")
    assert len(server.heads) == 2


def test_a_server_that_asks_for_an_hour_is_not_waited_for() -> None:
    answer = http_answer(b"{}", "Retry-After: 3600", status="429 Many")
    with raw_server(answering(answer)) as server, pytest.raises(ServerError, match="asks to wait 3600 s"):
        ask(server.url, "tei")


def test_keys_and_headers_are_sent_and_never_told() -> None:
    key = "sk-0123456789"
    said = json.dumps({"error": {"message": f"Incorrect key: {key} of t0p"}}).encode()
    options = ServerOptions(api="openai", model="m", key=key, headers=(header_of("X-Team: t0p"),))
    assert key not in repr(options)
    assert "t0p" not in repr(options)
    with (
        raw_server(answering(http_answer(said, status="401 No"))) as server,
        connect(server.url, options) as remote,
        pytest.raises(RefusedError) as refused,
    ):
        remote.encode_batch(["a"])
    assert refused.value.message.endswith("HTTP 401: Incorrect key: *** of ***")
    assert f"Authorization: Bearer {key}".encode() in server.heads[0]
    assert b"X-Team: t0p" in server.heads[0]


KEY = "sk-0123456789-abcdefghij"
ECHOES: dict[str, tuple[bytes, bytes]] = {
    "credentials behind a scheme": (
        b"{}",
        http_answer(json.dumps({"error": f"bad key: {KEY}"}).encode(), status="401 No"),
    ),
    "the beginning of a key that the message cuts": (b"{}", http_answer(f"not for you, Bearer {KEY}".encode())),
    "no HTTP": (b"{}", f"Bearer {KEY}\r\n\r\n".encode()),
    "what /info says that is no JSON": (f"Bearer {KEY}".encode(), b""),
}


@pytest.mark.parametrize("case", ECHOES)
def test_no_part_of_a_key_in_a_header_is_told(case: str) -> None:
    info, answer = ECHOES[case]

    def answers(head: bytes) -> Iterable[bytes]:
        return [http_answer(info) if head.startswith(b"GET") else answer]

    options = ServerOptions(api="tei", headers=(header_of(f"Authorization: Bearer {KEY}"),), retries=0)
    with raw_server(answers) as server, pytest.raises(ServerError) as refused:
        connect(server.url, options).encode_batch(["a"])
    told = "".join(traceback.format_exception(refused.value))
    assert "***" in told
    assert KEY[:10] not in told


def test_what_a_server_says_of_itself_has_no_key() -> None:
    info = {"model_id": KEY, "model_dtype": "float32", "version": KEY[:-4]}
    with raw_server(lambda _: [http_answer(json.dumps(info).encode())]) as server:
        found = connect(server.url, ServerOptions(api="tei", key=KEY)).execution
    assert found == f"TEI *** (***, float32) at http://{server.url}"
    listed = json.dumps({"data": [{"id": KEY}, {"id": "b"}]}).encode()
    with raw_server(lambda _: [http_answer(listed)]) as server, pytest.raises(InputError, match=r"several: \*\*\*, b"):
        connect(server.url, ServerOptions(api="openai", key=KEY))


@pytest.mark.parametrize("header", ["no colon", ": x", "Host: x", "A B: x", "X: a\r\nY: b", "X: é", "X:"])
def test_a_header_that_cannot_be_sent(header: str) -> None:
    with pytest.raises(InputError) as refused:
        ServerOptions(headers=(header_of(header),))
    assert "\r" not in refused.value.message


def test_a_header_that_is_given_twice() -> None:
    with pytest.raises(InputError, match="'x-team' is given twice"):
        ServerOptions(headers=(("X-Team", "a"), ("x-team", "b")))


def test_a_key_and_a_header_of_the_same_name() -> None:
    with pytest.raises(InputError, match="both given"):
        ServerOptions(key="k", headers=(("authorization", "Basic x"),))


@pytest.mark.parametrize("path", ["", "/v1", "/v1/embeddings", "/v1/"])
def test_where_openai_s_embeddings_are(path: str) -> None:
    with raw_server(answering(http_answer(OPENAI_ANSWER))) as server:
        ask(f"http://{server.url}{path}", "openai")
    assert server.heads[0].startswith(b"POST /v1/embeddings HTTP")


def test_where_a_gateway_has_them() -> None:
    with raw_server(answering(http_answer(OPENAI_ANSWER))) as server:
        ask(f"http://{server.url}/team/embeddings", "openai")
    assert server.heads[0].startswith(b"POST /team/embeddings HTTP")


def test_the_only_model_of_a_server_is_taken() -> None:
    with raw_server(answering(http_answer(OPENAI_ANSWER))) as server:
        connect(server.url, ServerOptions(api="openai")).encode_batch(["a"])
    assert json.loads(server.bodies[-1])["model"] == "only"


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        (b'{"data": [{"id": "a"}, {"id": "b"}]}', "several: a, b"),
        (b'{"data": []}', "none"),
        (HTML, "no list of models"),
    ],
)
def test_a_model_that_cannot_be_guessed(listed: bytes, told: str) -> None:
    with raw_server(lambda _: [http_answer(listed)]) as server, pytest.raises(InputError, match=told):
        connect(server.url, ServerOptions(api="openai"))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://host", "https://host:443"),
        ("host:8080", "http://host:8080"),
        ("http://[::1]:80/a/", "http://[::1]:80/a"),
    ],
)
def test_addresses(url: str, told: str) -> None:
    assert str(base_url(url)) == told


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "ftp://h",
        "http://h:0",
        "http://h:99999",
        "http:/h",
        "http:h/v1",
        "http://h/#f",
        "http://h/a b",
        "http://a..b",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InputError, match="is no address of a server"):
        base_url(url)


def test_a_query_is_named_as_what_is_wrong() -> None:
    with pytest.raises(InputError, match="has a query, which is not sent"):
        base_url("https://h/embeddings?api-version=1")


def test_a_password_in_the_address_is_not_repeated() -> None:
    with pytest.raises(InputError) as refused:
        base_url("https://me:s3cret@host")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://host/?api_key=s3cret", "host:80/v1?key=s3cret", "http://host/#s3cret"])
def test_a_key_in_the_address_is_not_repeated(url: str) -> None:
    for of_url in (base_url, addresses):
        with pytest.raises(InputError, match="host") as refused:
            of_url(url)
        assert "s3cret" not in str(refused.value)


@settings(max_examples=CASES)
@given(st.text(max_size=60) | st.text(max_size=20).map(lambda text: f"http://{text}"))
def test_any_address(url: str) -> None:
    with told_in_a_sentence():
        base_url(url)


def test_triton_is_asked_in_the_same_way() -> None:
    with pytest.raises(InputError, match="Triton serves models by name"):
        connect("localhost:8000", ServerOptions(api="triton"))
    with connect("localhost:8000", ServerOptions(api="triton", model="demo")) as server:
        assert server.execution == "Triton over HTTP at localhost:8000"
