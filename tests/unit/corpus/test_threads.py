"""A worker's tokenizer and its readers keep to its threads."""

from __future__ import annotations

import os
import sys

import pyarrow as pa
import pytest

from exporter.corpus.worker import bounded_threads
from exporter.machine import cores
from tests.support.process import run_program

PROGRAM = """
import os, sys
from contextlib import nullcontext
from tokenizers import Tokenizer, models
from exporter.corpus.worker import bounded_threads

def count():
    return len(os.listdir("/proc/self/task"))

threads = int(sys.argv[1])
with bounded_threads(threads) if threads else nullcontext():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    before = count()
    tokenizer.encode_batch_fast(["a"] * 10_000)
    print(count() - before)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")  # noqa: PTH112
def test_the_tokenizer_starts_so_many_threads() -> None:
    """In a process of its own: it starts them once."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAYON_", "TOKENIZERS_"))}

    def started(threads: int) -> int:
        done = run_program([sys.executable, "-c", PROGRAM, str(threads)], environment=environment)
        assert done.status == 0, done.stderr
        return int(done.stdout)

    assert started(cores() + 1) == cores() + 1
    assert started(0) == cores(), "nothing else bounds them, or this test could not fail"


def test_pyarrow_and_the_environment_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    before = pa.cpu_count(), pa.io_thread_count()
    wanted = before[0] + 1
    with bounded_threads(wanted):
        assert (pa.cpu_count(), pa.io_thread_count()) == (wanted, wanted)
        assert os.environ["RAYON_NUM_THREADS"] == str(wanted)
    assert (pa.cpu_count(), pa.io_thread_count()) == before
    assert "RAYON_NUM_THREADS" not in os.environ


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "7")
    with bounded_threads(2):
        assert os.environ["RAYON_NUM_THREADS"] == "7"
    assert os.environ["RAYON_NUM_THREADS"] == "7"
