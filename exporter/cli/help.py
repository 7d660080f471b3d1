"""Help pages as plain text: options in groups, examples at the end, and no word broken at 60 columns.

A group is what typer calls ``rich_help_panel``. Options without one come first.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

HELP_OPTIONS = {"help_option_names": ["--help", "-h"]}
"""Settings of a command whose help page both options show. The commands of a group take them from the group."""

Rows = Sequence[tuple[str, str]]
OUTPUT = "Output"
"""The group of what is printed. It comes last, with the option for help."""

_OPTIONS = "Options"
_INDENT = "  "
_WIDE = 76  # from this width on, the help of an option stands beside it, else below and indented less
_BESIDE, _BELOW = 30, 16  # columns of the names of options
_LEAST = 24  # columns of a help text


class HelpPage:
    """A command of click whose help page is written here. It is mixed into a class of typer."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page: usage, what the command does, arguments, options by group, commands, examples."""
        command: Any = self
        command.format_usage(ctx, formatter)
        formatter.write(f"\n{_filled(inspect.cleandoc(command.help or ''), formatter.width, _INDENT)}\n")
        for title, rows in {**_sections(command, ctx), **self.commands_by_group(ctx)}.items():
            formatter.write(f"\n{title}:\n{_table(rows, formatter.width)}")
        if command.epilog:
            formatter.write(f"\n{command.epilog}\n")

    def commands_by_group(self, ctx: Any) -> Mapping[str, Rows]:
        """Return the names and short texts of subcommands, by the title of their group."""
        del ctx
        return {}


def examples(*lines: str) -> str:
    """Return the end of a help page: command lines, which are also the lines of a code block in Markdown."""
    return "\n".join(("Examples:\n", *(f"    {line}" for line in lines)))


def _sections(command: Any, ctx: Any) -> dict[str, Rows]:
    """Return the arguments and options of a command by the title of their group, in the order of the page."""
    arguments: list[tuple[str, str]] = []
    options: dict[str, list[tuple[str, str]]] = {_OPTIONS: []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is None:
            continue
        if param.param_type_name == "argument":
            arguments.append(record)
        else:
            group = getattr(param, "rich_help_panel", None)
            if param.name == "help":
                group = OUTPUT if OUTPUT in options else None
            options.setdefault(group or _OPTIONS, []).append(record)
    options[OUTPUT] = options.pop(OUTPUT, [])
    return {title: rows for title, rows in {"Arguments": arguments, **options}.items() if rows}


def _table(rows: Rows, width: int) -> str:
    """Return names and texts in two columns. A name that is too long for the first stands on a line of its own."""
    names = min(max(len(name) for name, _ in rows), _BESIDE if width >= _WIDE else _BELOW) + len(_INDENT)
    lines: list[str] = []
    for name, text in rows:
        margin = " " * (len(_INDENT) + names)
        filled = _filled(text, max(width, len(margin) + _LEAST), margin)
        if len(name) + len(_INDENT) > names:
            lines += [f"{_INDENT}{name}", *([filled] if filled else [])]
        else:
            lines.append(f"{_INDENT}{name:<{names}}{filled[len(margin) :]}".rstrip())
    return "\n".join(lines) + "\n"


def _filled(text: str, width: int, margin: str) -> str:
    """Return paragraphs that are wrapped at spaces alone: an option's name has hyphens."""
    wrapped = textwrap.TextWrapper(
        width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False, break_long_words=False
    )
    return "\n\n".join(wrapped.fill(paragraph) for paragraph in text.split("\n\n"))
