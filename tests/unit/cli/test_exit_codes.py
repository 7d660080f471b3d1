"""Whatever a command raises, its exit code means what the command line says it means: 1 is a gate or a check."""

from __future__ import annotations

import builtins
import errno
import io
import signal
from collections.abc import Iterator
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

OURS = [kind for kind in ExportError.__subclasses__() if kind is not GateError]


class PanicException(BaseException):
    """A panic of Rust code is no Exception, as in tokenizers and safetensors."""


def _makes_one(kind: type[BaseException]) -> bool:
    try:
        kind("x")
    except TypeError:
        return False
    return True


# A group of exceptions and Unicode errors want more than a message; what ends a process is drawn apart.
THEIRS = [
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
    st.tuples(st.sampled_from(THEIRS), st.text(max_size=30)).map(lambda drawn: (drawn[0](drawn[1]), BUG))
    | st.integers(1, 130).map(lambda number: (OSError(number, "x"), OF_THE_SYSTEM.get(number, BUG)))
    | st.tuples(st.sampled_from(OURS), st.text(max_size=30)).map(lambda drawn: (drawn[0](drawn[1]), drawn[0].exit_code))
    | st.text(max_size=30).map(lambda text: (GateError(text, report={}), 1))
    | st.sampled_from([(KeyboardInterrupt(), 130), (SystemExit(143), 143), (typer.Exit(3), 3)])
)


@pytest.fixture(autouse=True)
def handlers_of_signals() -> Iterator[None]:
    """Leave them as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@settings(max_examples=CASES, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RAISED)
def test_every_exit_code_means_what_it_says(monkeypatch: pytest.MonkeyPatch, raised: tuple[BaseException, int]) -> None:
    error, status = raised
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(cls=Command)
    def command() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["korsbert"])
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
        _run(app)
    code: Any = stop.value.code
    assert (code or 0) == status, repr(error)
    assert out.getvalue() == ""
    assert ("this is a bug in korsbert" in err.getvalue()) is (status == BUG)
    assert err.getvalue().startswith("error: ") is (isinstance(error, ExportError) or status == 2)
