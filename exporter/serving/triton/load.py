"""Many clients at once: every answer is compared with the sentence of its request, and the server's counters are read.

What the server counted meanwhile tells whether requests shared batches: inferences over executions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.serving.concurrency import ask_at_once, compare_answers
from exporter.serving.triton.remote import Server
from exporter.validator import Check


@dataclass(frozen=True)
class Load:
    """What came of many clients at once.

    Attributes:
        clients: At the same time.
        requests: Sent, one sentence each.
        lost: Requests that got an error, and what the first of them said.
        swapped: Answers closer to another sentence's vector than to their own.
        max_deviation: Largest relative difference to the same sentence asked for without load.
        bound: What that may be.
        inferences: Sentences that the encoder ran meanwhile.
        executions: Batches it ran them in.
    """

    clients: int
    requests: int
    lost: tuple[str, ...]
    swapped: int
    max_deviation: float
    bound: float
    inferences: int
    executions: int

    @property
    def batching(self) -> float:
        """Sentences per batch."""
        return self.inferences / self.executions if self.executions else 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost or swapped, and answers under load equal those without it.

        How many requests share a batch depends on what else the machine does. It is reported, not judged.
        """
        within = self.max_deviation <= self.bound  # a NaN never is
        return not self.lost and not self.swapped and within

    @property
    def note(self) -> str | None:
        """What to look into where no two requests of several clients shared a batch."""
        if self.clients == 1 or not self.executions or self.batching > 1:
            return None
        return (
            f"no two of {self.requests} requests by {self.clients} clients shared a batch; if more requests do not "
            "either, look at dynamic_batching in the model's config.pbtxt"
        )

    def check(self) -> Check:
        """Return the result as a check, for reports."""
        failures = []
        if self.lost:
            failures.append(f"{len(self.lost)} requests were lost, the first one: {self.lost[0]}")
        if self.swapped:
            failures.append(f"{self.swapped} answers belong to another sentence")
        if not self.max_deviation <= self.bound:
            failures.append(f"an answer under load differs by {self.max_deviation:.2g}, allowed {self.bound:.2g}")
        return Check("load", f"{self.clients} clients, {self.requests} requests: {self.told}", tuple(failures))

    @property
    def told(self) -> str:
        """What came of it, in one line."""
        return (
            f"{len(self.lost)} lost, {self.swapped} swapped, deviation {self.max_deviation:.2g} (bound "
            f"{self.bound:.2g}), {self.inferences} inferences in {self.executions} executions: "
            f"{self.batching:.2f} per batch"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {
            "clients": self.clients,
            "requests": self.requests,
            "lost": len(self.lost),
            "first_error": self.lost[0] if self.lost else None,
            "swapped": self.swapped,
            "max_deviation": self.max_deviation if np.isfinite(self.max_deviation) else None,
            "bound": self.bound,
            "inferences": self.inferences,
            "executions": self.executions,
            "batching": round(self.batching, 3),
            "note": self.note,
            "passed": self.passed,
        }


def load(server: Server, texts: Sequence[str], *, counted: int, clients: int, bound: float) -> Load:
    """Have many clients ask for one sentence a request, and hold each answer against its own sentence.

    Args:
        server: To send the load to.
        texts: One for each request.
        counted: How far the server has counted when the requests before these are all counted.
        clients: At the same time.
        bound: See ``Load``.

    Raises:
        ServerError: The server cannot be reached, or is too slow, or its answer is unusable: before or after the load.
    """
    with server.connect(server.where[0]) as remote:
        before = remote.counts(server.encoder, counted)
        answers, lost = ask_at_once([[text] for text in texts], clients, server.for_client)
        after = remote.counts(server.encoder, before[0] + len(answers))
        expected = remote.encode(texts)  # not before: a response cache would answer the load
    answered = sorted(answers)
    got = np.array([answers[number] for number in answered], dtype=np.float64).reshape(len(answered), -1)
    deviation, swapped = compare_answers(got, np.asarray(expected, dtype=np.float64), answered)
    return Load(
        clients=clients,
        requests=len(texts),
        lost=tuple(lost),
        swapped=swapped,
        max_deviation=deviation,
        bound=bound,
        inferences=after[0] - before[0],
        executions=after[1] - before[1],
    )
