"""A command in a process of its own, and a peer that answers requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peer import ANSWERS, Peer, PeerError
from benchmarks.results import ROOT

SMALL, BIG = 2**26, 2**28  # bytes
HOLDS = "x = bytearray({bytes}); print(len(x)); import sys; print('why', file=sys.stderr); sys.exit({status})"
# The peak of a caller counts too, and this process may hold gigabytes: the caller is a new one.
CALLER = """
import dataclasses, json, sys
held = bytearray({held})
from benchmarks.processes import run, run_to_success
print(json.dumps(dataclasses.asdict({function}([sys.executable, "-c", {code!r}]))))
"""


def call(function: str, code: str, held: int = 0) -> subprocess.CompletedProcess[str]:
    """Call a function in a process that holds so many bytes."""
    caller = CALLER.format(held=held, function=function, code=code)
    return subprocess.run([sys.executable, "-c", caller], check=False, cwd=ROOT, capture_output=True, text=True)


def test_what_a_process_said_and_held_is_told() -> None:
    done = json.loads(call("run", HOLDS.format(bytes=BIG, status=3)).stdout)
    assert (done["exit_code"], done["output"], done["errors"]) == (3, f"{BIG}\n", "why\n")
    assert BIG < done["peak_bytes"] < 2 * BIG
    assert done["cpu_s"] > 0
    assert done["wall_s"] > 0


def test_a_small_process_is_hidden_by_what_the_caller_holds() -> None:
    done = call("run", HOLDS.format(bytes=SMALL, status=0), held=BIG)
    assert done.returncode == 1
    assert "is hidden behind this process's own" in done.stderr


def test_a_caller_that_was_started_by_a_large_process_hides_nothing() -> None:
    large = np.ones(2 * BIG, np.uint8)
    done = json.loads(call("run", HOLDS.format(bytes=BIG, status=0)).stdout)
    assert BIG < done["peak_bytes"] < len(large)


def test_a_command_that_must_succeed_ends_the_run_with_its_words() -> None:
    done = call("run_to_success", HOLDS.format(bytes=BIG, status=3))
    assert done.returncode == 1
    assert done.stderr.startswith("why\n\nexit code 3: -c")
    assert call("run_to_success", HOLDS.format(bytes=BIG, status=0)).returncode == 0


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


def test_a_request_to_a_peer_that_has_ended_says_why() -> None:
    code = "import os, sys; os.close(1); print('ValueError: no weights', file=sys.stderr); sys.exit(1)"
    with Peer(Path(sys.executable), code) as peer:
        with pytest.raises(PeerError, match=r"^ValueError: no weights$"):
            peer.answer()  # it has ended
        with pytest.raises(PeerError, match=r"^ValueError: no weights$"):
            peer.ask("x" * 2**20)


@pytest.mark.parametrize(("written", "read"), [("answer([2, 2], bytes(15))", 16), ("answers.write(b'{')", 0)])
def test_an_answer_that_breaks_off_is_an_error_of_the_peer(written: str, read: int) -> None:
    code = f"{ANSWERS}{written}\nanswers.flush()\nos.kill(os.getpid(), 9)"
    with Peer(Path(sys.executable), code) as peer, pytest.raises(PeerError, match=r"^killed by signal 9$"):  # noqa: PT012
        peer.answer()
        peer.read(read)
