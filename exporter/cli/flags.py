"""Option names in a message of the library, written as the flags of the command that runs.

The library is also called from Python, so its messages name an option, not a flag, between backquotes: "choose another
`out`" or "use `device=cuda`". On the command line these read "choose another --out" and "use --device cuda".
"""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

from exporter.cli.completion import Completable
from exporter.cli.help import HelpPage
from exporter.errors import ExportError

_OPTION = re.compile(r"`([a-z]\w*)(?:=([^`\n]+))?`")


SIGNALLED = tuple(128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM))
"""Exit codes of a program that a signal ends, as shells have them."""


class Command(Completable, HelpPage, TyperCommand):
    """A command that prints an error of korsbert and exits with its exit code, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ExportError as error:
            print(f"error: {with_flags(str(error), self.flags)}", file=sys.stderr)  # noqa: T201
            raise typer.Exit(error.exit_code) from error
        except EOFError as error:  # typer would exit with 1, which means that a gate failed
            raise RuntimeError("a file or a stream ended too early") from error
        except SystemExit as stop:
            if stop.code in SIGNALLED:
                raise
            raise RuntimeError(f"something has ended the program with {stop.code!r}") from stop

    @property
    def flags(self) -> dict[str, str]:
        """The flag of each option of this command, by its name in Python; of one for yes or no also ``name=False``."""
        options = [param for param in self.params if param.param_type_name == "option"]
        no = {f"{param.name}=False": param.secondary_opts[0] for param in options if param.secondary_opts}
        return {**{str(param.name): param.opts[0] for param in options}, **no}


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Replace every `` `name` `` and `` `name=value` `` in a message by the flag of that option.

    An option whose values are flags of their own is replaced by the value's flag: `` `precision=int8` `` by ``--int8``,
    and `` `resume=False` `` by ``--no-resume``.
    What is no option of the command only loses its backquotes.

    Args:
        message: A message of the library.
        flags: Flag by option name, for example ``{"out": "--out"}``.
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if f"{name}={value}" in flags:
            return flags[f"{name}={value}"]
        if name in flags:
            return flags[name] if value is None else f"{flags[name]} {shlex.quote(value)}"
        return flags.get(value, found[0].strip("`"))

    return _OPTION.sub(flag, message)
