"""verify() of a small server with TEI's API: checks that have nothing to compare with, and faults that hide."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from exporter.recipe import Gates
from exporter.runtime.facts import EncoderFacts
from exporter.runtime.vector_types import Vectors
from exporter.serving.embeddings import ServerOptions
from exporter.serving.embeddings.probing import rows_of
from exporter.serving.embeddings.requests import RefusedError
from exporter.serving.embeddings.verify import Judged, verify
from exporter.serving.expected import Expected
from exporter.validator import Check, ParityReport, Reference
from exporter.validator.format_loss import FormatLoss
from exporter.validator.gates import judge as judge_parity
from exporter.validator.parity import compare
from exporter.validator.probes import Probe

LONGEST, DIMENSION = 12, 16
JUDGED = Judged(clients=4, requests=60)
WORDS = [f"word{number}" for number in range(40)]


def vectors_of(texts: list[str]) -> Vectors:
    """Return (len(texts), DIMENSION) float32 of length 1: the sum over the first words, at most LONGEST."""
    rows = [
        sum(
            np.random.default_rng(zlib.crc32(f"{place} {word}".encode())).standard_normal(DIMENSION)
            for place, word in enumerate(["start", *text.split()][:LONGEST])
        )
        for text in texts
    ]
    found = np.array(rows)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def expected(*, long_ones: bool = True) -> Expected:
    """Return 60 sentences and, if asked for, texts around the longest length."""
    sentences = [" ".join(WORDS[number % 37 : number % 37 + 1 + number % 9]) + f" {number}" for number in range(60)]
    probes = [Probe(text, "news") for text in sentences]
    if long_ones:
        lengths = {"one token below": -2, "exactly": -1, "one token beyond": 0, "far beyond": 2 * LONGEST}
        texts = {kind: " ".join(WORDS[: LONGEST + more]) for kind, more in lengths.items()}
        probes += [Probe(text, f"edge: {kind} max_seq_length") for kind, text in texts.items()]
    texts_of_probes = [probe.text for probe in probes]
    ids = [[*[zlib.crc32(word.encode()) for word in text.split()][: LONGEST - 1], 0] for text in texts_of_probes]
    facts = EncoderFacts(
        architecture="BertModel",
        modules=("Transformer", "Pooling", "Normalize"),
        pooling=("mean",),
        dimension=DIMENSION,
        max_seq_length=LONGEST,
        do_lower_case=False,
        layers=1,
        heads=1,
        hidden_size=DIMENSION,
    )
    reference = Reference(tuple(probes), vectors_of(texts_of_probes), ids, ())
    return Expected("the golden file", "words", reference, None, facts, Gates(), ())


@dataclass
class WordServer:
    """A server with TEI's API.

    Attributes:
        answer: A request to the status and the content of its answer.
        info: What it says of itself.
        url: ``"http://127.0.0.1:12345"``.
        asked: The texts of every request.
    """

    answer: Callable[[dict[str, Any]], tuple[int, Any]]
    info: dict[str, Any]
    url: str = ""
    asked: list[list[str]] = field(default_factory=list)


def soundly(request: dict[str, Any]) -> tuple[int, Any]:
    if not request["inputs"]:
        return 422, {"error": "no inputs"}
    vectors = vectors_of(request["inputs"])[:, : request.get("dimensions")]
    return 200, vectors.tolist()


@contextmanager
def word_server(answer: Callable[[dict[str, Any]], tuple[int, Any]] = soundly, **info: Any) -> Iterator[WordServer]:
    found = WordServer(answer, {"model_id": "words", "model_dtype": "float32", "version": "1", **info})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._write(200, found.info)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.asked.append(request["inputs"])
            self._write(*found.answer(request))

        def _write(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def judge(server: WordServer, wanted: Expected | None = None, judged: Judged = JUDGED) -> ParityReport:
    return verify(server.url, ServerOptions(api="tei"), wanted or expected(), judged)


def result_of(report: ParityReport, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def test_a_sound_server_passes_every_check() -> None:
    with word_server() as server:
        report = judge(server)
    assert report.passed, report.failure()
    skipped = {check.name for check in report.checks if not check.compared}
    assert skipped == {"encoding"}


class CachingServer:
    """A server that answers what comes at the same time wrongly, and keeps each answer for the next time."""

    def __init__(self) -> None:
        self._kept: dict[str, list[float]] = {}
        self._under_way, self._changed = 0, threading.Condition()

    def answer(self, request: dict[str, Any]) -> tuple[int, Any]:
        texts = request["inputs"]
        if not texts or "dimensions" in request:
            return soundly(request)
        if len(texts) == 1 and texts[0] not in self._kept:
            self._kept[texts[0]] = self._single(texts[0])
        for text in texts:
            self._kept.setdefault(text, vectors_of([text])[0].tolist())
        return 200, [self._kept[text] for text in texts]

    def _single(self, text: str) -> list[float]:
        with self._changed:
            self._under_way += 1
            self._changed.notify_all()
            alone = not self._changed.wait_for(lambda: self._under_way > 1, timeout=1)
        vector = vectors_of([text])[0]
        with self._changed:
            self._under_way -= alone  # who has met another one stays, so that all others meet it
        found: list[float] = (vector if alone else vector[::-1]).tolist()
        return found


def test_a_cache_that_keeps_wrong_answers_is_found() -> None:
    with word_server(CachingServer().answer) as server:
        report = judge(server)
    assert not report.passed
    assert all(check.passed for check in report.checks if check.name.startswith("concurrency")), "the cache hides it"
    assert "min cosine" in report.failure()


def test_nothing_but_single_texts_is_asked_of_a_server_that_takes_no_more() -> None:
    with word_server(max_client_batch_size=1) as server:
        report = judge(server)
    assert max(map(len, server.asked)) == 1
    for name in ("requests", "order", "concurrency, batches"):
        assert not result_of(report, name).compared
    assert result_of(report, "dtype").compared


def test_requests_of_fewer_texts_have_an_order_too() -> None:
    def reversed_rows(request: dict[str, Any]) -> tuple[int, Any]:
        status, content = soundly(request)
        return status, content[::-1] if status == 200 and len(content) == 4 else content

    with word_server(reversed_rows, max_client_batch_size=4) as server:
        report = judge(server)
    assert {"requests", "order"} <= {check.name for check in report.checks if not check.passed}


def test_few_requests_are_no_load() -> None:
    with word_server() as server:
        report = judge(server, judged=replace(JUDGED, requests=5))
    (concurrency,) = (check for check in report.checks if check.name.startswith("concurrency"))
    assert not concurrency.compared


def test_without_long_texts_nothing_is_known_of_truncation() -> None:
    with word_server() as server:
        report = judge(server, expected(long_ones=False))
    assert not result_of(report, "truncation").compared


def test_a_server_that_breaks_when_it_is_asked_for_dimensions() -> None:
    def broken(request: dict[str, Any]) -> tuple[int, Any]:
        return (500, {"error": "index out of range"}) if "dimensions" in request else soundly(request)

    with word_server(broken) as server:
        report = judge(server)
    told = "8 dimensions were asked for, and the server failed: HTTP 500: index out of range"
    assert result_of(report, "dimensions").failures == (told,)
    for status in (400, 422, 501):
        with word_server(lambda request, s=status: (s, {}) if "dimensions" in request else soundly(request)) as server:  # type: ignore[misc]
            assert not result_of(judge(server), "dimensions").compared


def refusing(most: int) -> Callable[[dict[str, Any]], tuple[int, Any]]:
    def answer(request: dict[str, Any]) -> tuple[int, Any]:
        longest = max((len(text.split()) for text in request["inputs"]), default=0)
        return (413, {"error": "too long"}) if longest > most else soundly(request)

    return answer


def test_only_texts_that_are_too_long_may_be_refused() -> None:
    with word_server(refusing(20)) as server:
        report = judge(server)
        assert report.passed, report.failure()
        refused = result_of(report, "refused texts")
        told = "1 of 64 probes, which the server refuses: far beyond max_seq_length (HTTP 413: too long)"
        assert (refused.compared, refused.coverage) == (False, f"not compared: {told}")
        assert len(report.probes) == 63
        server.answer = refusing(LONGEST - 2)
        with pytest.raises(RefusedError, match="HTTP 413: too long"):
            judge(server)


def test_what_rounding_loses_stays_with_its_probe_where_others_are_left_out() -> None:
    """PyTorch in float32 is as far from float64 on the last probe as the server is from PyTorch."""
    whole = expected().reference
    moved = whole.vectors.copy()
    moved[-1] += np.float32(3e-5 / np.sqrt(DIMENSION))
    asked: list[list[int]] = []

    def rounding(rows: Sequence[int]) -> FormatLoss:
        asked.append(list(rows))
        exact = np.full(moved.shape, np.nan, np.float32)
        exact[rows] = moved[rows]
        return FormatLoss("PyTorch in float32", compare(whole.vectors, exact, whole.token_ids))

    reference = rows_of(replace(whole, rounding=rounding), [3, 5, *range(20, 60), 63])
    candidate = moved[[3, 5, *range(20, 60), 63]]
    parity = compare(reference.vectors, candidate, reference.token_ids)
    gate = Gates().fp32
    assert not all(verdict.passed for verdict in judge_parity(parity, 0.0, (), gate))
    assert reference.rounding is not None
    loss = reference.rounding([len(candidate) - 1])
    assert asked == [[63]]
    assert all(verdict.passed for verdict in judge_parity(parity, 0.0, (), gate, loss))


def test_too_few_values_say_nothing_of_their_type() -> None:
    few = expected(long_ones=False)
    rows = [0, 1, 2]
    probes = tuple(few.reference.probes[row] for row in rows)
    ids = [few.reference.token_ids[row] for row in rows]
    reference = replace(few.reference, probes=probes, vectors=few.reference.vectors[rows], token_ids=ids)
    with word_server() as server:
        report = judge(server, replace(few, reference=reference))
    assert not result_of(report, "dtype").compared
