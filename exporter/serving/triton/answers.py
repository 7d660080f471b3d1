"""What Triton answers: read as data that a stranger wrote, checked before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field

Count = Annotated[int, Field(ge=0, lt=2**63)]


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
