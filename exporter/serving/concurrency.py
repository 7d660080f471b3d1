"""Many clients at once: who asks for what, and whether each answer is that of its own text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from exporter.errors import ServerError
from exporter.recipe import Gate
from exporter.runtime.vector_types import Vectors
from exporter.targets import Precision

DEFAULT_DEVIATION = 1e-2
"""Largest relative difference of an answer under load, where the gate states none."""


class Asked(Protocol):
    """What a client asks: a server."""

    def encode_batch(self, sentences: Sequence[str], /) -> Vectors:
        """Return (len(sentences), dimension) float32, asked for in one request."""
        ...


Connect = Callable[[int], AbstractContextManager[Asked]]
"""The number of a client to what it asks."""


def load_bound(gate: Gate, precision: Precision) -> float:
    """Return the largest relative difference of an answer under load to the same sentence asked for without."""
    if precision.scales_from_batch:
        # Scales come from the batch, so answers differ by what shares it: by no more than the gate lets two vectors
        # part that are each within it (an angle a from the reference is a distance of 2 sin(a/2) = sqrt(2 - 2 cos a)).
        return 2 * float(np.sqrt(2 - 2 * gate.min_cosine))
    return gate.max_batch_deviation or DEFAULT_DEVIATION


def pairs(texts: Sequence[str]) -> Iterator[str]:
    """Yield different texts of two: the first with the second, then with the third, and so on."""
    for step in range(1, len(texts)):
        for number in range(len(texts)):
            yield f"{texts[number]} {texts[(number + step) % len(texts)]}"


def ask_at_once(
    requests: Sequence[Sequence[str]], clients: int, connect: Connect
) -> tuple[dict[int, Vectors], list[str]]:
    """Have many clients send requests, each the next one as soon as it has its answer.

    Args:
        requests: The texts of each.
        clients: At the same time.
        connect: To what a client asks.

    Returns:
        The vectors of every request that was answered, by number, and the errors of the others.
    """
    left, turn = iter(range(len(requests))), threading.Lock()
    answers: dict[int, Vectors] = {}
    lost: list[str] = []

    def client(number: int) -> None:
        with connect(number) as server:
            while True:
                with turn:
                    mine = next(left, None)
                if mine is None:
                    return
                try:
                    answers[mine] = server.encode_batch(requests[mine])
                except ServerError as error:
                    lost.append(error.message)

    with ThreadPoolExecutor(clients) as pool:
        try:
            list(pool.map(client, range(clients)))
        except BaseException:  # a signal: what was not sent yet must not be waited for
            with turn:
                list(left)
            raise
    return answers, lost


@np.errstate(invalid="ignore", divide="ignore")  # a server may answer anything; what is no number passes no bound
def compare_answers(
    got: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], numbers: Sequence[int]
) -> tuple[float, int]:
    """Return the largest relative difference of answers, and how many are nearer to another text's vector.

    Args:
        got: (answers, dimension).
        expected: (texts, dimension), what each text is answered with alone.
        numbers: Which text each answer belongs to.
    """
    if not len(got):
        return float("nan"), 0
    own = expected[list(numbers)]
    deviation = np.linalg.norm(got - own, axis=1) / np.linalg.norm(own, axis=1)
    swapped = sum(  # what is no number belongs to nobody
        np.isfinite(got[row]).all() and np.linalg.norm(expected[near] - own[row]) > 1e-6 * np.linalg.norm(own[row])
        for row, near in enumerate(nearest_texts(got, expected))
    )
    return float(deviation.max()), int(swapped)


@np.errstate(invalid="ignore")
def nearest_texts(got: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return (answers,) the number of the text whose vector is nearest to each answer."""
    # (a - b)^2 = a^2 - 2ab + b^2, of which a^2 is the same along a row.
    distance = (expected**2).sum(axis=1) - 2 * got @ expected.T
    nearest: npt.NDArray[np.int64] = distance.argmin(axis=1)
    return nearest
