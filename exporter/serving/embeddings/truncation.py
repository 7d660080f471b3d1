"""Truncation: a server must read as many tokens of a text as the checkpoint does, and no more."""

from __future__ import annotations

import numpy as np

from exporter.recipe import Gate
from exporter.runtime.vector_types import Vectors
from exporter.serving.embeddings.remote import EmbeddingServer
from exporter.serving.expected import Expected
from exporter.validator import Check
from exporter.validator.parity import row_cosine

_EXACTLY, _FAR = "edge: exactly max_seq_length", "edge: far beyond max_seq_length"


def check_truncation(server: EmbeddingServer, expected: Expected, gate: Gate, bound: float) -> Check:
    """Ask for texts just below, at and above the longest length, each alone; the check is called ``"truncation"``.

    Where one differs, the server is asked for less and less of it, to find out how much it reads.

    Args:
        server: To ask.
        expected: The probes and their vectors.
        gate: Bounds of single probes.
        bound: Largest relative difference of a text in two requests.
    """
    reference = expected.reference
    longest = expected.facts.max_seq_length
    rows = {probe.kind: row for row, probe in enumerate(reference.probes) if probe.kind.endswith(" max_seq_length")}
    stated = None if server.info is None else server.info.max_input_length
    said = "" if stated is None else f"; the server states {stated} tokens"
    kinds = ", ".join(kind.removeprefix("edge: ").removesuffix(" max_seq_length") for kind in rows)
    coverage = f"texts of {longest} tokens ({kinds}){said}"
    if not rows:
        return Check.skipped("truncation", f"no probe has about {longest} tokens or more")
    wrong = [kind for kind, row in rows.items() if not _agrees(server, expected, row, gate)]
    if not wrong:
        return Check("truncation", coverage)
    failures = [f"texts of {longest} tokens differ: {', '.join(kind.removeprefix('edge: ') for kind in wrong)}"]
    if stated is not None and stated < longest:
        failures.append(f"the server states max_input_length {stated} in /info, and the checkpoint reads {longest}")
    failures.append(_where(server, expected, rows, wrong, bound))
    return Check("truncation", coverage, tuple(failures))


def _agrees(server: EmbeddingServer, expected: Expected, row: int, gate: Gate) -> bool:
    """Whether the direction of a probe's vector is right: its length is judged elsewhere."""
    wanted = expected.reference.vectors[[row]].astype(np.float64)
    found = server.encode_batch([expected.reference.probes[row].text]).astype(np.float64)
    cosine = float(row_cosine(wanted, found)[0])
    distance = np.sqrt(max(2 - 2 * cosine, 0.0))
    within = gate.max_relative_error is None or distance <= gate.max_widening * gate.max_relative_error
    return bool(within and cosine >= gate.min_cosine)


def _where(server: EmbeddingServer, expected: Expected, rows: dict[str, int], wrong: list[str], bound: float) -> str:
    """Return how much of a text the server reads, in words."""
    longest = expected.facts.max_seq_length
    exactly = rows.get(_EXACTLY)
    kind = _EXACTLY if exactly is not None else wrong[-1]
    words = expected.reference.probes[rows[kind]].text.split()
    read = _words_read(server, words, bound)
    if kind == _EXACTLY and read < 0.97 * len(words):
        told = f"of a text of {longest} tokens the server reads only the first {read} of {len(words)} words"
        return f"{told}: it truncates too early"
    if _FAR in wrong and _EXACTLY in rows and _EXACTLY not in wrong:
        far = expected.reference.probes[rows[_FAR]].text.split()
        read = _words_read(server, far, bound)
        whole = " (all of it: it does not truncate)" if read == len(far) else ""
        return (
            f"of a text of {len(far)} words the server reads {read}{whole}, and the checkpoint {longest} tokens, which "
            f"are about {len(words)} words"
        )
    return "the server reads these texts to their end: something else than truncation differs"


def _words_read(server: EmbeddingServer, words: list[str], bound: float) -> int:
    """Return the smallest number of words from the start that has the vector of all of them."""
    whole = server.encode_batch([" ".join(words)])
    low, high = 1, len(words)
    while low < high:
        middle = (low + high) // 2
        if _same(server.encode_batch([" ".join(words[:middle])]), whole, bound):
            high = middle
        else:
            low = middle + 1
    return high


def _same(first: Vectors, second: Vectors, bound: float) -> bool:
    a, b = first.astype(np.float64), second.astype(np.float64)
    return bool(np.linalg.norm(a - b) <= bound * np.linalg.norm(b))
