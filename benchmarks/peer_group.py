"""One group of `benchmarks.peers`: contenders that are in memory together, loaded, compared and timed in turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.operations import Shape
from benchmarks.peer import PeerError
from benchmarks.peer_contenders import REFERENCE, Contender, Step, start
from benchmarks.peer_programs import Job
from benchmarks.peer_report import summarized
from benchmarks.peer_texts import BATCH, Text
from benchmarks.peer_turns import PeerWorker, take_turns
from benchmarks.sentences import min_cosines

Answer = TypeVar("Answer")


def start_workers(
    part: Sequence[Contender],
    job_of: Callable[[Contender | Step], Job],
    work: Path,
    refused: dict[str, str],
    stack: ExitStack,
) -> tuple[dict[str, PeerWorker], dict[str, dict[str, Any]]]:
    """Start the processes of a group, one after the other. Those that cannot load the model are added to ``refused``.

    Returns:
        The workers, and their first answers: the versions of their libraries, and facts of what they have loaded.

    Raises:
        SystemExit: The reference is one of those that cannot.
    """
    workers: dict[str, PeerWorker] = {}
    facts: dict[str, dict[str, Any]] = {}
    for contender in part:
        print(f"{contender.name}: loading", flush=True)
        try:
            peer = stack.enter_context(start(contender, "serve", job_of(contender), work))
            facts[contender.name] = peer.answer()
        except PeerError as error:
            _remove({contender.name: str(error)}, workers, refused)
            continue
        workers[contender.name] = PeerWorker(peer)
    return workers, facts


def _remove(failed: Mapping[str, str], workers: dict[str, PeerWorker], refused: dict[str, str]) -> None:
    """Move workers that failed from ``workers`` to ``refused``.

    Args:
        failed: Why, by name.
        workers: That can still be measured.
        refused: Why others cannot, by name.

    Raises:
        SystemExit: One of them is the reference, without which nothing can be compared.
    """
    refused |= failed
    for name, why in failed.items():
        workers.pop(name, None)
        print(f"{name}: {why}", flush=True)
    if REFERENCE in failed:
        sys.exit(f"{REFERENCE} cannot be measured: {failed[REFERENCE]}")


def measure_group(
    workers: dict[str, PeerWorker],
    texts: Mapping[str, Text],
    shape: Shape,
    refused: dict[str, str],
    block_s: float,
    budget_s: float,
) -> dict[str, dict[str, Any]]:
    """Measure workers in turns on each text. A worker that fails is removed, and added to ``refused``.

    Returns:
        The rows by name: by text, the figures.

    Raises:
        SystemExit: The reference failed.
    """
    rows: dict[str, dict[str, Any]] = {}
    for kind, text in texts.items():
        print(f"{kind} texts", flush=True)
        _fit(text, workers, refused, block_s)
        for name, figures in _measure_text(workers, text, shape, refused, budget_s).items():
            rows.setdefault(name, {})[kind] = figures
    return {name: row for name, row in rows.items() if name in workers}


def _fit(text: Text, workers: dict[str, PeerWorker], refused: dict[str, str], block_s: float) -> None:
    """Shorten the block to what the reference encodes in about so many seconds, unless that is done."""
    if not text.fitted:
        first = _ask([REFERENCE], lambda worker: worker.seconds(text.all[:BATCH], BATCH), workers, refused)
        text.shorten(min(max(round(block_s / first[REFERENCE]), 1), len(text.all) // BATCH or 1))


def _measure_text(
    workers: dict[str, PeerWorker], text: Text, shape: Shape, refused: dict[str, str], budget_s: float
) -> dict[str, dict[str, Any]]:
    """Return the figures of one text by name, of the workers that did not fail."""
    vectors = _ask(list(workers), lambda worker: worker.vectors(text.block, BATCH), workers, refused)
    cosines = min_cosines(vectors, REFERENCE)
    turns = take_turns(
        workers,
        text.block,
        text.alone,
        batch_size=BATCH,
        budget_s=budget_s,
        tell=lambda progress: print(progress, flush=True),
    )
    _remove(turns.failed, workers, refused)
    work = sum(shape.operations(tokens) for tokens in text.tokens)
    first = turns.times[REFERENCE]
    return {
        name: {
            **summarized(times, first, len(text.block), work),
            "min_cosine": cosines[name],
            "loads": turns.loads,
        }
        for name, times in turns.times.items()
    }


def _ask(
    names: Sequence[str],
    question: Callable[[PeerWorker], Answer],
    workers: dict[str, PeerWorker],
    refused: dict[str, str],
) -> dict[str, Answer]:
    """Return the answers of some workers by name. A worker that fails is removed, and added to ``refused``."""
    answers: dict[str, Answer] = {}
    for name in names:
        try:
            answers[name] = question(workers[name])
        except PeerError as error:
            _remove({name: str(error)}, workers, refused)
    return answers
