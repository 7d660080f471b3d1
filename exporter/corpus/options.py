"""What a bulk embedding is asked for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field, field_validator

from exporter.options import Options
from exporter.runtime.contract import VectorType


class OnError(StrEnum):
    """What is done with a row whose text cannot be encoded."""

    FAIL = "fail"
    RECORD = "record"


class EmbedEngine(StrEnum):
    """Who makes the parts of an output."""

    LOCAL = "local"
    RAY = "ray"


class EmbedOptions(Options):
    """How to embed a dataset. ``EmbedOptions.of`` raises an ``InputError`` instead of pydantic's error."""

    column: str = Field(default="text", description="Column of the texts.")
    id: str | None = Field(default=None, description="Column that identifies a row. It is the first of the output.")
    keep: tuple[str, ...] = Field(default=(), description="Another column that the output has too.")
    prompt_name: str | None = Field(
        default=None,
        description="Put the model's prompt of this name before every text (default: the one for documents, if any).",
    )
    dtype: VectorType = Field(default="float32", description="Type of the vectors.")
    truncate_dim: int | None = Field(default=None, ge=1, description="Keep the first dimensions only.")
    normalize: bool = Field(default=False, description="Scale every vector to length 1, after it is truncated.")
    rows_per_part: int = Field(default=65_536, ge=1, description="Rows of a part, at most.")
    on_error: OnError = Field(
        default=OnError.FAIL,
        description="Stop at a text that cannot be encoded, or record it: a null vector and the reason.",
    )
    resume: bool = Field(default=True, description="Go on where an earlier run ended.")
    dry_run: bool = Field(default=False, description="Only count rows and parts, and say what is left to do.")
    batch_size: int = Field(default=32, ge=1, description="Rows per batch, at most.")
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads of a worker (default: the cores, divided by the workers of a machine).",
    )
    engine: EmbedEngine = Field(
        default=EmbedEngine.LOCAL, description="One process on this machine, or workers on a Ray cluster."
    )
    address: str | None = Field(
        default=None,
        description="The Ray cluster, HOST:PORT or auto (default: the one of this machine, and if there is none, one "
        "is started and stopped again).",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Workers on the Ray cluster (default: as many as it has room for, now and later).",
    )
    stall_timeout: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="Seconds after which a worker on the Ray cluster that has made no progress is ended. Another one "
        "then makes its part.",
    )
    require_signature: Path | None = Field(default=None, description="Refuse the bundle unless it is signed by this.")

    @field_validator("keep", mode="before")
    @classmethod
    def _one_column_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns that the output has too, the id first where there is one."""
        return tuple(dict.fromkeys((*(() if self.id is None else (self.id,)), *self.keep)))
