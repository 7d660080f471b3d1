"""Whatever a command raises, its exit code means what the command line says it means: 1 is a gate or a check."""

from __future__ import annotations

import builtins
import errno
import io
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.cli.flags import Command
from exporter.cli.main import BUG, _run
from exporter.cli.output import CLOSED_PIPE
from exporter.errors import ExportError, GateError
from tests.support.fuzzing import CASES
from tests.support.process import run_program

OURS = [kind for kind in ExportError.__subclasses__() if kind is not GateError]


class PanicException(BaseException):
    """A panic of Rust code is no Exception, as in tokenizers and safetensors."""


def _makes_one(kind: Callable[[str], object]) -> bool:
    try:
        kind("x")
    except TypeError:
        return False
    return True


# A group of exceptions and Unicode errors want more than a message; what ends a process is drawn apart.
THEIRS: list[Callable[[str], BaseException]] = [
    PanicException,
    *(
        kind
        for kind in vars(builtins).values()
        if isinstance(kind, type)
        and issubclass(kind, BaseException)
        and not issubclass(kind, (SystemExit, KeyboardInterrupt))
        and _makes_one(kind)
    ),
]
OF_THE_SYSTEM = {errno.ENOSPC: 2, errno.EPIPE: CLOSED_PIPE}
RAISED = (
    st.integers(1, 130).map(lambda number: (OSError(number, "x"), OF_THE_SYSTEM.get(number, BUG)))
    | st.tuples(st.sampled_from(OURS), st.text(max_size=30)).map(lambda drawn: (drawn[0](drawn[1]), drawn[0].exit_code))
    | st.text(max_size=30).map(lambda text: (GateError(text, report={}), 1))
    | st.sampled_from([(KeyboardInterrupt(), 130), (SystemExit(143), 143), (typer.Exit(3), 3)])
    # A dependency that ends the program does not decide what korsbert's exit code means.
    | st.sampled_from([(SystemExit(code), BUG) for code in (None, 0, 1, 2, 3, "text")])
)


@pytest.fixture(autouse=True)
def arguments_and_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the command no arguments, and leave the handlers of signals as they were."""
    monkeypatch.setattr("sys.argv", ["korsbert"])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("kind", THEIRS, ids=lambda kind: str(kind.__name__))
def test_what_only_a_bug_or_a_dependency_raises_is_never_called_a_failed_gate(
    kind: Callable[[str], BaseException],
) -> None:
    ends(kind("x"), BUG)


@settings(max_examples=CASES, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RAISED)
def test_every_exit_code_means_what_it_says(raised: tuple[BaseException, int]) -> None:
    ends(*raised)


def ends(error: BaseException, status: int) -> None:
    """Raise an error in a command, and hold its end to what it should be."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(cls=Command)
    def command() -> None:
        raise error

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
        _run(app)
    code: Any = stop.value.code
    assert (code or 0) == status, repr(error)
    assert out.getvalue() == ""
    assert ("this is a bug in korsbert" in err.getvalue()) is (status == BUG)
    assert err.getvalue().startswith("error: ") is (isinstance(error, ExportError) or status == 2)


def test_python_looks_for_no_garbage_when_the_process_ends() -> None:
    """With torch imported, that would take more than a second."""
    ends = "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 1000)); "
    runs = "sys.argv = ['korsbert', '--version']; from exporter.cli import main; main()"
    done = run_program([sys.executable, "-c", ends + runs])
    assert done.stdout.splitlines()[-1] == "True"
