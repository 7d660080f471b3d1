"""What shares a request or a batch: every text must keep its own vector, in its own place.

TEI's issue 882 is such a fault: under concurrent requests, texts got other vectors than alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exporter.runtime.vector_types import Vectors
from exporter.serving.concurrency import ask_at_once, compare_answers, nearest_texts, pairs
from exporter.serving.embeddings.remote import EmbeddingServer
from exporter.validator import Check

ONE_TEXT = "the server takes one text in a request"
ROWS = 8  # of a request that is sent beside single ones
FEWEST_EQUAL = 4


@dataclass(frozen=True)
class Load:
    """How many clients ask at once.

    Attributes:
        clients: At the same time.
        requests: Of all checks together.
        bound: Largest relative difference of an answer to that for the same text alone.
    """

    clients: int
    requests: int
    bound: float


def check_batches(server: EmbeddingServer, texts: Sequence[str], bound: float) -> tuple[Check, Check, Vectors]:
    """Ask for texts one by one, as many in one request as it may have, and the same in the other order.

    Args:
        server: To ask.
        texts: Different ones, at least two.
        bound: Largest relative difference.

    Returns:
        The checks ``"requests"`` and ``"order"``, and the vectors of each text alone.
    """
    alone = np.concatenate([server.encode_batch([text]) for text in texts])
    rows = min(server.texts_per_request, len(texts))
    if rows < 2:
        return Check.skipped("requests", ONE_TEXT), Check.skipped("order", ONE_TEXT), alone
    together, reversed_order = server.encode(texts), server.encode(texts[::-1])[::-1]
    told = f"{len(texts)} texts in {'one request' if rows == len(texts) else f'requests of {rows}'}, and in"
    return (
        Check("requests", f"{told} {len(texts)} requests", _differences(together, alone, "in one request", bound)),
        Check("order", f"{told} the other order", _differences(reversed_order, alone, "in the other order", bound)),
        alone,
    )


def check_concurrency(
    server: EmbeddingServer, texts: Sequence[str], tokens: Sequence[int], load: Load
) -> tuple[Check, ...]:
    """Have many clients ask at once: texts of one length, of all lengths, and requests of several texts beside those.

    Every answer is compared with that for the same text alone, which is asked for afterwards: a cache of the server
    would answer the load. Such a cache may also keep a wrong answer and repeat it for the text alone. So call this
    before anything else asks for these texts, and have the gate ask for them afterwards.

    Args:
        server: To ask.
        texts: Ordinary sentences.
        tokens: How many each has.
        load: How many clients and requests.
    """
    count = load.requests // 3
    if min(load.clients, count) < 2:
        return (Check.skipped("concurrency", f"{load.clients} clients and {load.requests} requests are too few"),)
    equal = _of_equal_length(texts, tokens)
    mixed = _of_all_lengths(texts, tokens)
    checks = []
    if len(equal) < FEWEST_EQUAL:
        checks.append(Check.skipped("concurrency, equal lengths", "no four probes have the same length"))
    else:
        checks.append(_under_load(server, "concurrency, equal lengths", _singles(equal, count), load))
    checks.append(_under_load(server, "concurrency, unequal lengths", _singles(mixed, count), load))
    rows = min(ROWS, server.texts_per_request)
    if rows < 2:
        return (*checks, Check.skipped("concurrency, batches", ONE_TEXT))
    beside = [
        [single] if number % 2 else [f"{text} {number}.{row}" for row, text in enumerate(_cycled(mixed, number, rows))]
        for number, single in enumerate(itertools.islice(pairs(mixed[::-1]), count))
    ]
    return (*checks, _under_load(server, "concurrency, batches", beside, load))


def _under_load(server: EmbeddingServer, name: str, requests: Sequence[Sequence[str]], load: Load) -> Check:
    clients = min(load.clients, len(requests))
    answers, lost = ask_at_once(requests, clients, lambda _: nullcontext(server))
    texts = list(dict.fromkeys(text for request in requests for text in request))
    place = {text: number for number, text in enumerate(texts)}
    alone = np.concatenate([server.encode_batch([text]) for text in texts]).astype(np.float64)
    answered = sorted(answers)
    failures = [f"{len(lost)} of {len(requests)} requests were lost, the first one: {lost[0]}"] if lost else []
    deviation = float("nan")
    if answered:
        got = np.concatenate([answers[number] for number in answered]).astype(np.float64)
        numbers = [place[text] for number in answered for text in requests[number]]
        deviation, swapped = compare_answers(got, alone, numbers)
        if swapped:
            requests_of = [requests[number] for number in answered for _ in requests[number]]
            told = _whose(nearest_texts(got, alone), numbers, texts, requests_of)
            failures.append(f"{swapped} of {len(got)} answers belong to another text{told}")
        elif not deviation <= load.bound:
            failures.append(
                f"an answer differs by {deviation:.2g} from that for the same text alone, allowed {load.bound:.2g}: "
                "vectors depend on which requests share a batch"
            )
    told = f"{clients} clients, {len(requests)} requests with {len(texts)} texts: {len(lost)} lost"
    return Check(name, f"{told}, deviation {deviation:.2g} (bound {load.bound:.2g})", tuple(failures))


def _whose(
    nearest: npt.NDArray[np.int64], numbers: Sequence[int], texts: Sequence[str], requests_of: Sequence[Sequence[str]]
) -> str:
    """Return whether answers that are not of their own text belong to another request."""
    wrong = [row for row, number in enumerate(numbers) if nearest[row] != number]
    inside = sum(texts[nearest[row]] in requests_of[row] for row in wrong)
    if 2 * inside > len(wrong):  # not all: long texts that are truncated to the same tokens tie
        return " of the same request"
    return ": requests that come at the same time get each other's answers"


def _differences(got: Vectors, alone: Vectors, how: str, bound: float) -> tuple[str, ...]:
    a, b = got.astype(np.float64), alone.astype(np.float64)
    deviation, swapped = compare_answers(a, b, range(len(b)))
    if swapped:
        nearest = nearest_texts(a, b)
        wrong = [row for row in range(len(b)) if nearest[row] != row]
        shown = ", ".join(f"text {row} has that of text {nearest[row]}" for row in wrong[:4])
        return (f"{swapped} of {len(b)} answers {how} belong to another text: {shown}",)
    if deviation <= bound:
        return ()
    return (
        f"a text {how} and alone differ by {deviation:.2g}, allowed {bound:.2g}: a vector depends on its batch, as "
        "where padding is not masked",
    )


def _of_equal_length(texts: Sequence[str], tokens: Sequence[int]) -> list[str]:
    """Return the texts of the most common length."""
    lengths, counts = np.unique(np.array(tokens), return_counts=True)
    most = int(lengths[counts.argmax()])
    return [text for text, count in zip(texts, tokens, strict=True) if count == most]


def _of_all_lengths(texts: Sequence[str], tokens: Sequence[int]) -> list[str]:
    """Return 64 texts, a short one beside a long one."""
    order = np.argsort(np.array(tokens), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(64, len(order))).astype(int)].tolist()
    half = len(chosen) // 2
    mixed = [row for both in zip(chosen[:half], chosen[::-1][:half], strict=True) for row in both]
    return [texts[row] for row in mixed]


def _singles(texts: Sequence[str], count: int) -> list[list[str]]:
    """Return ``count`` requests with one text each: first the texts themselves, then texts of two."""
    return [[text] for text in itertools.islice(itertools.chain(texts, pairs(texts)), count)]


def _cycled(texts: Sequence[str], start: int, count: int) -> list[str]:
    return [texts[(start + row) % len(texts)] for row in range(count)]
