"""A command in a process of its own, and a peer that answers requests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peer import ANSWERS, Peer, PeerError
from benchmarks.processes import run, run_to_success

BIG = "x = bytearray(2**31); print(len(x)); import sys; print('said', file=sys.stderr)"


def test_what_a_process_said_and_held_is_told() -> None:
    done = run([sys.executable, "-c", BIG])
    assert (done.exit_code, done.output, done.errors) == (0, f"{2**31}\n", "said\n")
    assert done.peak_bytes > 2**31
    assert done.cpu_s > 0
    assert done.wall_s > 0


def test_a_small_process_is_hidden_by_what_the_caller_holds() -> None:
    with pytest.raises(SystemExit, match="is hidden behind this process's own"):
        run([sys.executable, "-S", "-c", ""])


def test_a_command_that_must_succeed_ends_the_run_with_its_words() -> None:
    with pytest.raises(SystemExit, match=r"(?s)why\n\nexit code 3: -c"):
        run_to_success([sys.executable, "-c", BIG.replace("'said'", "'why'") + "; sys.exit(3)"])


def test_a_peer_answers_until_it_ends_and_then_says_why() -> None:
    code = (
        ANSWERS
        + """
print("noise")
for number in requests():
    if number > 2:
        raise ValueError("too large")
    answer({"double": 2 * number}, bytes([number]))
"""
    )
    with Peer(Path(sys.executable), code) as peer:
        assert peer.ask(2) == {"double": 4}
        assert peer.read(1) == b"\x02"
        with pytest.raises(PeerError, match=r"^ValueError: too large$"):
            peer.ask(3)


def test_a_peer_that_cannot_start_says_why() -> None:
    with (
        Peer(Path(sys.executable), "import no_such_library") as peer,
        pytest.raises(PeerError, match="No module named 'no_such_library'"),
    ):
        peer.answer()
