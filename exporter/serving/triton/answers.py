"""What a server answers: read as data that a stranger wrote, checked before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError

SHOWN = 200
"""Most characters that a message repeats of what a server says."""

Count = Annotated[int, Field(ge=0, lt=2**63)]


class AnswerError(Exception):
    """A server refused, or its answer is not what Triton answers."""


@dataclass(frozen=True)
class Tensor:
    """An output as a server sends it.

    Attributes:
        datatype: Triton's name of it, ``"FP32"`` for example.
        shape: As stated: nothing says that it fits the data.
        data: Little-endian bytes.
    """

    datatype: str
    shape: Sequence[int]
    data: bytes

    def __str__(self) -> str:
        return f"{self.datatype} {list(self.shape)} in {len(self.data)} bytes"


class Parameter(BaseModel):
    """A value of a model's configuration."""

    string_value: str = ""


class Configuration(BaseModel):
    """A model's configuration, as far as it is looked at."""

    parameters: dict[str, Parameter] = {}


class VersionStatistics(BaseModel):
    """What a version of a model has done."""

    inference_count: Count
    execution_count: Count


class Statistics(BaseModel):
    """What a model has done, by version."""

    model_stats: list[VersionStatistics]


class OutputParameters(BaseModel):
    """Where an output's data is."""

    binary_data_size: Count


class Output(BaseModel):
    """An output of an inference. Its data follows the JSON text."""

    name: str
    datatype: str
    shape: list[Count]
    parameters: OutputParameters


class Inference(BaseModel):
    """The JSON text of an inference's answer."""

    outputs: list[Output]


class Refusal(BaseModel):
    """What Triton says when it refuses."""

    error: str


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], text: bytes) -> Model:
    """Return JSON as a model.

    Raises:
        AnswerError: It is no JSON, or another.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise AnswerError(
            f"the answer is not what Triton answers: {place + ': ' if place else ''}{first['msg']}; "
            f"it begins with {text[:40]!r}"
        ) from error


def shown(said: object) -> str:
    """Return the first line of what a server says: printable, and not longer than a sentence."""
    line = (str(said).strip() or "nothing").splitlines()[0]
    printable = "".join(letter if letter.isprintable() else "?" for letter in line[: SHOWN + 1])
    return printable if len(line) <= SHOWN else f"{printable[:SHOWN]}..."
