"""What any server answers: data that a stranger wrote, shown and told within bounds."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

SHOWN = 200
"""Most characters that a message repeats of what a server says."""


class AnswerError(Exception):
    """A server refused, or its answer is not what such a server answers."""


class BrokenOffError(AnswerError):
    """The connection ended before the answer did."""


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], text: bytes, server: str) -> Model:
    """Return JSON as a model.

    Args:
        model: What it should be.
        text: The JSON.
        server: What kind of server should have written it, for the message.

    Raises:
        AnswerError: It is no JSON, or another.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise AnswerError(
            f"the answer is not what {server} answers: {place + ': ' if place else ''}{first['msg']}; "
            f"it begins with {text[:40]!r}"
        ) from error


def shown(said: object) -> str:
    """Return the first line of what a server says: printable, and not longer than a sentence."""
    line = (str(said).strip() or "nothing").splitlines()[0]
    printable = "".join(letter if letter.isprintable() else "?" for letter in line[: SHOWN + 1])
    return printable if len(line) <= SHOWN else f"{printable[:SHOWN]}..."
