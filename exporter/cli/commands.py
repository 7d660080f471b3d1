"""The table of commands. A command is imported on use, so that help and shell completion wait for no other."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from exporter.cli.completion import Completable
from exporter.cli.flags import Command
from exporter.cli.help import HELP_OPTIONS, HelpPage, examples


@dataclass(frozen=True)
class Entry:
    """One command.

    Attributes:
        function: Where its function is, ``module:function`` below ``exporter.cli``; ``module:function()`` where that
            returns it.
        short: What it does, in 38 characters: a terminal of 60 columns has room for no more.
        group: The title that it stands under in ``korsbert --help``.
        examples: Command lines for the end of its help page, 56 characters each.
    """

    function: str
    short: str
    group: str
    examples: tuple[str, ...]


_MAKE, _LOOK, _ENCODE, _COMPARE, _PUBLISH, _SERVE = (
    "Make a bundle",
    "Look at a bundle and check it",
    "Encode text",
    "Measure and compare",
    "Publish and sign",
    "Servers",
)

COMMANDS: dict[str, Entry] = {
    "export": Entry(
        "export:command()",
        "Export a checkpoint to a bundle.",
        _MAKE,
        (
            "korsbert export --model demo --fp16",
            "korsbert export --model ./my-model --pooling mean",
            "korsbert export --model owner/name --int8 --dry-run",
        ),
    ),
    "tune": Entry(
        "tune:command()",
        "Find the best engine for a machine.",
        _MAKE,
        (
            "korsbert tune --model demo",
            "korsbert tune --model owner/name --for latency",
            "korsbert tune --model demo --precisions fp16,int8",
        ),
    ),
    "list": Entry(
        "bundles:list_command",
        "List the built-in recipes.",
        _MAKE,
        ("korsbert list", "korsbert list --json"),
    ),
    "doctor": Entry(
        "doctor:doctor_command",
        "Say what can run on this machine.",
        _MAKE,
        ("korsbert doctor", "korsbert doctor --json"),
    ),
    "bundles": Entry(
        "listing:bundles_command",
        "List the bundles in a folder.",
        _LOOK,
        ("korsbert bundles", "korsbert bundles /srv/bundles --check"),
    ),
    "show": Entry(
        "bundles:show_command",
        "Show what a bundle contains.",
        _LOOK,
        ("korsbert show artifacts/demo/fp16-onnxruntime", "korsbert show owner/name@v1 --json"),
    ),
    "validate": Entry(
        "bundles:validate_command",
        "Repeat the gate of a bundle here.",
        _LOOK,
        (
            "korsbert validate artifacts/demo/fp16-onnxruntime",
            "korsbert validate bundle --golden model.golden",
            "korsbert validate bundle --junit parity.xml -q",
        ),
    ),
    "golden": Entry(
        "golden:golden_command",
        "Keep a checkpoint's answers in a file.",
        _LOOK,
        ("korsbert golden demo --out demo.golden", "korsbert golden owner/name --out model.golden"),
    ),
    "encode": Entry(
        "encode:encode_command",
        "Encode lines of text.",
        _ENCODE,
        (
            "korsbert encode bundle sentences.txt --out v.npy",
            "korsbert encode bundle < sentences.txt > vectors.jsonl",
        ),
    ),
    "embed": Entry(
        "embed:command()",
        "Encode a dataset to Parquet.",
        _ENCODE,
        (
            "korsbert embed bundle 'texts/*.parquet' --out out",
            "korsbert embed bundle in.jsonl --out out --dry-run",
            "korsbert embed bundle in.csv --out s3://bucket/out",
        ),
    ),
    "bench": Entry(
        "bench:bench_command",
        "Measure the speed of a bundle.",
        _COMPARE,
        (
            "korsbert bench artifacts/demo/fp16-onnxruntime",
            "korsbert bench bundle --against torch --threads 4",
        ),
    ),
    "compare": Entry(
        "compare:compare_command",
        "Compare two bundles, servers or files.",
        _COMPARE,
        (
            "korsbert compare old-bundle new-bundle",
            "korsbert compare bundle http://localhost:8080 --api tei",
        ),
    ),
    "push": Entry(
        "hub:push_command",
        "Push a bundle to the hub.",
        _PUBLISH,
        ("korsbert push bundle owner/name --dry-run", "korsbert push bundle owner/name --private"),
    ),
    "sign": Entry(
        "signing:sign_command",
        "Sign a bundle or a golden file.",
        _PUBLISH,
        ("korsbert sign bundle --private-key key.pem", "korsbert sign model.golden --private-key key.pem"),
    ),
    "verify-signature": Entry(
        "signing:verify_signature_command",
        "Verify a signature.",
        _PUBLISH,
        (
            "korsbert verify-signature bundle --public-key k.pem",
            "korsbert verify-signature bundle \\\n        --certificate-chain root.pem",
        ),
    ),
    "ship": Entry(
        "triton:ship_command",
        "Write a model repository for Triton.",
        _SERVE,
        (
            "korsbert ship bundle --repository models",
            "korsbert ship bundle --repository models --gpus 0,1",
        ),
    ),
    "check": Entry(
        "triton:check_command",
        "Check a model repository of Triton.",
        _SERVE,
        ("korsbert check models", "korsbert check models --json"),
    ),
    "verify": Entry(
        "verify:verify_command",
        "Compare a running server.",
        _SERVE,
        (
            "korsbert verify http://localhost:8000 bundle",
            "korsbert verify http://localhost:8080 bundle --api tei",
            "korsbert verify https://host --api openai \\\n        --golden model.golden --key-env API_KEY",
        ),
    ),
}


def load(name: str, *, stands_alone: bool = False) -> TyperCommand:
    """Import a command and return it as click runs it.

    Args:
        name: One of ``COMMANDS``.
        stands_alone: Whether it is a program of its own, whose completion a shell can install.
    """
    entry = COMMANDS[name]
    module, _, function = entry.function.partition(":")
    found: Any = getattr(importlib.import_module(f"exporter.cli.{module}"), function.removesuffix("()"))
    app = typer.Typer(add_completion=stands_alone, pretty_exceptions_enable=False, rich_markup_mode=None)
    settings: Any = {"context_settings": HELP_OPTIONS, "short_help": entry.short, "epilog": examples(*entry.examples)}
    app.command(name, cls=Command, **settings)(found() if function.endswith("()") else found)
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    return command


class _OnUse(Mapping[str, TyperCommand]):
    """The commands by name, each imported when it is asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, TyperCommand] = {}

    def __getitem__(self, name: str) -> TyperCommand:
        if name not in self._loaded:
            if name not in COMMANDS:
                raise KeyError(name)
            self._loaded[name] = load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class Commands(Completable, HelpPage, TyperGroup):
    """``korsbert``: a group whose commands are those of the table."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast(Any, _OnUse())  # typer only reads it
        self._only_names = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; while names are completed, one that has a name and a short text and nothing else."""
        if self._only_names:
            return TyperCommand(cmd_name, short_help=COMMANDS[cmd_name].short)
        return super().get_command(ctx, cmd_name)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the completions of a command's name, without importing the commands."""
        self._only_names = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._only_names = False

    def commands_by_group(self, ctx: Any) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return the names and short texts of the commands, by the title of their group."""
        del ctx
        groups = dict.fromkeys(entry.group for entry in COMMANDS.values())
        return {
            group: [(name, entry.short) for name, entry in COMMANDS.items() if entry.group == group] for group in groups
        }
