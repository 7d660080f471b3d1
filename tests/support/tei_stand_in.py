"""A stand-in for Text Embeddings Inference (TEI): not TEI, but its ``/embed`` and ``/info``, by a bundle.

TEI is written in Rust and is in no package index. This serves what its OpenAPI document describes (version 1.9,
``docs/openapi.json``, and the status codes of ``router/src/http/server.rs``) for texts: ``inputs``, ``normalize``,
``prompt_name``, ``dimensions``, the errors in its words, and requests of several clients in one batch. It always
truncates. What passes here says nothing about TEI itself.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

import exporter
from exporter.runtime.encoder import Encoder
from exporter.runtime.vector_types import Vectors

__all__ = ["TeiStandIn", "tei_stand_in"]

MOST_TEXTS = 32  # of a request, and of a batch
WAIT_S = 0.002  # for a batch to fill


class _RefusedError(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass
class TeiStandIn:
    """A running stand-in.

    Attributes:
        url: ``"http://127.0.0.1:12345"``.
        encoder: That of the bundle.
        batches: How many texts each batch had.
    """

    encoder: Encoder
    url: str = ""
    batches: list[int] = field(default_factory=list)
    _waiting: queue.Queue[tuple[str, Future[Any]] | None] = field(default_factory=queue.Queue)

    def vectors_of(self, texts: Sequence[str]) -> Vectors:
        """Return the raw vectors of texts, each of which may share a batch with those of other requests."""
        asked: list[Future[Any]] = [Future() for _ in texts]
        for text, future in zip(texts, asked, strict=True):
            self._waiting.put((text, future))
        return np.stack([future.result(60) for future in asked])

    def batch(self) -> None:
        """Encode what waits, batch after batch, until there is None."""
        while (first := self._waiting.get()) is not None:
            batch = [first]
            try:
                while len(batch) < MOST_TEXTS and (another := self._waiting.get(timeout=WAIT_S)) is not None:
                    batch.append(another)
            except queue.Empty:
                pass
            self.batches.append(len(batch))
            vectors = self.encoder.encode([text for text, _ in batch], prompt="")  # TEI has no default prompt
            for (_, future), vector in zip(batch, vectors, strict=True):
                future.set_result(vector)

    def stop(self) -> None:
        """End ``batch``."""
        self._waiting.put(None)

    def embed(self, request: dict[str, Any]) -> list[list[float]]:
        """Answer ``/embed``."""
        inputs = request["inputs"]
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        prompts = self.encoder.prompts
        if not texts:
            raise _RefusedError(400, "Empty", "`inputs` cannot be empty")
        if len(texts) > MOST_TEXTS:
            told = f"batch size {len(texts)} > maximum allowed batch size {MOST_TEXTS}"
            raise _RefusedError(422, "Validation", told)
        if not all(texts):
            raise _RefusedError(422, "Validation", "Input validation error: `inputs` cannot be empty")
        name = request.get("prompt_name")
        if name is not None and name not in prompts:
            raise _RefusedError(422, "Validation", f"Input validation error: prompt {name!r} was not found")
        prompt = "" if name is None else prompts[name]
        vectors = self.vectors_of([prompt + text for text in texts])
        if request.get("dimensions"):
            if request["dimensions"] > vectors.shape[1]:
                raise _RefusedError(422, "Validation", "`dimensions` should be smaller than the embedding dimension.")
            vectors = vectors[:, : request["dimensions"]]
        if request.get("normalize", True):
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        rows: list[list[float]] = vectors.tolist()
        return rows

    def info(self) -> dict[str, Any]:
        """Answer ``/info``."""
        return {
            "model_id": "stand-in",
            "model_sha": None,
            "model_dtype": "float32",
            "served_model_name": "stand-in",
            "model_type": {"embedding": {"pooling": "cls"}},
            "max_concurrent_requests": 512,
            "max_input_length": self.encoder.max_seq_length,
            "max_batch_tokens": 16384,
            "max_client_batch_size": MOST_TEXTS,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": "0.0.0-stand-in",
        }


@contextmanager
def tei_stand_in(bundle: Path) -> Iterator[TeiStandIn]:
    """Yield a stand-in of TEI that serves a bundle."""
    found = TeiStandIn(exporter.load(bundle, threads=1))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200, found.info() if self.path == "/info" else {})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                self._answer(200, found.embed(request))
            except _RefusedError as error:
                self._answer(error.status, {"error": str(error), "error_type": error.kind})

        def _answer(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        threads = [threading.Thread(target=found.batch), threading.Thread(target=server.serve_forever, args=(0.01,))]
        for thread in threads:
            thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            found.stop()
            for thread in threads:
                thread.join()
