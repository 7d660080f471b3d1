"""The ``korsbert`` command: its subcommands and its exit codes.

Each command parses its arguments, calls one function of the library and prints the result. Results go to stdout,
progress goes to stderr. With ``--json``, stdout holds a single JSON object.

Exit codes: 0 success; 1 a gate or check failed; 2 bad input or usage; 3 a package, a device, the hub or a server is not
available; 70 a bug in korsbert; 129, 130, 141 and 143 on SIGHUP, SIGINT, SIGPIPE and SIGTERM.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer

from exporter.cli.commands import Commands, load
from exporter.cli.help import HELP_OPTIONS, examples
from exporter.cli.interruption import print_interrupted
from exporter.cli.output import CLOSED_PIPE

BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT

app = typer.Typer(
    cls=Commands,
    name="korsbert",
    help="Export a sentence-transformers checkpoint to a serving bundle that is proven equal to it.",
    epilog=examples(
        "korsbert export --model demo --fp16",
        "korsbert COMMAND --help",
        "korsbert --install-completion",
    ),
    no_args_is_help=True,
    context_settings=HELP_OPTIONS,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"korsbert {version('korsbert')}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _korsbert(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def _run(command: Callable[[], Any]) -> None:
    """Run a Typer app and exit with the exit code of this project."""
    _open_closed_streams()
    _exit_on_signals()
    atexit.register(gc.freeze)  # Python's last search for garbage takes more than a second where torch was imported
    try:
        command()
    except SystemExit as stop:
        # If stdout is a closed pipe (`| head`), typer exits with 1, which is the exit code of a failed gate.
        gone = type(sys.stdout).__name__ == "PacifyFlushWrapper"
        if stop.code == INTERRUPTED:
            print_interrupted(stop)
        sys.exit(CLOSED_PIPE if gone and stop.code == 1 else stop.code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    # Python would exit with 1, which means that a gate failed. A panic of Rust code is no Exception.
    except BaseException as error:  # noqa: BLE001
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            with suppress(OSError):  # stderr may be what is full
                print("error: the output cannot be written: the disk is full", file=sys.stderr)  # noqa: T201
            sys.exit(2)
        with suppress(OSError):
            traceback.print_exc()
            print("error: this is a bug in korsbert, please report it with the lines above", file=sys.stderr)  # noqa: T201
        sys.exit(BUG)


def _open_closed_streams() -> None:
    """Give standard streams that the caller has closed (``>&-``) a place: a write to them must not fail."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - for the whole process


def _exit_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the process as an exception does, so that staging folders and locks are removed."""

    def stop(number: int, _frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGHUP):  # a second one must not interrupt the removal
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, stop)


def main() -> None:
    """Entry point of ``korsbert``."""
    _run(app)


def export_main() -> None:
    """Entry point of ``korsbert-export``, which is ``korsbert export``."""
    _run(load("export", stands_alone=True))
