"""A proxy in front of a real server that changes what goes through it: HTTP on both sides.

It reads and writes TEI's ``/embed``, OpenAI's embeddings, and the binary inferences of Triton over HTTP. Everything
else goes through as it is. gRPC does not go through it: a fault in Triton is seen over HTTP only.
"""

from __future__ import annotations

import base64
import json
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Answers", "Fault", "Proxy", "fault_proxy"]

Matrix = npt.NDArray[np.float64]
Answered = tuple[int, bytes, Mapping[str, str]]
_LENGTH = "Inference-Header-Content-Length"


def _same_texts(texts: list[str]) -> list[str]:
    return texts


def _same_vectors(vectors: Matrix) -> Matrix:
    return vectors


@dataclass(frozen=True)
class Fault:
    """What a proxy does.

    Attributes:
        texts: To the texts of a request.
        vectors: To the vectors of an answer; it may change their number, and make them NaN.
        late: Whether, of two requests with one text each that are under way together, one gets the other's answer.
        doubles: Whether vectors in base64 have float64 numbers.
        refuses: Every how many requests the proxy answers 429 with ``Retry-After: 0`` once (0: never).
        closes: Every how many requests the proxy closes the connection without an answer (0: never).
    """

    texts: Callable[[list[str]], list[str]] = _same_texts
    vectors: Callable[[Matrix], Matrix] = _same_vectors
    late: bool = False
    doubles: bool = False
    refuses: int = 0
    closes: int = 0


class Answers(Protocol):
    """How texts and vectors stand in the requests and answers of an API."""

    def texts(self, body: bytes, headers: Mapping[str, str]) -> list[str]: ...

    def with_texts(self, body: bytes, headers: Mapping[str, str], texts: list[str]) -> tuple[bytes, dict[str, str]]: ...

    def vectors(self, body: bytes, headers: Mapping[str, str]) -> Matrix: ...

    def with_vectors(
        self, body: bytes, headers: Mapping[str, str], vectors: Matrix, *, doubles: bool
    ) -> tuple[bytes, dict[str, str]]: ...


class TeiAnswers:
    """``{"inputs": [...]}`` and a list of lists."""

    def texts(self, body: bytes, _: Mapping[str, str]) -> list[str]:
        return list(json.loads(body)["inputs"])

    def with_texts(self, body: bytes, _: Mapping[str, str], texts: list[str]) -> tuple[bytes, dict[str, str]]:
        return json.dumps({**json.loads(body), "inputs": texts}).encode(), {}

    def vectors(self, body: bytes, _: Mapping[str, str]) -> Matrix:
        return np.array(json.loads(body), np.float64)

    def with_vectors(
        self, _: bytes, __: Mapping[str, str], vectors: Matrix, *, doubles: bool
    ) -> tuple[bytes, dict[str, str]]:
        del doubles  # JSON has one kind of number
        return json.dumps(vectors.tolist()).encode(), {}


class OpenAiAnswers:
    """``{"input": [...]}`` and ``{"data": [{"index": 0, "embedding": [...]}]}``, or base64 in the place of numbers."""

    def texts(self, body: bytes, _: Mapping[str, str]) -> list[str]:
        return list(json.loads(body)["input"])

    def with_texts(self, body: bytes, _: Mapping[str, str], texts: list[str]) -> tuple[bytes, dict[str, str]]:
        return json.dumps({**json.loads(body), "input": texts}).encode(), {}

    def vectors(self, body: bytes, _: Mapping[str, str]) -> Matrix:
        rows = [datum["embedding"] for datum in json.loads(body)["data"]]
        return np.array([np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row for row in rows])

    def with_vectors(
        self, body: bytes, _: Mapping[str, str], vectors: Matrix, *, doubles: bool
    ) -> tuple[bytes, dict[str, str]]:
        content = json.loads(body)
        encoded = isinstance(content["data"][0]["embedding"], str)

        def written(row: Matrix) -> Any:
            if not encoded:
                return row.tolist()
            return base64.b64encode(row.astype("<f8" if doubles else "<f4").tobytes()).decode()

        rows = [
            {"object": "embedding", "index": number, "embedding": written(row)} for number, row in enumerate(vectors)
        ]
        return json.dumps({**content, "data": rows}).encode(), {}


class TritonAnswers:
    """KServe's inference with binary data: JSON of a stated length, then the data."""

    def texts(self, body: bytes, headers: Mapping[str, str]) -> list[str]:
        data, texts = body[int(headers[_LENGTH]) :], []
        while data:
            (length,) = struct.unpack("<I", data[:4])
            texts.append(data[4 : 4 + length].decode())
            data = data[4 + length :]
        return texts

    def with_texts(self, body: bytes, headers: Mapping[str, str], texts: list[str]) -> tuple[bytes, dict[str, str]]:
        header = json.loads(body[: int(headers[_LENGTH])])
        data = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
        (text_input,) = header["inputs"]
        text_input |= {"shape": [len(texts), 1], "parameters": {"binary_data_size": len(data)}}
        return _with_length(header, data)

    def vectors(self, body: bytes, headers: Mapping[str, str]) -> Matrix:
        end = int(headers[_LENGTH])
        (output,) = json.loads(body[:end])["outputs"]
        return np.frombuffer(body[end:], "<f4").reshape(output["shape"]).astype(np.float64)

    def with_vectors(
        self, body: bytes, headers: Mapping[str, str], vectors: Matrix, *, doubles: bool
    ) -> tuple[bytes, dict[str, str]]:
        header = json.loads(body[: int(headers[_LENGTH])])
        (output,) = header["outputs"]
        data = vectors.astype("<f8" if doubles else "<f4").tobytes()
        output |= {
            "shape": list(vectors.shape),
            "datatype": "FP64" if doubles else "FP32",
            "parameters": {"binary_data_size": len(data)},
        }
        return _with_length(header, data)


def _with_length(header: Any, data: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(header).encode()
    return text + data, {_LENGTH: str(len(text))}


@dataclass
class Proxy:
    """A running proxy. ``fault`` may be changed while it runs.

    Attributes:
        upstream: Host and port of the real server.
        answers: How its API writes texts and vectors.
        fault: What is done.
        url: ``"http://127.0.0.1:12345"``.
        count: Requests with texts.
    """

    upstream: str
    answers: Answers
    fault: Fault = field(default_factory=Fault)
    url: str = ""
    count: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _under_way: int = 0
    _held: list[tuple[Any, threading.Event, list[Any]]] = field(default_factory=list)

    def forward(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answered:
        """Return what the real server answers."""
        kept = {name: value for name, value in headers.items() if name.lower() not in {"host", "content-length"}}
        request = urllib.request.Request(f"http://{self.upstream}{path}", body, kept)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read(), dict(response.headers.items())
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers.items())

    def answer(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answered | None:
        """Return the answer to a request with texts, with the fault in it; None to close the connection."""
        with self._turn:
            self.count += 1
            number = self.count
        fault = self.fault
        if fault.closes and number % fault.closes == 0:
            return None
        if fault.refuses and number % fault.refuses == 0:
            return 429, b'{"error": "Model is overloaded", "error_type": "Overloaded"}', {"Retry-After": "0"}
        texts = self.answers.texts(body, headers)
        body, changed = self.answers.with_texts(body, headers, fault.texts(texts))
        single = fault.late and len(texts) == 1
        with self._turn:
            self._under_way += single
        status, answer, of_answer = self.forward(path, body, {**headers, **changed})
        if status != 200:
            with self._turn:
                self._under_way -= single
            return status, answer, of_answer
        vectors = self.answers.vectors(answer, of_answer)
        if single:
            vectors = self._exchanged(vectors)
        answer, changed = self.answers.with_vectors(answer, of_answer, fault.vectors(vectors), doubles=fault.doubles)
        return status, answer, {**of_answer, **changed}

    def _exchanged(self, vectors: Matrix) -> Matrix:
        """Return the vectors of another request that is under way, which gets these; its own where there is none."""
        with self._turn:
            self._under_way -= 1
            if self._held:
                others, ready, given = self._held.pop()
                given.append(vectors)
                ready.set()
                return np.asarray(others)
            if not self._under_way:
                return vectors
            mine: tuple[Any, threading.Event, list[Any]] = (vectors, threading.Event(), [])
            self._held.append(mine)
        mine[1].wait(5)
        with self._turn:
            self._held = [one for one in self._held if one is not mine]
        return np.asarray(mine[2][0]) if mine[2] else vectors


@contextmanager
def fault_proxy(upstream: str, answers: Answers, paths: Sequence[str]) -> Iterator[Proxy]:
    """Yield a proxy.

    Args:
        upstream: Host and port of the real server.
        answers: How its API writes texts and vectors.
        paths: What the paths of requests with texts end in.
    """
    proxy = Proxy(upstream, answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._write(*proxy.forward(self.path, None, dict(self.headers.items())))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = dict(self.headers.items())
            if not self.path.endswith(tuple(paths)):
                self._write(*proxy.forward(self.path, body, headers))
                return
            found = proxy.answer(self.path, body, headers)
            if found is None:
                self.close_connection = True
                return
            self._write(*found)

        def _write(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() in {"content-type", "retry-after", _LENGTH.lower()}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
