"""Contenders in turns: every round, each one encodes the same sentences, in an order that rotates."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.peer import Peer, PeerError
from benchmarks.peer_contenders import Contender

PAUSE_S = 0.1  # between two turns: the threads of some libraries spin for a while after the last batch
LEAST_ROUNDS, MOST_ROUNDS = 3, 9


class Worker(Protocol):
    """Encodes sentences and says how long it took."""

    def seconds(self, texts: Sequence[str], batch_size: int) -> float:
        """Return the seconds that all texts took, in batches."""

    def seconds_alone(self, texts: Sequence[str]) -> list[float]:
        """Return the seconds that each text took, in a batch of its own."""


class PeerWorker:
    """A worker in a process of its own."""

    def __init__(self, peer: Peer) -> None:
        """Take a peer that has said that it is ready."""
        self._peer = peer

    def seconds(self, texts: Sequence[str], batch_size: int) -> float:
        """Return the seconds that all texts took, in batches, on the peer's clock."""
        (seconds,) = self._peer.ask(_request(texts, batch_size))["seconds"]
        return float(seconds)

    def seconds_alone(self, texts: Sequence[str]) -> list[float]:
        """Return the seconds that each text took, in a batch of its own, on the peer's clock."""
        return [float(value) for value in self._peer.ask(_request(texts, 1, alone=True))["seconds"]]

    def vectors(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
        """Return (sentences, dimension) float32."""
        shape = self._peer.ask(_request(texts, batch_size, vectors=True))["shape"]
        return np.frombuffer(self._peer.read(4 * math.prod(shape)), np.float32).reshape(shape)


def _request(texts: Sequence[str], batch_size: int, *, alone: bool = False, vectors: bool = False) -> dict[str, object]:
    return {"texts": list(texts), "batch_size": batch_size, "alone": alone, "vectors": vectors}


@dataclass
class Times:
    """What one contender took.

    Attributes:
        batches_s: Seconds for all sentences, by round.
        alone_s: Seconds of single sentences, by round.
    """

    batches_s: list[float] = field(default_factory=list)
    alone_s: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Turns:
    """What rounds of one text have found.

    Attributes:
        times: By name, those that ended all rounds.
        failed: By name, why a worker ended before.
        loads: Load average of the last minute, at the end of each round.
    """

    times: dict[str, Times]
    failed: dict[str, str]
    loads: list[float]


def take_turns(
    workers: Mapping[str, Worker],
    texts: Sequence[str],
    alone: Sequence[str],
    *,
    batch_size: int,
    budget_s: float,
    pause_s: float = PAUSE_S,
    clock: Callable[[], float] = time.perf_counter,
    tell: Callable[[str], None] = lambda _: None,
) -> Turns:
    """Measure workers in rounds, after one that is not counted.

    Args:
        workers: By name; one that fails is left out from then on.
        texts: What each encodes in each round, in batches.
        alone: What each then encodes, one by one.
        batch_size: Rows of a batch.
        budget_s: For the counted rounds: as many as the first one says will fit, within ``LEAST_ROUNDS`` and
            ``MOST_ROUNDS``.
        pause_s: Between two turns.
        clock: Returns seconds.
        tell: Called with a sentence about each round.
    """
    times = {name: Times() for name in workers}
    failed: dict[str, str] = {}
    loads: list[float] = []
    rounds, number = LEAST_ROUNDS, 0
    while number <= rounds:
        began = clock()
        for name in rotated([name for name in workers if name not in failed], number):
            try:
                batches_s = workers[name].seconds(texts, batch_size)
                alone_s = workers[name].seconds_alone(alone)
            except PeerError as error:
                failed[name] = str(error)
                continue
            if number:
                times[name].batches_s.append(batches_s)
                times[name].alone_s.append(alone_s)
            time.sleep(pause_s)
        if number == 0:
            fitting = int(budget_s / max(clock() - began, 1e-9))
            rounds = min(max(fitting, LEAST_ROUNDS), MOST_ROUNDS)
        else:
            loads.append(round(os.getloadavg()[0], 2))
        tell(f"round {number} of {rounds} took {clock() - began:.0f} s")
        number += 1
    return Turns({name: found for name, found in times.items() if name not in failed}, failed, loads)


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Return the names in the order of a round: each round begins with another one."""
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]


def groups(contenders: Sequence[Contender], weight_bytes: int, memory_bytes: int) -> list[list[Contender]]:
    """Divide contenders into groups that fit into memory together, the first one in each.

    Each group has rounds of its own. Ratios to the first contender within a round can be compared between groups.

    Args:
        contenders: In order; the first is what the others are relative to.
        weight_bytes: Of the float32 weights.
        memory_bytes: That the workers of a group may hold.
    """
    reference, *others = contenders
    found = [[reference]]
    left = memory_bytes - memory_of(reference, weight_bytes)
    for contender in others:
        needed = memory_of(contender, weight_bytes)
        if needed > left and len(found[-1]) > 1:
            found.append([reference])
            left = memory_bytes - memory_of(reference, weight_bytes)
        found[-1].append(contender)
        left -= needed
    return found


def memory_of(contender: Contender, weight_bytes: int) -> int:
    """Return how much memory a worker may hold: an estimate, from above, of weights and of one packed copy of them."""
    copies = {"fp32": 2.0, "16 bit": 2.0, "int8": 1.0}[contender.kind]
    libraries = 700 * 2**20  # torch, transformers and their engines
    return int(copies * weight_bytes) + libraries
