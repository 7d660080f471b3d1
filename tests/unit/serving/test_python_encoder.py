"""``models/encoder.py``: what it answers, to whom, and when, with the backend's own module and the engine in Python."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, models

from exporter.bundle import Bundle
from exporter.errors import EngineError
from exporter.runtime.token_encoder import TOKENS_PER_ROW, TokenEncoder
from tests.support.process import wait_until
from tests.support.python_backend import Request, executed, install

LIMIT, BAD, BROKEN = 8, 90, 91


class Engine:
    """Answers with the sum of each row's ids. Refuses a batch with the id ``BAD``, and fails with ``BROKEN``.

    Attributes:
        shapes: Of the batches, in the order in which they began.
        before: Called with the width of a batch before it is encoded.
    """

    execution = "test"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.before: Callable[[int], object] = lambda _: None

    def run(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        self.shapes.append(ids.shape)
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


def request(*rows: list[int], answered: list[Request] | None = None) -> Request:
    """Return a request of rows, padded; it is put into ``answered`` when its answer is sent."""
    width = max(map(len, rows), default=1)
    ids = np.array([row + [0] * (width - len(row)) for row in rows], np.int64).reshape(len(rows), width)
    tensors = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    return Request(tensors, on_answer=lambda request: None if answered is None else answered.append(request))


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


def test_no_request_waits_for_ever_if_the_engine_breaks(opened: Opened) -> None:
    answers = executed(opened.model, [request([BROKEN] * 4), request([1]), request([2, 2])])
    assert [answer.error for answer in answers] == ["MemoryError: none left", None, None]
    assert answers[0].error.code == answers[0].error.INTERNAL


@pytest.mark.parametrize(
    ("threads", "batch", "at_once"), [(2, 4, 2), (64, 1, TOKENS_PER_ROW // LIMIT), (64, 4, 4 * TOKENS_PER_ROW // LIMIT)]
)
def test_batches_run_beside_each_other_within_the_memory_of_the_largest_one(
    monkeypatch: pytest.MonkeyPatch, threads: int, batch: int, at_once: int
) -> None:
    opened = Opened(monkeypatch, threads=threads, batch=batch, batch_tokens=LIMIT)
    together = threading.Barrier(at_once, timeout=60)
    opened.engine.before = lambda _: together.wait()  # a batch ends only beside so many others
    answers = executed(opened.model, [request([1] * LIMIT) for _ in range(2 * at_once)])
    assert [sums(answer) for answer in answers] == [[LIMIT]] * (2 * at_once)
    more, met = threading.Barrier(at_once + 1, timeout=1), list[int]()

    def wait_for_more(_: int) -> None:
        with suppress(threading.BrokenBarrierError):
            met.append(more.wait())

    opened.engine.before = wait_for_more
    executed(opened.model, [request([1] * LIMIT) for _ in range(2 * at_once)])
    assert not met, "more batches ran beside each other than the memory was measured for"
    opened.model.finalize()
