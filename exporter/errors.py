"""The errors korsbert raises on purpose.

Every message says what happened, where, and what to do next::

    ExportError                    exit code
     ├── RecipeError               2   a recipe that cannot be read or does not hold together
     ├── CheckpointError           2   a checkpoint that is absent, damaged or not what the recipe expects
     ├── HubError                  3   the hub cannot be reached, or refuses
     ├── UnsupportedModelError     2   a module, pooling or architecture that cannot be folded faithfully
     ├── MissingDependencyError    3   an extra or a device that this machine lacks
     ├── BuildError                2   an engine that cannot be built from this graph
     ├── EngineError               2   an engine that refuses what it is given to run
     ├── GateError                 1   a candidate that differs from the reference by more than its gate allows
     ├── BundleError               2   a bundle that is incomplete, altered or of another format
     ├── ServerError               3   a model server or a cluster that cannot be reached, or refuses
     └── InputError                2   a file or an option of the user's that cannot be used
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar


class ExportError(Exception):
    """The root of everything korsbert raises on purpose.

    Args:
        message: What went wrong and where, one clear sentence; detail on further lines. Control characters, which names
            in a stranger's file may have, are escaped: a terminal would obey them.
        next_step: What the user can do about it.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, next_step: str | None = None) -> None:
        self.message = printable_lines(message)
        super().__init__(self.message)
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next_step}" if self.next_step else self.message


class RecipeError(ExportError):
    """A recipe cannot be read or does not hold together."""


class CheckpointError(ExportError):
    """A checkpoint is absent, damaged, or is not what the recipe says it is."""


class HubError(ExportError):
    """The hub cannot be reached, or refuses what was asked of it."""

    exit_code = 3


class UnsupportedModelError(ExportError):
    """A module, pooling mode or architecture that cannot be folded faithfully."""


class MissingDependencyError(ExportError):
    """An optional package or a device is not there on this machine."""

    exit_code = 3


class BuildError(ExportError):
    """An engine cannot be built from this graph."""


class EngineError(ExportError):
    """An engine refuses what it is given to run, a sequence above its maximum for one."""


class GateError(ExportError):
    """A candidate differs from the reference by more than its gate allows.

    Attributes:
        report: The whole parity report as JSON data, for whoever wants to know which sentences and by how much.
    """

    exit_code = 1

    def __init__(self, message: str, *, report: Mapping[str, Any], next_step: str | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle makes it from: ``report`` has no place among the arguments of an ``Exception``."""
        return partial(type(self), report=self.report), (self.message,), self.__dict__


class BundleError(ExportError):
    """A bundle is incomplete, altered or of another format."""


class ServerError(ExportError):
    """A model server or a cluster cannot be reached, or refuses what was asked of it."""

    exit_code = 3


class InputError(ExportError):
    """A file or an option given by the user cannot be used."""


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of Rust code, as in tokenizers and safetensors.

    pyo3's ``PanicException`` is no ``Exception``, and no module has it for an ``except`` clause.
    """
    return type(error).__name__ == "PanicException"


def printable(text: str, most: int | None = None) -> str:
    """Return a text with its control characters escaped, line breaks too, and cut after ``most`` characters."""
    cut = text if most is None or len(text) <= most else f"{text[:most]}…"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)


def printable_lines(text: str) -> str:
    """Return a text with its control characters escaped, less its line breaks."""
    return "\n".join(printable(line) for line in text.split("\n"))


def without_credentials(url: str) -> str:
    """Return a URL for a message: without the user's name, the query and the fragment, which may hold a key."""
    return re.sub(r"([?#]).*", r"\1...", re.sub(r"(?<=://)[^/?#]*@", "***@", url), flags=re.DOTALL)


def quoted(value: object) -> str:
    """Return ``repr(value)`` for a message, cut after 80 characters: a stranger's file may hold anything."""
    return printable(repr(value), 80)


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says, for a message of ours; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def first_sentence(error: BaseException) -> str:
    """Return the beginning of what a library says, up to where it starts to advise."""
    return first_line(error).partition(". ")[0]
