"""Mutants in, outcomes out: each runs the unit tests in a fork of a process that has imported all libraries already.

Importing torch and its kin costs ten seconds, and none of them is mutated. Nothing of ``exporter`` is imported before
the fork, so a mutant is imported as any module is, only from other text, and no file is changed.
"""

from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import hypothesis
import pytest

from tests.mutation.mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = "KORSBERT_TEST_CACHE"  # see tests/conftest.py

# What the tests import besides exporter. Nothing of it starts threads on import, which a fork would lose.
_LIBRARIES = (
    "huggingface_hub",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "optimum.utils",
    "pydantic",
    "rich.progress",
    "safetensors.torch",
    "sentence_transformers",
    "sentence_transformers.models",
    "tokenizers",
    "torch.onnx._internal.exporter._core",
    "transformers",
    "transformers.utils.logging",
    "xdist",
)
_WALL_S = 600  # a mutant that sleeps for ever uses no processor time


@dataclass(frozen=True)
class Outcome:
    """What became of a run of the tests.

    Attributes:
        status: ``"survived"``, ``"killed"`` or ``"timeout"``: more than ten times what the tests take.
        by: The first test that failed, or what was raised before any ran.
        seconds: Of processor time.
    """

    status: str
    by: str
    seconds: float


def warm_up() -> None:
    """Import the libraries, and settle what Hypothesis does: always the same examples, and no search for smaller."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    hypothesis.settings.register_profile(
        "mutation",
        database=None,
        deadline=None,
        derandomize=True,
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    assert not any(name.partition(".")[0] == "exporter" for name in sys.modules), "exporter was imported too early"
    gc.freeze()  # a collection would touch, and so copy, all of the parent's memory


@dataclass(frozen=True)
class Tests:
    """The tests of one file.

    Attributes:
        files: The likeliest to fail first: a run ends with the first failure.
        scratch: A folder for what they write.
        limit_s: Processor seconds after which a run counts as endless.
    """

    files: tuple[Path, ...]
    scratch: Path
    limit_s: float


def run(tests: Tests, mutant: Mutant | None) -> Outcome:
    """Run tests in a process of their own, with a mutant in the place of its module, or with the code as it is."""
    outcome = _Started(tests, mutant, "run").outcome(wait=True)
    assert outcome is not None
    return outcome


def run_all(tests: Tests, mutants: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, Outcome]]:
    """Yield the outcome of every mutant, ``jobs`` at a time, in the order in which they end."""
    left = list(reversed(mutants))
    running: dict[str, _Started] = {}
    while left or running:
        for slot in map(str, range(jobs)):
            if left and slot not in running:
                running[slot] = _Started(tests, left.pop(), slot)
        for slot, started in list(running.items()):
            outcome = started.outcome()
            if outcome is not None:
                del running[slot]
                assert started.mutant is not None
                yield started.mutant, outcome
        time.sleep(0.005)


class _Started:
    """A run of the tests that may be going on."""

    def __init__(self, tests: Tests, mutant: Mutant | None, slot: str) -> None:
        self.mutant = mutant
        scratch = tests.scratch / slot
        scratch.mkdir(parents=True, exist_ok=True)
        self._output = scratch / "output"
        self._deadline = time.monotonic() + _WALL_S
        self._pid = os.fork()
        if self._pid == 0:
            status = 70
            try:
                _redirect(self._output)
                limit = int(tests.limit_s) + 1
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
                status = _test(tests.files, scratch, mutant)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def outcome(self, *, wait: bool = False) -> Outcome | None:
        """Return what became of it; None where it goes on and nobody waits."""
        if time.monotonic() > self._deadline:
            os.kill(self._pid, signal.SIGKILL)
            wait = True
        ended, status, used = os.wait4(self._pid, 0 if wait else os.WNOHANG)
        if not ended:
            return None
        code, seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        if code == 0:
            return Outcome("survived", "", seconds)
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return Outcome("timeout", "", seconds)
        return Outcome("killed", _first_failure(self._output), seconds)


def _redirect(output: Path) -> None:
    opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(opened, 1)
    os.dup2(opened, 2)


def _test(tests: Sequence[Path], scratch: Path, mutant: Mutant | None) -> int:
    os.chdir(scratch)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ[SETTINGS] = str(scratch.parent / "kept")
    if mutant is not None:
        sys.meta_path.insert(0, _Finder(mutant))
    options = ["-x", "-q", "--tb=line", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options += [f"--rootdir={ROOT}", f"--basetemp={scratch / 'tmp'}", "--hypothesis-profile=mutation"]
    return int(pytest.main(["-c", str(ROOT / "pyproject.toml"), *options, *map(str, tests)]))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module, whose text is a mutant's."""

    def __init__(self, mutant: Mutant) -> None:
        self._name = mutant.file.removesuffix(".py").replace("/", ".")
        self._path, self._source = str(ROOT / mutant.file), mutant.source

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(
            fullname, self._path, loader=_Loader(fullname, self._path, self._source)
        )


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - as importlib calls it
        code: CodeType = compile(self._source, self.path, "exec", dont_inherit=True)
        return code


def _first_failure(output: Path) -> str:
    lines = list(_lines(output))
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return failed[0][:200] if failed else (lines[-1][:200] if lines else "")


def _lines(output: Path) -> Iterator[str]:
    return (line for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip())
