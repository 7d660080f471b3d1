"""``models/encoder.py``: what it answers, to whom, and when, with a stand-in for the backend and the engine."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, models

from exporter.bundle import Bundle
from exporter.errors import EngineError
from exporter.runtime.token_encoder import TokenEncoder, rows_at_once
from tests.support.process import wait_until
from tests.support.python_backend import Request, executed, install

LIMIT, BAD, BROKEN = 8, 90, 91


class Engine:
    """Answers with the sum of each row's ids. Refuses a batch with the id ``BAD``, and fails with ``BROKEN``.

    Attributes:
        shapes: Of the batches, in the order in which they began.
        before: Called with the width of a batch before it is encoded.
        threads: In which batches ran.
        most: Batches, and tokens of batches, that ran at one time.
    """

    execution = "test"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.before: Callable[[int], object] = lambda _: None
        self.threads: set[threading.Thread] = set()
        self.most = (0, 0)
        self._running: list[int] = []
        self._lock = threading.Lock()

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with self._lock:
            self.shapes.append(ids.shape)
            self.threads.add(threading.current_thread())
            self._running.append(ids.size)
            self.most = max(self.most[0], len(self._running)), max(self.most[1], sum(self._running))
        try:
            return self._encoded(ids, mask)
        finally:
            with self._lock:
                self._running.remove(ids.size)

    def _encoded(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        self.before(ids.shape[1])
        if BAD in ids:
            raise EngineError("refused")
        if BROKEN in ids:
            raise MemoryError("none left")
        return np.repeat((ids * mask).sum(axis=1, keepdims=True), 4, axis=1).astype(np.float32)

    def __exit__(self, *_: object) -> None:
        pass


class Opened:
    """A model and its engine, and how the bundle was opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: int, batch: int, batch_tokens: int) -> None:
        install(monkeypatch)
        monkeypatch.delitem(sys.modules, "exporter.serving.triton.models.encoder", raising=False)
        from exporter.serving.triton.models import encoder

        self.engine, self.options = Engine(), dict[str, Any]()
        opened = TokenEncoder(Tokenizer(models.WordLevel({"[PAD]": 0})), self.engine, 4)  # type: ignore[arg-type]
        opened.max_seq_length = LIMIT  # type: ignore[attr-defined]
        bundle = SimpleNamespace(encoder=lambda **options: self.options.update(options) or opened)
        monkeypatch.setattr(Bundle, "open", lambda *_, **__: bundle)
        self.model = encoder.TritonPythonModel()
        settings = {"threads": str(threads), "padding_tokens": "0", "batch_tokens": str(batch_tokens)}
        config = {
            "max_batch_size": batch,
            "instance_group": [{"count": 1}],
            "parameters": {name: {"string_value": value} for name, value in settings.items()},
        }
        where = {"model_repository": str(Path()), "model_version": "1", "model_instance_kind": "CPU"}
        self.model.initialize({"model_config": json.dumps(config), **where})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    opened = Opened(monkeypatch, threads=1, batch=4, batch_tokens=8)
    yield opened
    opened.model.finalize()


def request(*rows: list[int], answered: list[Request] | None = None, send_failures: int = 0) -> Request:
    """Return a request of rows, padded; it is put into ``answered`` when its answer is sent."""
    width = max(map(len, rows), default=1)
    ids = np.array([row + [0] * (width - len(row)) for row in rows], np.int64).reshape(len(rows), width)
    tensors = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    return Request(
        tensors,
        on_answer=lambda request: None if answered is None else answered.append(request),
        send_failures=send_failures,
    )


def sums(answer: Any) -> list[float]:
    """Return the first number of each vector of an answer."""
    assert answer.error is None, answer.error
    ((name, vectors),) = answer.tensors
    assert (name, vectors.dtype, vectors.shape[1]) == ("sentence_embedding", np.float32, 4)
    return [float(row[0]) for row in vectors]


def test_its_threads_do_not_keep_cores_from_the_server(opened: Opened) -> None:
    assert opened.options == {"device": "cpu", "threads": 1, "spinning": False}


def test_short_sentences_are_answered_before_long_ones_are_encoded(opened: Opened) -> None:
    answered: list[Request] = []
    long, mixed, short = (
        request(*rows, answered=answered) for rows in ([[1] * 8], [[2], [1] * 6, [3]], [[4, 4], [5, 5]])
    )
    opened.engine.before = lambda width: wait_until(lambda: width < 8 or mixed in answered, 10)
    answers = executed(opened.model, [long, mixed, short])
    assert [sums(answer) for answer in answers] == [[8], [2, 6, 3], [8, 10]]
    assert answered == [short, mixed, long]
    assert opened.engine.shapes == [(2, 1), (2, 2), (1, 6), (1, 8)]


def test_each_request_gets_its_own_vectors(opened: Opened) -> None:
    rng = np.random.default_rng(0)
    rows = [[rng.integers(1, 80, rng.integers(1, 9)).tolist() for _ in range(rng.integers(1, 5))] for _ in range(40)]
    answers = executed(opened.model, [request(*found) for found in rows])
    assert [sums(answer) for answer in answers] == [[sum(row) for row in found] for found in rows]
    assert max(rows * width for rows, width in opened.engine.shapes) <= 8


def test_one_request_alone_is_answered_without_a_sender(opened: Opened) -> None:
    alone = request([1, 2], [3])
    (answer,) = executed(opened.model, [alone])
    assert sums(answer) == [3, 3]
    assert alone.answer is None
    (refused,) = executed(opened.model, [request([1] * 9)])
    assert refused.error == "row 0 has 9 tokens, and 8 are the model's maximum"
    (failed,) = executed(opened.model, [request([1], [BAD, 1])])
    assert failed.error == "refused"


def test_what_is_wrong_with_one_request_costs_no_other(opened: Opened) -> None:
    hole = Request({"input_ids": np.ones((1, 3), np.int64), "attention_mask": np.array([[1, 0, 1]])})
    answers = executed(opened.model, [request([1]), hole, request([BAD]), request([2], [3, 3]), request([], [4])])
    assert [answer.error for answer in answers] == [
        *(None, "row 0 of attention_mask has a hole: padding stands at one end", "refused", None),
        "row 0 of attention_mask has no token",
    ]
    assert [sums(answers[number]) for number in (0, 3)] == [[1], [2, 6]]


def test_requests_of_no_rows_are_answered(opened: Opened) -> None:
    empty, other = executed(opened.model, [request(), request([7])])
    assert (sums(empty), sums(other)) == ([], [7])


@pytest.mark.parametrize("rest", [[], [1]])
def test_an_engine_that_breaks_fails_no_other_request(opened: Opened, rest: list[int]) -> None:
    """The shortest batch comes first: all others are still to be answered. With ``rest`` it has a good row too."""
    broken, others = request([BROKEN]), [request([1], rest) if rest else request([1, 1]), request([2] * 8)]
    failed, *answers = executed(opened.model, [broken, *others])
    assert (failed.error, failed.error.code) == ("MemoryError: none left", failed.error.INTERNAL)
    assert [sums(answer) for answer in answers] == [[1, 1] if rest else [2], [16]]


def test_an_engine_that_breaks_with_a_request_alone_is_told(opened: Opened) -> None:
    (failed,) = executed(opened.model, [request([BROKEN], [1, 1])])
    assert (failed.error, failed.error.code) == ("MemoryError: none left", failed.error.INTERNAL)


def test_a_response_that_cannot_be_sent_is_refused_and_costs_no_other_request(opened: Opened) -> None:
    hole = Request({"input_ids": np.ones((1, 3), np.int64), "attention_mask": np.array([[1, 0, 1]])}, send_failures=1)
    requests = [request([1], send_failures=1), hole, request([2, 2]), request([BAD], send_failures=1), request([3] * 3)]
    answers = executed(opened.model, requests)
    told = f"RuntimeError: {Request.SEND_FAILURE}"
    assert [answer.error for answer in answers] == [told, told, None, told, None]
    assert {answers[number].error.code for number in (0, 1, 3)} == {answers[0].error.INTERNAL}
    assert [sums(answers[number]) for number in (2, 4)] == [[4], [9]]


def test_a_sender_that_sends_nothing_costs_no_other_request(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    mute = [request([1], send_failures=9), request([BAD], send_failures=9)]
    others = [request([2]), request([BAD]), request([3] * 8)]
    opened.model.execute([*mute, *others])
    assert caplog.messages == [f"a request stays without an answer: RuntimeError: {Request.SEND_FAILURE}"] * 2
    assert [one.answer for one in mute] == [None, None]
    assert others[1].answer.error == "refused"
    assert [sums(others[number].answer) for number in (0, 2)] == [[2], [24]]


def test_if_encoding_fails_as_a_whole_each_request_is_told(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened.model, "_batch_tokens", None)  # no number: a TypeError in the middle
    monkeypatch.setattr(opened.model, "_max_batch_size", None)
    first, second = executed(opened.model, [request([1], send_failures=1), request([2])])
    assert first.error.startswith("RuntimeError: ")
    assert second.error.startswith("TypeError: ")


def test_batches_that_nobody_waits_for_do_not_delay_the_next_request(opened: Opened) -> None:
    refused = threading.Event()
    opened.engine.before = lambda width: width < 8 or refused.wait(60)
    (failed,) = executed(opened.model, [request([BAD], *[[1] * 8] * 6)])
    refused.set()
    assert failed.error == "refused"
    executed(opened.model, [request([5])])
    opened.model.finalize()  # waits for what is left
    assert opened.engine.shapes.count((1, 8)) <= 1, "more than the batch that had begun"


def test_requests_of_a_refused_batch_come_last_and_run_in_the_pool(opened: Opened) -> None:
    answered: list[Request] = []
    bad, good, long, alone = (request(row, answered=answered) for row in ([BAD], [1], [1] * 8, [3, 3, 3]))
    answers = executed(opened.model, [bad, good, long])
    assert [answer.error for answer in answers] == ["refused", None, None]
    assert (answered[0], set(answered[1:])) == (long, {bad, good})
    assert opened.engine.shapes == [(2, 1), (1, 8), (1, 1), (1, 1)]
    executed(opened.model, [alone])
    assert len(opened.engine.threads) == 1, "a batch ran beside the pool"


@pytest.mark.parametrize(
    ("threads", "batch", "batch_tokens", "at_once"),
    [(2, 4, LIMIT, 2), (64, 1, LIMIT, 1), (64, 1, 100, 1), (64, 6, LIMIT, 6), (64, 6, 2 * LIMIT, 3), (64, 6, 30, 1)],
)
def test_batches_run_beside_each_other_within_the_memory_of_the_largest_one(
    monkeypatch: pytest.MonkeyPatch, threads: int, batch: int, batch_tokens: int, at_once: int
) -> None:
    opened = Opened(monkeypatch, threads=threads, batch=batch, batch_tokens=batch_tokens)
    together = threading.Barrier(at_once, timeout=60)
    opened.engine.before = lambda _: together.wait()  # a batch ends only beside so many others
    rows = min(batch, batch_tokens // LIMIT)  # of each batch
    answers = executed(opened.model, [request([1] * LIMIT) for _ in range(20 * at_once * rows)])
    assert [sums(answer) for answer in answers] == [[LIMIT]] * (20 * at_once * rows)
    batches, tokens = opened.engine.most
    assert batches == at_once
    assert tokens <= rows_at_once(batch, LIMIT) * LIMIT
    opened.model.finalize()
