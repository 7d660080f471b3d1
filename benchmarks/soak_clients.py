"""Clients of the soak: sound requests, whose every vector is compared, and hostile ones, which must be refused."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from exporter.dependencies import require
from exporter.errors import ServerError
from exporter.runtime.encoder import Encoder
from exporter.serving.limits import DAY_S, Deadline
from exporter.serving.triton.address import Protocol
from exporter.serving.triton.remote import RemoteEncoder

grpc = require("grpc")
MOST_TEXTS = 8
"""Texts of a sound request, at most."""
EMPTY_SHARE = 0.03
PAUSE_S = 0.1
"""What a client waits after an error before it asks again."""
SOUND = "sound"

Result = Literal["right", "wrong", "swapped", "lost", "timed out", "refused", "accepted", "unanswered", "left"]


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes:
        kind: ``SOUND``, or the name of a hostile request.
        protocol: That it was sent with.
        sent: When, in seconds of ``time.monotonic``.
        ended: When its answer, or what came instead, had arrived.
        texts: How many it held.
        result: Of a sound request: ``"right"``, ``"wrong"`` (a vector further from its own than allowed),
            ``"swapped"`` (wrong, and nearer to another text's), ``"lost"`` (an error) or ``"timed out"``. Of a hostile
            one: ``"refused"`` with an error, ``"accepted"``, ``"unanswered"``, or ``"left"`` by its own client.
        said: The error.
        deviation: Largest relative difference of a vector to that of its text.
    """

    kind: str
    protocol: Protocol
    sent: float
    ended: float
    texts: int
    result: Result
    said: str = ""
    deviation: float = 0.0


class Texts:
    """Texts of all lengths, no two of whose vectors are alike, with the vector that the bundle gives each in process.

    A text that was dealt is not dealt again before it has been given back, so no two requests in flight hold the same
    one, and an answer that went to another request cannot go unseen. Only the empty text, which has no likes, is dealt
    to anybody.
    """

    def __init__(self, texts: Sequence[str], encoder: Encoder, bound: float) -> None:
        """Encode texts, and keep those whose vectors differ by a hundred times the bound.

        Args:
            texts: To choose from; the first is the empty one.
            encoder: Of the bundle.
            bound: Largest relative difference of an answer.
        """
        self.bound = bound
        vectors = encoder.encode(list(texts)).astype(np.float64)
        kept = _distinct(vectors, 100 * bound)
        self.texts = [texts[row] for row in kept]
        self.vectors = vectors[kept]
        self._free = deque(range(1, len(kept)))

    @contextmanager
    def dealt(self, draw: random.Random) -> Iterator[list[int]]:
        """Yield the numbers of the texts of a request."""
        count = draw.randint(1, MOST_TEXTS)
        rows = [0 if draw.random() < EMPTY_SHARE else self._free.popleft() for _ in range(count)]
        try:
            yield rows
        finally:
            self._free.extend(row for row in rows if row)

    def judge(self, rows: Sequence[int], got: npt.NDArray[np.float32]) -> tuple[Result, float]:
        """Return whether vectors are those of the texts, and the largest relative difference to them."""
        own = self.vectors[list(rows)]
        answered = got.astype(np.float64)
        deviations = np.linalg.norm(answered - own, axis=1) / np.linalg.norm(own, axis=1)
        wrong = np.flatnonzero(~(deviations <= self.bound))  # a NaN never is
        nearest = [int(np.linalg.norm(self.vectors - answered[row], axis=1).argmin()) for row in wrong]
        swapped = any(near != rows[row] for near, row in zip(nearest, wrong.tolist(), strict=True))
        return "swapped" if swapped else "wrong" if len(wrong) else "right", float(deviations.max())


def ragged_texts(sentences: Sequence[str], count: int, longest_bytes: int, seed: int) -> list[str]:
    """Return the empty text, and others of one word, of a sentence, of hundreds of words, and of the most bytes."""
    draw = random.Random(seed)
    words = [word for sentence in sentences for word in sentence.split()]
    texts = [""]
    for number in range(1, count):
        chance = draw.random()
        if chance < 0.2:
            text = f"{draw.choice(words)}{number}"
        elif chance < 0.8:
            text = f"{number}. {draw.choice(sentences)}"
        else:
            text = f"{number} {' '.join(draw.choices(words, k=draw.randint(100, 500)))}"
            if number % 64 == 0 or chance > 0.99:
                text = _filled(text, longest_bytes)
        texts.append(text)
    return texts


def _filled(text: str, size_bytes: int) -> str:
    """Repeat a text up to so many bytes of UTF-8, exactly."""
    data = text.encode()
    whole = (data * (size_bytes // len(data) + 1))[:size_bytes].decode(errors="ignore")
    return whole + "." * (size_bytes - len(whole.encode()))


def _distinct(vectors: npt.NDArray[np.float64], least: float) -> list[int]:
    """Return the rows that differ from each one kept before, relative to their length."""
    kept = [0]
    for row in range(1, len(vectors)):
        distance = np.linalg.norm(vectors[kept] - vectors[row], axis=1).min()
        if distance > least * np.linalg.norm(vectors[row]):
            kept.append(row)
    return kept


@dataclass(frozen=True)
class Tensor:
    """An input as it goes over the wire, whatever it says about itself."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True)
class Request:
    """A request that must be refused."""

    model: str
    inputs: tuple[Tensor, ...]


def hostile_requests(name: str, max_text_bytes: int, max_tokens: int) -> dict[str, Request]:
    """Return requests that must be refused, by what is wrong with them.

    Args:
        name: Of the encoder; the ensemble is ``<name>_text``.
        max_text_bytes: The limit of a text.
        max_tokens: The limit of a row.
    """
    sound = _packed(b"a")
    texts = {
        "wrong dtype": Tensor("text", "INT64", (1, 1), bytes(8)),
        "wrong shape": Tensor("text", "BYTES", (1, 2), sound * 2),
        "wrong input name": Tensor("sentence", "BYTES", (1, 1), sound),
        "1,000 texts": Tensor("text", "BYTES", (1000, 1), sound * 1000),
        "2^31 texts stated, 1 sent": Tensor("text", "BYTES", (2**31, 1), sound),
        "100 texts stated, 1 sent": Tensor("text", "BYTES", (100, 1), sound),
        "4 GiB stated, 1 byte sent": Tensor("text", "BYTES", (1, 1), b"\xff\xff\xff\xffa"),
        "oversized text": Tensor("text", "BYTES", (1, 1), _packed(b"a" * (max_text_bytes + 1))),
        "invalid UTF-8": Tensor("text", "BYTES", (1, 1), _packed(b"\xec\x95\xff")),
        "sound texts and invalid UTF-8": Tensor("text", "BYTES", (3, 1), sound * 2 + _packed(b"\xff")),
    }
    tokens = {
        "token id out of range": ([2, 10**9, 3], [1, 1, 1]),
        "hole in the mask": ([2, 5, 6, 3], [1, 0, 1, 1]),
        "too many tokens": ([5] * (max_tokens + 1), [1] * (max_tokens + 1)),
        "mask of another shape": ([2, 5, 3], [1, 1]),
    }
    return {kind: Request(f"{name}_text", (tensor,)) for kind, tensor in texts.items()} | {
        kind: Request(name, (_int64("input_ids", ids), _int64("attention_mask", mask)))
        for kind, (ids, mask) in tokens.items()
    }


def _packed(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def _int64(name: str, row: Sequence[int]) -> Tensor:
    return Tensor(name, "INT64", (1, len(row)), np.array(row, "<i8").tobytes())


class HttpSender:
    """Hostile requests over HTTP, each on a connection of its own."""

    protocol: Protocol = "http"

    def __init__(self, address: str, name: str) -> None:
        host, _, port = address.rpartition(":")
        self._address, self._ensemble = (host, int(port)), f"{name}_text"
        self.more: Mapping[str, Callable[[random.Random, float], tuple[Result, str]]] = {
            "no JSON": lambda _, seconds: self._post(self._ensemble, b"{", {}, seconds),
            "connection closed in the middle of the request": self._closed_in_the_request,
            "connection reset before the answer": self._reset_before_the_answer,
        }

    def send(self, request: Request, seconds: float) -> tuple[Result, str]:
        """Send a request, and return what came of it and the error."""
        head, data = _http_body(request)
        return self._post(request.model, head + data, {"Inference-Header-Content-Length": str(len(head))}, seconds)

    def close(self) -> None:
        """Do nothing: no connection is left open."""

    def _post(self, model: str, body: bytes, headers: dict[str, str], seconds: float) -> tuple[Result, str]:
        with closing(http.client.HTTPConnection(*self._address, timeout=seconds)) as connection:
            try:
                connection.request("POST", f"/v2/models/{model}/infer", body, headers)
                response = connection.getresponse()
                said = response.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                return "unanswered", repr(error)
        return ("accepted" if response.status < 400 else "refused"), said

    def _closed_in_the_request(self, draw: random.Random, seconds: float) -> tuple[Result, str]:
        whole = self._sound(draw)
        with suppress(OSError), socket.create_connection(self._address, seconds) as plain:
            plain.sendall(whole[: draw.randrange(1, len(whole))])
        return "left", ""

    def _reset_before_the_answer(self, draw: random.Random, seconds: float) -> tuple[Result, str]:
        with suppress(OSError), socket.create_connection(self._address, seconds) as plain:
            plain.sendall(self._sound(draw))
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(draw.random() * PAUSE_S)
        return "left", ""

    def _sound(self, draw: random.Random) -> bytes:
        """Return all bytes of a sound request."""
        head, data = _http_body(Request(self._ensemble, (_sound_tensor(draw),)))
        lines = (
            f"POST /v2/models/{self._ensemble}/infer HTTP/1.1",
            "Host: localhost",
            f"Inference-Header-Content-Length: {len(head)}",
            f"Content-Length: {len(head) + len(data)}",
            "\r\n",
        )
        return "\r\n".join(lines).encode() + head + data


_SILENT = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


class GrpcSender:
    """Hostile requests over gRPC, on one connection."""

    protocol: Protocol = "grpc"

    def __init__(self, address: str, name: str) -> None:
        # After a restart of the server, it connects again soon.
        self._channel = grpc.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 500)])
        self._infer = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer
        self._ensemble = f"{name}_text"
        self.more: Mapping[str, Callable[[random.Random, float], tuple[Result, str]]] = {
            "call cancelled": self._cancelled
        }

    def send(self, request: Request, seconds: float) -> tuple[Result, str]:
        """Send a request, and return what came of it and the error."""
        try:
            self._infer(_grpc_request(request), timeout=seconds)
        except grpc.RpcError as error:
            code = error.code()
            return ("unanswered" if code in _SILENT else "refused"), f"{code}: {error.details()}"
        return "accepted", ""

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _cancelled(self, draw: random.Random, seconds: float) -> tuple[Result, str]:
        call = self._infer.future(_grpc_request(Request(self._ensemble, (_sound_tensor(draw),))), timeout=seconds)
        time.sleep(draw.random() * PAUSE_S)
        call.cancel()
        return "left", ""


def _sound_tensor(draw: random.Random) -> Tensor:
    texts = [f"{draw.random()} {'bye ' * draw.randint(1, 200)}".encode() for _ in range(MOST_TEXTS)]
    return Tensor("text", "BYTES", (MOST_TEXTS, 1), b"".join(map(_packed, texts)))


def _http_body(request: Request) -> tuple[bytes, bytes]:
    inputs = [
        {
            "name": one.name,
            "shape": one.shape,
            "datatype": one.datatype,
            "parameters": {"binary_data_size": len(one.data)},
        }
        for one in request.inputs
    ]
    return json.dumps({"inputs": inputs}).encode(), b"".join(one.data for one in request.inputs)


def _grpc_request(request: Request) -> Any:
    message = service_pb2.ModelInferRequest(model_name=request.model)
    for one in request.inputs:
        message.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        message.raw_input_contents.append(one.data)
    return message


class Clients:
    """Clients that send requests until they are stopped, every second one over gRPC. Each has one in flight at most.

    Attributes:
        outcomes: Of all requests, in the order in which they ended.
    """

    def __init__(
        self,
        http_address: str,
        grpc_address: str,
        name: str,
        texts: Texts,
        hostile: Mapping[str, Request],
        *,
        count: int,
        hostile_share: float,
        request_s: float,
        seed: int,
    ) -> None:
        """Prepare clients.

        Args:
            http_address: Of the server.
            grpc_address: Of the server.
            name: Of the encoder.
            texts: For the sound requests.
            hostile: Requests that must be refused, by what is wrong with them.
            count: Of the clients.
            hostile_share: Share of the requests that are hostile.
            request_s: Most seconds for one request.
            seed: Of the choices.
        """
        self.outcomes: list[Outcome] = []
        self._addresses, self._name = (http_address, grpc_address), name
        self._texts, self._hostile = texts, hostile
        self._count, self._share, self._request_s, self._seed = count, hostile_share, request_s, seed
        self._stop = threading.Event()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send requests for the time of a ``with`` block. What a client did not expect is raised at its end."""
        with ThreadPoolExecutor(self._count) as pool:
            clients: list[Future[None]] = [pool.submit(self._client, number) for number in range(self._count)]
            try:
                yield
            finally:
                self._stop.set()
        for client in clients:
            client.result()

    def _client(self, number: int) -> None:
        draw = random.Random(f"{self._seed} {number}")
        sender: HttpSender | GrpcSender = (HttpSender, GrpcSender)[number % 2](self._addresses[number % 2], self._name)
        deadline = Deadline(self._request_s, DAY_S)
        remote = RemoteEncoder(sender.protocol, self._addresses[number % 2], f"{self._name}_text", deadline=deadline)
        in_turn = [*self._hostile, *sender.more]
        draw.shuffle(in_turn)
        kinds = itertools.cycle(in_turn)
        with remote, closing(sender):
            while not self._stop.is_set():
                if draw.random() < self._share:
                    outcome = self._attack(sender, next(kinds), draw)
                else:
                    outcome = self._ask(remote, sender.protocol, draw)
                self.outcomes.append(outcome)
                if outcome.result in ("lost", "timed out", "unanswered"):
                    time.sleep(PAUSE_S)

    def _ask(self, remote: RemoteEncoder, protocol: Protocol, draw: random.Random) -> Outcome:
        with self._texts.dealt(draw) as rows:
            sent = time.monotonic()
            try:
                vectors = remote.encode_batch([self._texts.texts[row] for row in rows])
            except ServerError as error:
                result: Result = "timed out" if isinstance(error.__cause__, TimeoutError) else "lost"
                return Outcome(SOUND, protocol, sent, time.monotonic(), len(rows), result, error.message)
            ended = time.monotonic()
            result, deviation = self._texts.judge(rows, vectors)
        return Outcome(SOUND, protocol, sent, ended, len(rows), result, deviation=deviation)

    def _attack(self, sender: HttpSender | GrpcSender, kind: str, draw: random.Random) -> Outcome:
        sent = time.monotonic()
        if kind in self._hostile:
            result, said = sender.send(self._hostile[kind], self._request_s)
        else:
            result, said = sender.more[kind](draw, self._request_s)
        return Outcome(kind, sender.protocol, sent, time.monotonic(), 0, result, said)
